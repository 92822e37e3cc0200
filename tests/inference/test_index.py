"""A corpus that is kept is the corpus: searched by every head, grown, and opened."""

import dataclasses
import errno
import fcntl
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.inference import index_folder, manifest, scores
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.inference.explain import explain
from m3jax.inference.index import Index
from m3jax.inference.segment import Segment
from m3jax.inference.strings import Strings
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

# Most texts here are longer than what is kept of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")
WORDS = " ".join(TEXTS).replace(",", "").split()
HEADS = ("dense", "sparse", "multivec")


@functools.cache
def embedder(seed: int = 0, *, heads: bool = True) -> Embedder:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.vocab_size, layers=1)
    if heads:
        config = dataclasses.replace(
            config, sparse=True, multivec=8, special_ids=tokenizer.special_ids
        )
    module = EmbeddingModule(config)
    params = init(module, jax.random.key(seed))
    return Embedder(module, params, tokenizer, Prompts("query: ", "passage: "), 32)


@functools.cache
def corpus(count: int = 40) -> dict[str, str]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, count)
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    texts[7] = texts[21] = texts[3]
    return {f"p{i}\n[1]": text for i, text in enumerate(texts)} | {"": "\u2028"}


@functools.cache
def built() -> Index:
    return Index.build(embedder(), corpus(), segment_size=17)


@functools.cache
def encoded() -> tuple[Encoded, Encoded]:
    """Queries and the whole corpus."""
    query = embedder().encode_query(
        ["the sea", "bread and salt", "a river"], outputs=HEADS
    )
    return query, embedder().encode_passage(list(corpus().values()), outputs=HEADS)


def naive(found: np.ndarray, k: int) -> list[list[tuple[str, float]]]:
    names = list(corpus())
    order = np.argsort(-found, axis=1, kind="stable")[:, :k]
    return [
        [(names[i], float(row[i])) for i in at]
        for row, at in zip(found, order.tolist(), strict=True)
    ]


