"""What Pyserini reads gives the sparse score, up to the rounding of weights."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import scores
from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded
from m3jax.inference.impact import PASSAGES, SCALE, write_passages, write_queries
from m3jax.inference.sparse_rows import SparseRows

VOCAB = 40


def rows(*texts: dict[int, float]) -> Encoded:
    ids = [token for text in texts for token in text]
    weights = [weight for text in texts for weight in text.values()]
    offsets = np.cumsum([0, *map(len, texts)])
    return Encoded(sparse=SparseRows.from_flat(ids, weights, offsets, VOCAB))


def random(seed: int, count: int) -> Encoded:
    rng = np.random.default_rng(seed)
    texts = []
    for length in rng.integers(0, 15, count).tolist():
        tokens = rng.choice(VOCAB, length, replace=False).tolist()
        texts.append(dict(zip(tokens, rng.exponential(0.3, length), strict=True)))
    return rows(*texts)


def read_passages(folder: Path) -> dict[str, Counter[str]]:
    """As Anserini's JsonVectorCollection: a token as often as its number says."""
    lines = (folder / PASSAGES).read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert all(list(row) == ["id", "contents", "vector"] for row in found)
    assert all(row["contents"] == "" for row in found)
    return {
        row["id"]: Counter(
            " ".join(f"{t} " * n for t, n in row["vector"].items()).split()
        )
        for row in found
    }


def read_queries(path: Path) -> dict[str, Counter[str]]:
    """As Pyserini: an id, a tab, and tokens that are counted."""
    pairs = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(text.strip() for _, text in pairs)
    return {name: Counter(text.strip().split()) for name, text in pairs}


def test_hand_values(tmp_path: Path) -> None:
    # 0.07 times 100 is above 7 in float64, where ceil would make it 8.
    texts = rows({3: 0.07, 30: 1.0, 4: 0.001}, {}, {5: 2.345})
    write_passages(tmp_path / "c", [(["a", "b", "c"], texts)])
    assert (tmp_path / "c" / PASSAGES).read_text() == (
        '{"id": "a", "contents": "", "vector": {"3": 7, "4": 1, "30": 100}}\n'
        '{"id": "b", "contents": "", "vector": {}}\n'
        '{"id": "c", "contents": "", "vector": {"5": 235}}\n'
    )
    write_queries(
        tmp_path / "q.tsv", ["1", "x", "2"], rows({3: 0.02, 9: 0.021}, {}, {})
    )
    lines = (tmp_path / "q.tsv").read_text(encoding="utf-8")
    assert lines == "1\t3 3 9 9 9\nx\t\ue000\n2\t\ue000\n"


@pytest.mark.parametrize("token", [str, lambda i: f"▁{chr(0x4E00 + i)}"])
@pytest.mark.parametrize("part", [1, 7, 100])
def test_scores_are_those_of_sparse(tmp_path: Path, part: int, token: Any) -> None:
    passages, queries = random(0, 50), random(1, 9)
    names = [f"p{i}" for i in range(50)]
    parts = [(names[i : i + part], passages[i : i + part]) for i in range(0, 50, part)]
    write_passages(tmp_path / "c", iter(parts), token=token)
    topics = [f"q{i}" for i in range(9)]
    write_queries(tmp_path / "q.tsv", topics, queries, token=token)
    index, asked = read_passages(tmp_path / "c"), read_queries(tmp_path / "q.tsv")
    assert list(index) == names and list(asked) == topics
    found = np.array(
        [
            [
                sum(n * passage[word] for word, n in query.items())
                for passage in index.values()
            ]
            for query in asked.values()
        ]
    )
    exact = scores.sparse(queries, passages).astype(np.float64) * SCALE**2
    # (100 q + 1) (100 p + 1), summed over the tokens that both have
    assert queries.sparse is not None and passages.sparse is not None
    q, p = queries.sparse.matrix.toarray(), passages.sparse.matrix.toarray()
    shared = (q > 0) @ (p > 0).T.astype(int)
    more = SCALE * (q @ (p > 0).T + (q > 0) @ p.T) + shared
    assert (found >= exact - 1e-2).all() and (found <= exact + more + 1e-2).all()
    assert ((found > 0) == (exact > 0)).all() and (found > exact + 1).any()


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "c"

    def parts() -> Any:
        yield ["a"], rows({1: 1.0})
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_passages(folder, parts())
    assert list(tmp_path.iterdir()) == []
    write_passages(folder, [(["a"], rows({1: 1.0}))])
    write_passages(folder, [(["b"], rows({2: 1.0}))])
    assert read_passages(folder) == {"b": Counter({"2": 100})}
    (folder / "notes").touch()
    with pytest.raises(InputError, match="'notes' in it"):
        write_passages(folder, [(["b"], rows({2: 1.0}))])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "expected a new id for each passage, found no passage"),
        (["a", "b", "a", "c", "b", "a"], "found 2 again: 'a', 'b'$"),
        (["a", "b c"], "ids: expected an id without spaces, found 'b c'"),
        (["a", ""], "ids: expected an id without spaces, found ''"),
    ],
)
def test_bad_ids(tmp_path: Path, ids: list[str], message: str) -> None:
    texts = rows(*[{1: 1.0}] * len(ids))
    parts = [([name], texts[i : i + 1]) for i, name in enumerate(ids)]
    with pytest.raises(InputError, match=message):
        write_passages(tmp_path / "c", parts)
    with pytest.raises(InputError, match=message.replace("passage", "query")):
        write_queries(tmp_path / "q.tsv", ids, texts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["007", "+7"])
def test_ids_that_pyserini_reads_as_numbers(tmp_path: Path, name: str) -> None:
    path, texts = tmp_path / "q.tsv", rows({1: 1.0}, {1: 1.0})
    with pytest.raises(InputError, match=r"expected the id 7, as Pyserini reads it"):
        write_queries(path, ["-8", name], texts)
    write_queries(path, ["a8", name], texts)
    write_queries(path, ["-8", "7"], texts)
    assert list(read_queries(path)) == ["-8", "7"]


def test_refusals(tmp_path: Path) -> None:
    texts, dense = rows({1: 1.0, 2: 1.0}), Encoded(np.ones((1, 2), np.float32))
    for wrong, message in (
        ((["a"], dense), "expected sparse embeddings, found none"),
        ((["a", "b"], texts), "expected 1 ids, one a text, found 2"),
    ):
        with pytest.raises(InputError, match=message):
            write_passages(tmp_path / "c", [wrong])
        with pytest.raises(InputError, match=message):
            write_queries(tmp_path / "q.tsv", *wrong)
    with pytest.raises(InputError, match=r"ends in \.tsv.*found 'q.txt'"):
        write_queries(tmp_path / "q.txt", ["a"], texts)
    for names, message in (
        ({1: "a", 2: "a"}, "token: expected another name for each token"),
        (
            {1: "a", 2: "b c"},
            r"token\(2\): expected a name without spaces, found 'b c'",
        ),
    ):
        with pytest.raises(InputError, match=message):
            write_passages(tmp_path / "c", [(["a"], texts)], token=names.__getitem__)
        with pytest.raises(InputError, match=message):
            write_queries(tmp_path / "q.tsv", ["a"], texts, token=names.__getitem__)
    assert list(tmp_path.iterdir()) == []
