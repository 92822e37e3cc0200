"""The k best passages are found, and a corpus that is kept is the corpus."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.inference import index as indexing
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.inference.index import Index, fingerprints, top_k
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

# Most texts here are longer than what is kept of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")
CORPUS = dict(zip(["river", "bread\n[1]", "moon"], TEXTS, strict=True)) | {"": "\u2028"}


def naive(query: np.ndarray, passage: np.ndarray, k: int) -> tuple[Any, Any]:
    scores = query.astype(np.float64) @ passage.T.astype(np.float64)
    at = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equal ones the first
    return np.take_along_axis(scores, at, 1), at


def check(query: Any, passage: Any, k: int, **options: Any) -> None:
    scores, at = top_k(query, passage, k, **options)
    expected, expected_at = naive(np.asarray(query), np.asarray(passage), k)
    assert (scores.dtype, at.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(at, expected_at)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@functools.cache
def vectors(count: int, seed: int, values: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if values is None:
        return rng.standard_normal((count, 8), np.float32)
    # Small integers: sums are exact, so equal scores are equal in any order.
    return rng.integers(-values, values + 1, (count, 8)).astype(np.float32)


@pytest.mark.parametrize("values", [None, 1])
@pytest.mark.parametrize("tile", [7, 64, 500, 10_000])
def test_equals_a_sort(tile: int, values: int | None) -> None:
    check(vectors(5, 0, values), vectors(500, 1, values), 20, tile=tile)


def test_default_tile() -> None:
    check(vectors(3, 0, 1), vectors(20_000, 1, 1), 100)


def test_ties_take_the_lower_number() -> None:
    passage = np.ones((50, 4), np.float32)
    scores, at = top_k(np.ones((1, 4), np.float32), passage, 12, tile=5)
    assert at.tolist() == [list(range(12))]
    assert scores.tolist() == [[4.0] * 12]


def test_both_zeros_are_equal() -> None:
    passage = np.array([[-1.0], [-1.0], [1.0]], np.float32)  # -0, -0 and 0
    scores, at = top_k(np.zeros((1, 1), np.float32), passage, 3)
    assert at.tolist() == [[0, 1, 2]]
    assert not np.signbit(scores).any()


def test_negative_scores_beat_what_fills_a_tile() -> None:
    scores, at = top_k(-np.ones((1, 2)), np.ones((5, 2)), 5, tile=4)
    assert at.tolist() == [[0, 1, 2, 3, 4]]
    assert scores.tolist() == [[-2.0] * 5]


@pytest.mark.parametrize(
    ("queries", "passages", "k"), [(3, 4, 9), (2, 1, 5), (1, 7, 7)]
)
def test_k_beyond_the_corpus(queries: int, passages: int, k: int) -> None:
    query, passage = vectors(queries, 0), vectors(passages, 1)
    assert top_k(query, passage, k)[1].shape == (queries, min(k, passages))
    check(query, passage, k, tile=3)


@pytest.mark.parametrize(("queries", "passages"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_search(queries: int, passages: int) -> None:
    scores, at = top_k(np.ones((queries, 2)), np.ones((passages, 2)), 3)
    assert scores.shape == at.shape == (queries, min(3, passages))


def test_more_queries_than_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    merge = indexing._merge

    def record(best: Any, query: Any, passage: Any, *rest: Any) -> Any:
        shapes.add((len(query), len(passage)))
        return merge(best, query, passage, *rest)

    monkeypatch.setattr(indexing, "_merge", record)
    check(vectors(300, 0), vectors(500, 1), 10, tile=200)
    assert shapes == {(256, 200)}  # so memory does not grow with either side


def test_arrays_of_any_kind(tmp_path: Path) -> None:
    query, passage = vectors(3, 0, 1), vectors(90, 1, 1)
    np.save(tmp_path / "passage.npy", passage)
    mapped = np.load(tmp_path / "passage.npy", mmap_mode="r")
    check(query, mapped, 4, tile=40)
    check(jnp.asarray(query), jnp.asarray(passage), 4, tile=40)


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (0, {}, "k: expected a positive number, found 0"),
        (1, {"tile": 0}, "tile: expected a positive number, found 0"),
    ],
)
def test_top_k_refuses(k: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        top_k(np.ones((1, 2)), np.ones((1, 2)), k, **options)
    with pytest.raises(
        InputError, match="passages of width 2, as the queries, found 3"
    ):
        top_k(np.ones((1, 2)), np.ones((1, 3)), 1)


@functools.cache
def embedder() -> Embedder:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size))
    params = init(module, jax.random.key(0))
    return Embedder(module, params, tokenizer, Prompts("query: ", "passage: "), 32)


def dense(encoded: Encoded) -> np.ndarray:
    assert encoded.dense is not None
    return encoded.dense


def test_an_index_finds_the_passage_itself() -> None:
    index = Index.build(embedder(), CORPUS)
    assert index.ids == tuple(CORPUS)
    assert index.texts == tuple(CORPUS.values())
    query = embedder().encode_passage(TEXTS[1:])
    found = index.search(query, k=2)
    assert [row[0][0] for row in found] == ["bread\n[1]", "moon"]
    scores = dense(query) @ dense(index.encoded).T
    for row, expected in zip(found, scores.tolist(), strict=True):
        best = sorted(expected, reverse=True)[:2]
        assert [score for _, score in row] == pytest.approx(best, abs=1e-6)
    assert len(index.search(query, k=9)[1]) == len(CORPUS)
    with pytest.raises(InputError, match="expected dense embeddings, found none"):
        index.search(Encoded())


def test_saved_and_opened(tmp_path: Path) -> None:
    index = Index.build(embedder(), CORPUS)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert opened.ids == index.ids
    assert opened.texts == index.texts
    assert opened.about == index.about == fingerprints(embedder(), CORPUS)
    assert isinstance(opened.encoded.dense, np.memmap)
    np.testing.assert_array_equal(dense(opened.encoded), dense(index.encoded))
    names = sorted(file.name for file in (tmp_path / "index").iterdir())
    assert names == ["dense.npy", "meta.json", "passages.jsonl"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found 'thesis.tex' in it"):
        Index.build(embedder(), CORPUS).save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("passages.jsonl", None, "passages.jsonl: expected a file, found nothing"),
        (
            "passages.jsonl",
            '{"_id": "a", "text": "b"}\n',
            "1 embeddings, one a passage",
        ),
        ("passages.jsonl", '{"_id": "a"}\n', "passages.jsonl: expected the key 'text'"),
        ("passages.jsonl", '{"_id', "passages.jsonl:1: expected a line of JSON"),
        ("meta.json", None, "meta.json: expected a file, found none"),
        ("meta.json", "{", "meta.json: expected JSON"),
        ("dense.npy", None, "dense.npy: expected an array of embeddings, found none"),
    ],
)
def test_damaged(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    Index.build(embedder(), CORPUS).save(tmp_path / "index")
    path = tmp_path / "index" / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=message):
        Index.open(tmp_path / "index")


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ({"a": 1}, r"corpus texts\[0\]: expected a string, found int"),
        ({"a": "b", 2: "c"}, r"corpus ids\[1\]: expected a string, found int"),
    ],
)
def test_build_refuses(corpus: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.build(embedder(), corpus)


def test_fingerprints_tell_what_changed(tmp_path: Path) -> None:
    first = fingerprints(embedder(), CORPUS)
    assert set(first) == {"model", "corpus", "max_length"}
    json.dumps(first)
    assert first["max_length"] == 32

    def changed(corpus: dict[str, str] = CORPUS, **fields: Any) -> set[str]:
        other = fingerprints(dataclasses.replace(embedder(), **fields), corpus)
        return {key for key in first if first[key] != other[key]}

    assert changed() == set()
    embedder().encode_query(["sea"], max_length=7)  # which the tokenizer remembers
    assert changed() == set()
    assert changed(prompts=Prompts("other", "passage: ")) == set()
    assert changed(prompts=Prompts("query: ", "other")) == {"model"}
    assert changed(max_length=31) == {"max_length"}
    assert changed(tokenizer=tiny_tokenizer(TEXTS[1:])) == {"model"}
    config = embedder().module.config
    pooled = EmbeddingModule(dataclasses.replace(config, pooling="cls"))
    assert changed(module=pooled) == {"model"}
    leaves, structure = jax.tree.flatten(embedder().params)
    for i, leaf in enumerate(leaves):
        other = [*leaves[:i], leaf.at[(-1,) * leaf.ndim].add(1e-6), *leaves[i + 1 :]]
        assert changed(params=jax.tree.unflatten(structure, other)) == {"model"}
    assert changed(dict(reversed(CORPUS.items()))) == {"corpus"}
    assert changed({**CORPUS, "moon": "another"}) == {"corpus"}
    assert changed({**CORPUS, "more": "another"}) == {"corpus"}

    embedder().save(tmp_path / "model")
    loaded = [Embedder.load(tmp_path / "model") for _ in range(2)]
    assert fingerprints(loaded[0], CORPUS) == fingerprints(loaded[1], CORPUS)