def same(found: Any, expected: Any) -> None:
    assert [[name for name, _ in row] for row in found] == [
        [name for name, _ in row] for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        assert [x for _, x in row] == pytest.approx([x for _, x in other], abs=1e-5)


@pytest.mark.parametrize("k", [1, 10, 41])
@pytest.mark.parametrize("mode", [*HEADS, "dense+sparse", "hybrid"])
def test_every_mode_is_exact_where_all_are_candidates(mode: str, k: int) -> None:
    query, passage = encoded()
    weights = (1.0, 0.3, 1.0 if mode == "hybrid" else 0.0)
    whole = (
        getattr(scores, mode)(query, passage)
        if mode in HEADS
        else scores.hybrid(query, passage, weights=weights)
    )
    found = built().search(query, k=k, mode=mode, rescored=41)
    if mode == "sparse":  # without passages that share no token
        expected = [[(n, x) for n, x in row if x > 0] for row in naive(whole, k)]
    else:
        expected = naive(whole, k)
    same(found, expected)


def test_without_a_mode_it_is_what_both_sides_have() -> None:
    query, _ = encoded()
    same(built().search(query), built().search(query, mode="hybrid"))
    dense = Encoded(query.dense)
    same(built().search(dense), built().search(query, mode="dense"))
    two = Encoded(query.dense, query.sparse)
    same(built().search(two), built().search(query, mode="dense+sparse"))
    with pytest.raises(
        InputError, match="query: expected dense embeddings, found none"
    ):
        built().search(Encoded())


def test_multivec_orders_what_dense_finds_or_everything() -> None:
    query, passage = encoded()
    first = built().search(query, k=5, mode="dense")
    whole = naive(scores.multivec(query, passage), 41)
    found = built().search(query, k=5, mode="multivec", rescored=5)
    for row, own, all_ in zip(found, first, whole, strict=True):
        names = {name for name, _ in own}
        same([row], [[(name, x) for name, x in all_ if name in names]])
    same(
        built().search(query, k=5, mode="multivec", rescored=None),
        [row[:5] for row in whole],
    )


def test_a_mixture_orders_what_dense_and_sparse_find() -> None:
    query, passage = encoded()
    weights = (0.2, 0.5, 0.3)
    sides = [built().search(query, k=4, mode=mode) for mode in ("dense", "sparse")]
    whole = naive(scores.hybrid(query, passage, weights=weights), 41)
    found = built().search(query, k=8, weights=weights, rescored=4)
    for number, row in enumerate(found):
        names = {name for side in sides for name, _ in side[number]}
        same([row], [[one for one in whole[number] if one[0] in names][:8]])


def test_reciprocal_ranks() -> None:
    query, _ = encoded()
    rankings = [built().search(query, k=9, mode=m, rescored=9) for m in HEADS]
    found = built().search(query, k=6, mode="rrf", rescored=9)
    names = list(corpus())
    for number, row in enumerate(found):
        total: dict[str, float] = {}
        for ranking in rankings:
            for rank, (name, _) in enumerate(ranking[number], 1):
                total[name] = total.get(name, 0) + 1 / (60 + rank)
        best = sorted(total, key=lambda name: (-total[name], names.index(name)))[:6]
        same([row], [[(name, total[name]) for name in best]])


def test_segments_change_nothing() -> None:
    query, _ = encoded()
    one = Index.build(embedder(), corpus())
    assert (len(one.segments), len(built().segments)) == (1, 3)
    for mode in one.modes:
        same(one.search(query, mode=mode), built().search(query, mode=mode))
    assert [one.passage(i) for i in range(len(one))] == list(corpus().items())
    assert [built().passage(i) for i in range(41)] == list(corpus().items())
    with pytest.raises(IndexError, match="passage 41 of 41"):
        built().passage(41)


def test_why() -> None:
    query, passage = encoded()
    first, text = query[:1], "query: the sea"
    for at in (0, 16, 17, 40):
        why = explain(embedder(), built(), text, first, at)
        assert list(why.scores) == list(HEADS)
        for head, score in why.scores.items():
            expected = getattr(scores, head)(first, passage[[at]])[0, 0]
            assert score == pytest.approx(float(expected), abs=1e-5)
        total = sum(match.score for match in why.sparse)
        assert total == pytest.approx(why.scores["sparse"], abs=1e-5)
        assert all(match.query == match.passage for match in why.sparse)
        best = [match.score for match in why.multivec]
        assert best == sorted(best, reverse=True)
    found = explain(embedder(), built(), text, first, 0)
    backend = embedder().tokenizer.backend
    first_text = "passage: " + next(iter(corpus().values()))
    own, names = (backend.encode(one).ids[1:] for one in (text, first_text))
    products = first.multivec[0] @ passage.multivec[0].T  # type: ignore[index]
    pairs = [(own[i], names[j]) for i, j in enumerate(products.argmax(axis=1))]
    # What ends a text is no word of it.
    special = {*embedder().tokenizer.special_ids}
    words = [pair for pair in pairs if not special & {*pair}]
    assert len(words) < len(pairs)
    expected = sorted(
        tuple(str(backend.id_to_token(i)).strip("\u2581") or "\u2423" for i in pair)
        for pair in words
    )
    listed = sorted((match.query, match.passage) for match in found.multivec)
    assert listed == expected
    dense = explain(embedder(), built(), text, Encoded(first.dense), 0)
    assert (list(dense.scores), dense.sparse, dense.multivec) == (["dense"], (), ())


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_saved_and_opened(tmp_path: Path, storage: Any) -> None:
    query, _ = encoded()
    index = Index.build(embedder(), corpus(), storage=storage, segment_size=30)
    index.save(tmp_path / "index")
    index.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert opened.about == index.about
    assert [opened.passage(i) for i in range(41)] == list(corpus().items())
    assert isinstance(opened.segments[0].dense.values, np.memmap)  # type: ignore[union-attr]
    assert isinstance(opened.segments[0].texts, Strings)
    for mode in index.modes:
        same(opened.search(query, mode=mode), index.search(query, mode=mode))
    exact = built().search(query, k=1)
    assert [row[0][0] for row in opened.search(query, k=1)] == [r[0][0] for r in exact]


def test_grown_in_a_folder(tmp_path: Path) -> None:
    query, _ = encoded()
    rows = list(corpus().items())
    Index.build(embedder(), dict(rows[:20]), folder=tmp_path / "i", segment_size=8)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "i").rglob("*.npy")}
    # The same command with more rows: what is there is not encoded again.
    index = Index.build(embedder(), iter(rows), folder=tmp_path / "i", segment_size=30)
    assert [len(segment) for segment in index.segments] == [8, 8, 4, 21]
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    same(Index.open(tmp_path / "i").search(query), built().search(query))
    again = index.extend(embedder(), corpus())
    assert len(again.segments) == 4


def test_a_killed_build_goes_on(tmp_path: Path) -> None:
    rows = list(corpus().items())

    def dies() -> Any:
        yield from rows[:25]
        raise KeyboardInterrupt

    folder = tmp_path / "i"
    with pytest.raises(KeyboardInterrupt):
        Index.build(embedder(), dies(), folder=folder, segment_size=10)
    # A part of a corpus never passes for the whole.
    message = r"i: expected a finished index, found one with 20 passages so far\. Build"
    with pytest.raises(InputError, match=message):
        Index.open(folder)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    (folder / ".00002.x.tmp").mkdir()  # of a killed process
    (folder / ".index.json.7.tmp").write_text("{")
    index = Index.build(embedder(), rows, folder=folder, segment_size=10)
    assert [len(segment) for segment in index.segments] == [10, 10, 10, 10, 1]
    assert kept and kept == {path: path.stat().st_mtime_ns for path in kept}
    same(index.search(encoded()[0]), built().search(encoded()[0]))
    assert len(Index.open(folder)) == 41
    names = [f"{number:05d}" for number in range(5)]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "index.json"]


def test_a_kill_before_the_first_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*texts: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    folder = tmp_path / "i"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_passage", dies)
        Index.build(embedder(), {"a": "salt"}, folder=folder)
    with pytest.raises(InputError, match="found one with 0 passages so far"):
        Index.open(folder)
    assert len(Index.build(embedder(), {"a": "salt"}, folder=folder)) == 1
    # What was to be added is missing, too.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_passage", dies)
        Index.open(folder).extend(embedder(), {"b": "sea"})
    with pytest.raises(InputError, match="found one with 1 passage so far"):
        Index.open(folder)
    assert len(Index.build(embedder(), {"b": "sea"}, folder=folder)) == 2
    assert len(Index.open(folder)) == 2


def test_a_kill_after_the_last_segment(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    Index.build(embedder(), {"a": "salt"}, folder=folder)
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"passages": None}))
    with pytest.raises(InputError, match="expected a finished index"):
        Index.open(folder)
    # There is nothing left to encode, but to say that all is there.
    assert len(Index.build(embedder(), {"a": "salt"}, folder=folder)) == 1
    assert len(Index.open(folder)) == 1


def test_a_last_segment_that_is_gone_is_missed(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    built().save(folder)
    (folder / "00002").rename(tmp_path / "away")
    with pytest.raises(InputError, match="found one with 34 passages so far"):
        Index.open(folder)


def test_a_kill_that_left_no_index_file(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    folder.mkdir()
    (folder / ".index.json.7.tmp").write_text("{")
    assert len(Index.build(embedder(), {"a": "salt"}, folder=folder)) == 1
    assert sorted(one.name for one in folder.iterdir()) == ["00000", "index.json"]
    (folder / "index.json").unlink()  # without it, no one knows whose segments are
    with pytest.raises(InputError, match="found '00000' in it"):
        Index.build(embedder(), {"a": "salt"}, folder=folder)


def test_an_index_that_another_process_writes_to(tmp_path: Path) -> None:
    folder, message = tmp_path / "i", "expected an index that no other process writes"
    tried = []

    def rows() -> Any:
        yield from ((str(number), TEXTS[number]) for number in range(2))
        for one in (
            lambda: Index.build(embedder(), {"x": "salt"}, folder=folder),
            lambda: built().save(folder),
            lambda: index_folder.remove(folder),
        ):
            with pytest.raises(InputError, match=message):
                one()
            tried.append(one)
        yield "2", TEXTS[2]

    index = Index.build(embedder(), rows(), folder=folder, segment_size=1)
    assert len(tried) == 3
    assert [index.passage(i)[0] for i in range(3)] == ["0", "1", "2"]
    assert len(Index.open(folder)) == 3
    assert len(Index.build(embedder(), {"x": "salt"}, folder=folder)) == 4


def test_storage_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*words: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    folder = tmp_path / "i"
    assert len(Index.build(embedder(), {"a": "salt"}, folder=folder)) == 1

    def rows() -> Any:
        yield "b", "sea"
        Index.build(embedder(), {"c": "moon"}, folder=folder)
        yield "d", "bread"

    # What the other one wrote stays.
    with pytest.raises(InputError, match=r"expected 2 segments, .* found 3"):
        Index.build(embedder(), rows(), folder=folder, segment_size=1)
    found = [Segment.open(folder / f"0000{i}").ids for i in range(3)]
    assert found == [("a",), ("b",), ("c",)]


def test_an_index_that_has_changed_since_it_was_opened(tmp_path: Path) -> None:
    folder = tmp_path / "i"
    first = Index.build(embedder(), {"a": "salt"}, folder=folder)
    second = Index.open(folder)
    first.extend(embedder(), {"b": "sea"})
    message = "expected 1 segments, as when .*, found 2. Another process .* open it ag"
    with pytest.raises(InputError, match=message):
        second.extend(embedder(), {"c": "moon"})
    index = Index.open(folder).extend(embedder(), {"c": "moon"})
    assert [index.passage(i)[0] for i in range(3)] == ["a", "b", "c"]


def test_nothing_new_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "i"
    index = Index.build(embedder(), {"a": "salt"}, folder=folder)
    before = (folder / "index.json").stat().st_mtime_ns

    def held(*words: Any) -> None:
        raise BlockingIOError

    # So an index on a disk that is only read, or in use, is found to be complete.
    monkeypatch.setattr(fcntl, "flock", held)
    assert len(index.extend(embedder(), {"a": "salt"})) == 1
    assert (folder / "index.json").stat().st_mtime_ns == before


def test_what_is_not_appended() -> None:
    index = Index.build(embedder(), {"a": TEXTS[0], "b": TEXTS[1]})
    with pytest.raises(
        InputError, match=r"row 2: expected the text .* has of 'a', foun"
    ):
        index.extend(embedder(), {"c": TEXTS[2], "a": TEXTS[1]})
    with pytest.raises(InputError, match="row 3: expected a new id, found 'c' again"):
        index.extend(embedder(), [("c", "1"), ("d", "2"), ("c", "1")])
    rows: Any
    for rows, message in (
        ({"c": "d", "e": 1}, "row 2: text: expected a string, found a number"),
        ([(2, "c")], "row 1: id: expected a string, found a number"),
        (
            {"\ud800": "c"},
            "row 1: id: expected Unicode text, found half of a surrogate",
        ),
        ({"c": "\ud800"}, "row 1: text: expected Unicode text, found half of a surr"),
    ):
        with pytest.raises(InputError, match=f"corpus: {message}"):
            index.extend(embedder(), rows)


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_that_are_no_numbers_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    encode, spoil = Embedder.encode_passage, " ".join(TEXTS)

    def spoiled(self: Embedder, texts: Any, **options: Any) -> Encoded:
        found = encode(self, texts, **options)
        assert found.dense is not None and found.sparse and found.multivec
        weights, vectors = found.sparse.matrix, found.multivec
        if spoil in texts:
            row = texts.index(spoil)
            array, place = {
                "dense": (found.dense, (row, 0)),
                "sparse": (weights.data, weights.indptr[row]),
                "multivec": (vectors.vectors, (vectors.offsets[row], 0)),
            }[head]
            array[place] = np.inf
        return found

    monkeypatch.setattr(Embedder, "encode_passage", spoiled)
    texts = *WORDS[:3], spoil, WORDS[3]
    rows = {f"p{number}": text for number, text in enumerate(texts)}
    message = f"finite {head} embeddings, found .* in 1 of 2 texts, first in 'p3'"
    with pytest.raises(InputError, match=f"passages: expected {message}"):
        Index.build(embedder(), rows, folder=tmp_path / "i", segment_size=2)


@pytest.mark.parametrize("mode", ["dense", "multivec", "hybrid"])
def test_a_query_that_is_no_number_is_refused(mode: str) -> None:
    query = embedder().encode_query(["the sea", "salt"], outputs=HEADS)
    assert query.multivec is not None
    query.multivec.vectors[-1, 0] = np.nan
    message = "query: expected finite multivec embeddings, .* first in 'query 1'"
    with pytest.raises(InputError, match=message):
        built().search(query, mode=mode)


def test_another_model_or_width_is_refused(tmp_path: Path) -> None:
    Index.build(embedder(), corpus(), folder=tmp_path / "i", dim=8)
    index = Index.open(tmp_path / "i")
    models = [Index.build(embedder(seed), {"a": "b"}).about["model"] for seed in (0, 1)]
    message = f"expected an index of model {models[1]}, found one of model {models[0]}"
    for refused in (index.require, lambda other: index.extend(other, {"a": "b"})):
        with pytest.raises(InputError, match=f"{tmp_path / 'i'}: {message}"):
            refused(embedder(1))
    named = [dataclasses.replace(embedder(seed), name=f"m{seed}") for seed in (0, 1)]
    of_one = Index.build(named[0], {"a": "b"})
    found = (
        rf"of model m1 \({models[1]}\), found one of model m0 \({models[0]}\)\. Buil"
    )
    with pytest.raises(InputError, match=found):
        of_one.require(named[1])
    of_one.require(dataclasses.replace(named[0], name="moved"))
    message = "expected an index of dim 16, found one of dim 8"
    with pytest.raises(InputError, match=message):
        Index.build(embedder(), corpus(), folder=tmp_path / "i")
    with pytest.raises(InputError, match="width 16, as the queries, found 8"):
        index.search(encoded()[0])
    query = embedder().encode_query(["the sea"], outputs=HEADS, dim=8)
    assert len(index.search(query)[0]) == 10


def test_a_mode_without_a_head_is_refused() -> None:
    index = Index.build(embedder(heads=False), corpus())
    query = embedder(heads=False).encode_query(["sea"])
    with pytest.raises(InputError, match="mode: expected one of dense, as the index"):
        index.search(query, mode="sparse")
    message = "query: expected sparse embeddings, found none. Encode with outputs="
    with pytest.raises(InputError, match=message):
        built().search(query, mode="sparse")
    with pytest.raises(
        InputError, match="mode: expected one of dense, sparse, multivec"
    ):
        built().search(query, mode="bm25")
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        built().search(query, mode="dense", k=0)


@pytest.mark.parametrize("rows", [{}, []])
def test_an_empty_corpus_is_refused(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(InputError, match="corpus: expected a passage to encode, found"):
        Index.build(embedder(), rows, folder=tmp_path / "i")


def test_other_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found 'thesis.tex' in it"):
        built().save(tmp_path)
    with pytest.raises(InputError, match=r"found 'thesis.tex' in it"):
        Index.build(embedder(), corpus(), folder=tmp_path)
    with pytest.raises(InputError, match=r"expected a new folder.*, found a file"):
        built().save(tmp_path / "thesis.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", None, "index.json: expected an index, found none"),
        ("index.json", "{", "index.json: expected JSON, found something else. The"),
        ("index.json", "{}", "index.json: expected an object with dim, max_length"),
        ("00000/ids.npy", None, r"ids.npy: expected a file of .*, found none\. The"),
        ("00000/texts.npy", "x", r"texts.npy: expected .* bytes, .* found 1\. The"),
        ("00001/files.json", None, "files.json: expected a list of files, found none"),
        ("00000", None, r"expected segment 00000, found 00001 next\. The index is d"),
    ],
)
def test_damaged(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    built().save(tmp_path / "index")
    path = tmp_path / "index" / name
    if content is not None:
        path.write_text(content)
    elif path.is_dir():
        path.rename(tmp_path / "away")
    else:
        path.unlink()
    with pytest.raises(InputError, match=message):
        Index.open(tmp_path / "index")


def test_vectors_too_large_to_be_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "_SMALL", 0)
    built().save(tmp_path / "index")
    path = tmp_path / "index" / "00001" / "dense.float32.npy"
    data = np.lib.format.open_memmap(path, mode="r+")
    data[:] = np.nan
    data.flush()
    index = Index.open(tmp_path / "index")
    message = r"index: expected scores that are numbers, found NaN.*\. The index is d"
    with pytest.raises(InputError, match=message):
        index.search(encoded()[0], mode="dense")


def test_what_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "i"
    options: Any
    for options in ({"dim": 1000}, {"dim": 0}, {"max_length": 1000}):
        (name,) = options
        with pytest.raises(InputError, match=f"{name}: expected a number from 1 to"):
            Index.build(embedder(), corpus(), folder=folder, **options)
    assert not folder.exists()

    def dies(*texts: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_passage", dies)
        Index.build(embedder(), {"a": "salt"}, folder=folder, dim=4)
    # One without a passage takes other settings.
    index = Index.build(embedder(), {"a": "salt"}, folder=folder, dim=8)
    assert index.about["dim"] == Index.open(folder).about["dim"] == 8


def test_segments_of_another_storage_are_refused(tmp_path: Path) -> None:
    built().save(tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    about = json.loads(path.read_text())
    for key, value in {"storage": "int8", "dim": 3, "outputs": ["dense"]}.items():
        path.write_text(json.dumps(about | {key: value}))
        with pytest.raises(
            InputError, match=f"00000: expected {key} .*, as index.json"
        ):
            Index.open(tmp_path / "index")


def test_a_model_is_told_by_all_it_depends_on() -> None:
    first = Index.build(embedder(), {"a": "b"}).about

    def changed(**fields: Any) -> set[str]:
        other = dataclasses.replace(embedder(), **fields)
        about = Index.build(other, {"a": "b"}).about
        return {key for key in first if first[key] != about[key]}

    assert changed() == set()
    assert changed(prompts=Prompts("other", "passage: ")) == set()
    assert changed(prompts=Prompts("query: ", "other")) == {"model"}
    assert changed(max_length=31) == {"max_length"}
    assert changed(tokenizer=tiny_tokenizer(TEXTS[1:])) == {"model"}
    json.dumps(first)
