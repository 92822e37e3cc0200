"""A corpus in Qdrant gives our exact scores, and is there once, whatever happens."""

import itertools
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3jax import scores
from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.inference import qdrant, qdrant_upload
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import CutWarning
from m3jax.inference.encoded import Encoded
from m3jax.inference.index import Index
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.qdrant import Uploaded, connect, search, upload
from m3jax.inference.qdrant_calls import groups
from m3jax.inference.segment import Segment
from m3jax.inference.sparse_rows import SparseRows
from m3jax.nn.embedding import EmbeddingModule
from m3jax.testing import tiny_config, tiny_tokenizer

VOCAB = 30
ABOUT: dict[str, str | int] = {"model": "random", "max_length": 64}
OUTPUTS = ("dense", "sparse", "multivec")


def embeddings(seed: int, lengths: list[int], *, width: int = 6) -> Encoded:
    """Random texts of the given lengths; one of 0 has neither weights nor vectors."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens, weights = rng.integers(0, VOCAB, total), rng.uniform(0.1, 2, total)
    return Encoded(
        unit(rng.normal(size=(len(lengths), width))),
        SparseRows.from_flat(tokens, weights, offsets, VOCAB),
        MultivecRows(unit(rng.normal(size=(total, 4))), offsets),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


PASSAGES = embeddings(0, [*range(8), *range(1, 33)])  # the first is empty
QUERIES = embeddings(1, [5, 1, 3])
CORPUS = {f"passage {i}": f"text {i}" for i in range(len(PASSAGES))}
NAMES = list(CORPUS)


def keep(encoded: Encoded, *outputs: str) -> Encoded:
    return Encoded(**{name: getattr(encoded, name) for name in outputs})


def filled(location: str | Path, encoded: Encoded = PASSAGES) -> QdrantClient:
    client = connect(location)
    upload(client, "c", CORPUS, encoded, about=ABOUT)
    return client


@pytest.fixture(scope="module")
def memory() -> QdrantClient:
    return filled(":memory:")


@pytest.fixture(scope="module")
def reopened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantClient]:
    folder = tmp_path_factory.mktemp("qdrant")
    filled(folder).close()
    client = connect(folder)
    yield client
    client.close()


def ranked(score: np.ndarray, k: int) -> list[tuple[str, float]]:
    """Passages by a row of scores; what has -inf is left out."""
    order = [i for i in np.argsort(-score, kind="stable") if np.isfinite(score[i])]
    return [(NAMES[i], float(score[i])) for i in order[:k]]


def head(query: Encoded, name: str, row: int) -> np.ndarray:
    score = getattr(scores, name)(query, PASSAGES)[row]
    return np.where(score > 0, score, -np.inf) if name == "sparse" else score


def check(found: list[list[Any]], expected: list[list[tuple[str, float]]]) -> None:
    assert [[name for name, _ in row] for row in found] == [
        [name for name, _ in row] for row in expected
    ]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(
            [score for _, score in row], [score for _, score in other], atol=1e-6
        )


@pytest.mark.parametrize("place", ["memory", "reopened"])
@pytest.mark.parametrize("k", [1, 7, 1_000])
@pytest.mark.parametrize("mode", OUTPUTS)
def test_one_output(mode: Any, k: int, place: str, request: Any) -> None:
    client = request.getfixturevalue(place)
    expected = [ranked(head(QUERIES, mode, row), k) for row in range(3)]
    assert k != 1_000 or len(expected[0]) == (40 if mode != "sparse" else 34)
    check(search(client, "c", QUERIES, mode=mode, k=k, rescored=None), expected)


def among(query: Encoded, row: int, depth: int, *names: str) -> np.ndarray:
    """Who is among the best by one of some outputs: 0, or -inf."""
    found = {x for name in names for x, _ in ranked(head(query, name, row), depth)}
    return np.where(np.isin(NAMES, list(found)), 0, -np.inf)


@pytest.mark.parametrize("rescored", [3, 12, 200])
@pytest.mark.parametrize("place", ["memory", "reopened"])
@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("hybrid", (1, 0.3, 1)),
        ("hybrid", (1, 0.3, 0)),
        ("hybrid", (0, 0, 1)),
        ("dense+sparse", (0.2, 0.8, 9)),
    ],
)
def test_mixtures(
    mode: Any, weights: Any, place: str, rescored: int, request: Any
) -> None:
    client = request.getfixturevalue(place)
    used = weights if mode == "hybrid" else (*weights[:2], 0)
    score = scores.hybrid(QUERIES, PASSAGES, weights=used)
    expected = [
        ranked(score[row] + among(QUERIES, row, rescored, "dense", "sparse"), 9)
        for row in range(3)
    ]
    options: Any = {"mode": mode, "k": 9, "rescored": rescored, "weights": weights}
    check(search(client, "c", QUERIES, **options), expected)


def test_outputs_without_a_weight_are_not_asked_for(
    memory: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[models.QueryRequest] = []
    query = memory.query_batch_points

    def record(collection: str, requests: Any) -> Any:
        asked.extend(requests)
        return query(collection, requests)

    monkeypatch.setattr(memory, "query_batch_points", record)
    for weights in ((1, 0.3, 1), (1, 0.3, 0)):
        search(memory, "c", QUERIES[:1], mode="hybrid", weights=weights)
    assert [len(one.prefetch) for one in asked] == [3, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize("rescored", [3, 200])
def test_multivec_orders_what_dense_has_found(
    memory: QdrantClient, rescored: int
) -> None:
    score = scores.multivec(QUERIES, PASSAGES)
    expected = [
        ranked(score[row] + among(QUERIES, row, rescored, "dense"), 9)
        for row in range(3)
    ]
    found = search(memory, "c", QUERIES, mode="multivec", k=9, rescored=rescored)
    check(found, expected)


def same(found: list[list[Any]], expected: list[list[Any]]) -> None:
    """Sums of ranks are often equal, and equal ones come in no order."""
    for row, other in zip(found, expected, strict=True):
        assert dict(row) == pytest.approx(dict(other))
        assert [s for _, s in row] == pytest.approx([s for _, s in other])


@pytest.mark.parametrize("rescored", [1, 8])
def test_rrf(memory: QdrantClient, rescored: int) -> None:
    expected = []
    for row in range(3):
        score = head(QUERIES, "multivec", row) + among(QUERIES, row, rescored, "dense")
        lists = [ranked(head(QUERIES, name, row), rescored) for name in OUTPUTS[:2]]
        total = np.full(len(NAMES), -np.inf)
        for ranking in [*lists, ranked(score, rescored)]:
            for rank, (name, _) in enumerate(ranking, start=1):
                i = NAMES.index(name)
                total[i] = max(total[i], 0) + 1 / (60 + rank)
        expected.append(ranked(total, 100))
    same(search(memory, "c", QUERIES, mode="rrf", k=100, rescored=rescored), expected)


@pytest.mark.parametrize("rescored", [None, 5])
@pytest.mark.parametrize("outputs", [OUTPUTS, OUTPUTS[:2], OUTPUTS[1:], OUTPUTS[2:]])
def test_an_index_finds_the_same(outputs: Any, rescored: int | None) -> None:
    passages, query = keep(PASSAGES, *outputs), keep(QUERIES, *outputs)
    client = filled(":memory:", passages)
    segment = Segment.of(list(CORPUS.items()), passages)
    index = Index((segment,), {"outputs": list(outputs), "storage": "float32"})
    for mode in (None, *index.modes):
        options: Any = {"mode": mode, "k": 40, "rescored": rescored}
        compare = same if mode == "rrf" else check
        found = search(client, "c", query, **options)
        compare(found, index.search(query, **options))


def test_texts_without_tokens() -> None:
    """They can be found by dense only, and score 0 by all else."""
    client = connect(":memory:")
    passages, query = embeddings(0, [0, 0, 2]), embeddings(1, [0])
    corpus = dict.fromkeys(["a", "b", "c"], "")
    upload(client, "c", corpus, passages, about=ABOUT)
    assert search(client, "c", query, mode="sparse") == [[]]
    (row,) = search(client, "c", query, mode="multivec", rescored=None)
    assert dict(row) == {"a": 0, "b": 0, "c": 0}
    (row,) = search(client, "c", query, mode="hybrid")
    share = 1 / 2.3
    expected = (scores.dense(query, passages)[0] * share).tolist()
    assert dict(row) == pytest.approx(dict(zip(corpus, expected, strict=True)))


@pytest.mark.parametrize("outputs", [("dense",), ("sparse",), ("sparse", "multivec")])
def test_some_outputs(outputs: tuple[str, ...]) -> None:
    client = filled(":memory:", keep(PASSAGES, *outputs))
    for mode in outputs:
        expected = [ranked(head(QUERIES, mode, row), 4) for row in range(3)]
        name: Any = mode
        query = keep(QUERIES, mode)
        check(search(client, "c", query, mode=name, k=4, rescored=None), expected)


@pytest.mark.parametrize("mode", [*OUTPUTS, "dense+sparse", "hybrid", "rrf"])
def test_only(mode: Any) -> None:
    client = connect(":memory:")
    more = {name: {"odd": i % 2} for i, name in enumerate(NAMES)}
    upload(client, "c", CORPUS, PASSAGES, about=ABOUT, more=more)
    match = models.FieldCondition(key="odd", match=models.MatchValue(value=1))
    only = models.Filter(must=[match])
    for row in search(client, "c", QUERIES, mode=mode, k=20, rescored=10, only=only):
        assert 0 < len(row) <= 20
        assert {more[name]["odd"] for name, _ in row} == {1}


def test_many_queries(memory: QdrantClient) -> None:
    query = embeddings(2, [1] * 40)
    assert len(search(memory, "c", query)) == 40
    check(
        search(memory, "c", query, k=3, mode="dense"),
        [ranked(head(query, "dense", row), 3) for row in range(40)],
    )


@pytest.mark.parametrize("method", ["exact", "hnsw"])
@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_exact_is_asked_for(
    memory: QdrantClient, mode: Any, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    query_batch_points = memory.query_batch_points

    def record(collection: str, requests: list[models.QueryRequest]) -> Any:
        asked.extend(requests)
        return query_batch_points(collection, requests)

    monkeypatch.setattr(memory, "query_batch_points", record)
    search(memory, "c", QUERIES[:1], mode=mode, method=method)
    assert asked[0].model_dump_json().count('"exact":true') == (
        0 if method == "hnsw" else {"dense": 1, "hybrid": 9}[mode]
    )


def test_what_is_kept(memory: QdrantClient) -> None:
    points, _ = memory.scroll("c", limit=100, with_vectors=True)
    assert len({point.id for point in points}) == 40
    kept = {point.payload["_id"]: point for point in points if point.payload}
    assert {name: p.payload["text"] for name, p in kept.items() if p.payload} == CORPUS
    vector: Any = kept[NAMES[5]].vector
    assert PASSAGES.dense is not None and PASSAGES.sparse is not None
    np.testing.assert_array_equal(vector["dense"], PASSAGES.dense[5])
    pairs = zip(vector["sparse"].indices, vector["sparse"].values, strict=True)
    assert dict(pairs) == PASSAGES.sparse[5]
    config = memory.get_collection("c").config.params
    assert isinstance(config.vectors, dict) and config.sparse_vectors is not None
    assert config.sparse_vectors["sparse"].modifier is None
    assert {name: one.size for name, one in config.vectors.items()} == {
        "dense": 6,
        "multivec": 4,
    }


class Encoder:
    """Rows of PASSAGES by their text; remembers what it was asked."""

    def __init__(self, broken: str | None = None) -> None:
        self.asked: list[str] = []
        self.broken = broken

    def __call__(self, texts: list[str]) -> Encoded:
        if self.broken in texts:
            raise KeyboardInterrupt
        self.asked += texts
        return PASSAGES[[int(text.split()[1]) for text in texts]]


@pytest.mark.parametrize("stop", [0, 9, 39])
def test_second_run_completes_the_first(stop: int, tmp_path: Path) -> None:
    client = connect(tmp_path)
    options: Any = {"about": ABOUT, "batch": 4}
    with pytest.raises(KeyboardInterrupt):
        upload(client, "c", CORPUS, Encoder(f"text {stop}"), **options)
    client.close()
    client, encoder = connect(tmp_path), Encoder()
    found = upload(client, "c", CORPUS, encoder, **options)
    there = stop // 4 * 4
    assert found == Uploaded(sent=40 - there, kept=there)
    assert encoder.asked == list(CORPUS.values())[there:]
    assert client.count("c").count == 40
    expected = [ranked(head(QUERIES, "multivec", row), 40) for row in range(3)]
    check(search(client, "c", QUERIES, mode="multivec", k=40, rescored=None), expected)
    assert upload(client, "c", CORPUS, PASSAGES, about=ABOUT).sent == 0
    client.close()


@pytest.mark.parametrize("whole", ["all embeddings", "a function"])
def test_what_has_changed_is_replaced(whole: str) -> None:
    client = filled(":memory:")
    corpus = CORPUS | {NAMES[3]: "text 9", "new": "text 8"}
    encoder = Encoder()
    rows = [int(text.split()[1]) for text in corpus.values()]
    encode = PASSAGES[rows] if whole == "all embeddings" else encoder
    found = upload(client, "c", corpus, encode, about=ABOUT, batch=7)
    assert found == Uploaded(sent=2, kept=39)
    assert encoder.asked == ([] if encode is not encoder else ["text 9", "text 8"])
    expected = scores.dense(QUERIES, PASSAGES[rows])[0]
    (row,) = search(client, "c", QUERIES[:1], k=100, mode="dense")
    assert dict(row) == pytest.approx(
        dict(zip(corpus, expected, strict=True)), abs=1e-6
    )


def test_changed_fields_are_replaced() -> None:
    client = filled(":memory:")
    for more, sent in (
        ({"year": 1999, "page": 3}, 1),
        ({"page": 3, "year": 1999}, 0),  # in another order it is no other content
        ({}, 1),
    ):
        fields = {NAMES[1]: more}
        found = upload(client, "c", CORPUS, PASSAGES, about=ABOUT, more=fields)
        assert found == Uploaded(sent=sent, kept=40 - sent)


def test_requests_are_limited_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sizes = connect(":memory:"), []
    upsert = client.upsert

    def record(collection: str, points: Any, **options: Any) -> Any:
        sizes.append([len(point.model_dump_json()) for point in points])
        return upsert(collection, points, **options)

    monkeypatch.setattr(client, "upsert", record)
    limit: Any = {"about": ABOUT, "request_bytes": 5_000}
    assert upload(client, "c", CORPUS, PASSAGES, **limit).sent == 40
    assert sum(map(len, sizes)) == 40 and len(sizes) > 3
    assert all(sum(row) <= 5_000 for row in sizes)
    assert all(sum(a) + b[0] > 4_900 for a, b in itertools.pairwise(sizes))


def test_groups() -> None:
    items = [models.SparseVector(indices=[i], values=[0.5] * i) for i in (1, 9, 1, 1)]
    assert [len(group) for group in groups(items, 1)] == [1, 1, 1, 1]
    assert [len(group) for group in groups(items, 90)] == [1, 1, 2]
    assert [len(group) for group in groups(items, 1_000)] == [4]
    assert list(groups([], 1)) == []


def test_progress() -> None:
    told: list[int] = []
    client = connect(":memory:")
    options: Any = {"about": ABOUT, "batch": 16, "progress": told.append}
    upload(client, "c", CORPUS, PASSAGES, **options)
    assert told == [16, 16, 8]


NARROW = embeddings(0, [1] * 40, width=5)


@pytest.mark.parametrize(
    ("encoded", "about", "message"),
    [
        (
            PASSAGES,
            {"model": "other", "max_length": 64},
            r"collection 'c': expected embeddings of model random, as it was made of, "
            r"found those of model other\. Name another collection\.",
        ),
        (PASSAGES, {"model": "random"}, "max_length 64.*found.*max_length unknown"),
        (NARROW, ABOUT, r"expected dense 6, sparse 30, multivec 4.*found dense 5, sp"),
        (
            keep(PASSAGES, "dense"),
            ABOUT,
            r"expected dense 6, sparse 30, multivec 4, as .*, found dense 6\.",
        ),
        (PASSAGES[:39], ABOUT, "expected 40 embeddings, one a passage, found 39"),
        (Encoded(), ABOUT, "expected embeddings, found none"),
    ],
)
def test_upload_of_other_embeddings(
    memory: QdrantClient, encoded: Encoded, about: Any, message: str
) -> None:
    corpus = CORPUS | {NAMES[0]: "new"}
    with pytest.raises(InputError, match=message):
        upload(memory, "c", corpus, encoded, about=about)
    assert memory.count("c").count == 40


def test_too_few_embeddings_of_a_function() -> None:
    client = connect(":memory:")
    with pytest.raises(InputError, match=r"expected 2 embeddings.*found 1"):
        pairs = [("a", ""), ("b", "")]
        upload(client, "c", pairs, lambda texts: PASSAGES[:1], about=ABOUT)
    assert not client.collection_exists("c")


def test_collection_of_somebody_else() -> None:
    client = connect(":memory:")
    client.create_collection("c", models.VectorParams(size=6, distance="Dot"))  # type: ignore
    for send in (
        lambda: upload(client, "c", CORPUS, PASSAGES, about=ABOUT),
        lambda: search(client, "c", QUERIES),
    ):
        with pytest.raises(InputError, match="'c': expected a collection that says"):
            send()


def test_another_upload_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(client: Any, collection: str, about: Any, *rest: Any) -> None:
        make(client, collection, {"model": "other"}, *rest)

    make = qdrant_upload.create
    monkeypatch.setattr(qdrant_upload, "create", create)
    with pytest.raises(InputError, match="'c': expected embeddings of model other, "):
        upload(connect(":memory:"), "c", CORPUS, PASSAGES, about=ABOUT)


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_bad_corpus(batch: int) -> None:
    client = connect(":memory:")

    def send(records: Any, **options: Any) -> None:
        encode = Encoder()
        upload(client, "c", records, encode, about=ABOUT, batch=batch, **options)

    with pytest.raises(InputError, match="expected a passage to upload, found none"):
        send({})
    assert not client.collection_exists("c")
    again = [(name, "text 1") for name in "abcbadaef"]
    message = "corpus: expected a new id for each passage, found 2 again: 'b', 'a'$"
    with pytest.raises(InputError, match=message):
        send(again)
    there = client.count("c").count if client.collection_exists("c") else 0
    assert there == {1: 3, 3: 3, 100: 0}[batch]
    with pytest.raises(
        InputError, match=r"corpus texts\[0\]: expected a string, found int"
    ):
        send([("a", 1)])
    with pytest.raises(InputError, match="payload of 'a': expected names other than"):
        send([("a", "text 1")], more={"a": {"text": 1}})
    for value in (object(), float("nan")):
        with pytest.raises(InputError, match="payload of 'a': expected fields of JSON"):
            send([("a", "text 1")], more={"a": {"x": value}})


def test_batch_below_one() -> None:
    with pytest.raises(InputError, match="batch: expected a positive number, found 0"):
        upload(connect(":memory:"), "c", CORPUS, PASSAGES, about={}, batch=0)


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (QUERIES, {"k": 0}, "k: expected a positive number, found 0"),
        (QUERIES, {"rescored": 0}, "rescored: expected a positive"),
        (QUERIES, {"method": "fast"}, "method: expected exact or hnsw, found 'fast'"),
        (
            QUERIES,
            {"mode": "both"},
            r"one of dense, sparse, multivec, dense\+sparse, hybrid, rrf, .*'both'",
        ),
        (
            QUERIES,
            {"mode": "dense+sparse", "weights": (0, 0, 1)},
            "for dense or sparse",
        ),
        (QUERIES, {"mode": "hybrid", "weights": (1, 1)}, "expected three weights"),
        (
            keep(QUERIES, "dense", "sparse"),
            {},
            "multivec embeddings, which the mode hybrid needs, found dense, sparse",
        ),
        (
            embeddings(0, [1], width=5),
            {},
            "dense queries of width 6, as the collection has, found 5",
        ),
        (QUERIES, {"about": {"model": "x"}}, "model random, .*found those of model x"),
    ],
)
def test_bad_search(
    memory: QdrantClient, query: Encoded, options: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        search(memory, "c", query, **options)
    assert len(search(memory, "c", QUERIES, about=ABOUT)) == 3


def test_search_for_what_the_collection_lacks() -> None:
    client = filled(":memory:", keep(PASSAGES, "dense"))
    for mode in ("sparse", "hybrid", "rrf"):
        message = f"one of dense, as the collection has them, found '{mode}'"
        name: Any = mode
        with pytest.raises(InputError, match=message):
            search(client, "c", QUERIES, mode=name)
    with pytest.raises(InputError, match=r"collection 'd': .*found none"):
        search(client, "d", QUERIES)


@pytest.mark.parametrize("location", ["localhost:6333", "host:1/path", "grpc://host"])
def test_a_server_is_no_folder(location: str) -> None:
    with pytest.raises(InputError, match="begins with http:// or https://, found"):
        connect(location)


def test_folders_of_others(tmp_path: Path) -> None:
    file, index, notes = tmp_path / "file", tmp_path / "index", tmp_path / "notes"
    file.touch()
    for folder, name, text in ((index, "meta.json", "{}"), (notes, "a.txt", "")):
        folder.mkdir()
        (folder / name).write_text(text)
    for place in (file, index, notes):
        before = sorted(tmp_path.rglob("*"))
        message = "expected a new folder, or one that Qdrant has written, found"
        with pytest.raises(InputError, match=message):
            connect(place)
        assert sorted(tmp_path.rglob("*")) == before


# The second client, which fails, leaves the lock's file open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_folder_in_use(tmp_path: Path) -> None:
    client = connect(tmp_path)
    with pytest.raises(InputError, match="expected a folder that nobody else uses"):
        connect(tmp_path)
    client.close()


def test_client_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(InputError, match=r'pip install "m3jax\[qdrant\]"'):
        connect(":memory:")


def test_about() -> None:
    module, tokenizer = EmbeddingModule(tiny_config()), tiny_tokenizer()

    def about(passage: str, max_length: int, value: float = 1.0) -> dict[str, Any]:
        params = {"kernel": np.full(2, value, np.float32)}
        prompts = Prompts("", passage)
        return qdrant.about(Embedder(module, params, tokenizer, prompts, max_length))

    one = about("", 64)
    assert one == about("", 64) and one["max_length"] == 64
    assert one not in (about("passage: ", 64), about("", 32), about("", 64, 2.0))


def test_cuts_are_said_once() -> None:
    client, corpus = connect(":memory:"), {f"p{i}": "salt" for i in range(6)}

    def encode(texts: list[str]) -> Encoded:
        warnings.warn(CutWarning("cut", 1), stacklevel=2)
        return Encoded(np.ones((len(texts), 4), np.float32) / 2)

    with pytest.warns(CutWarning, match="^3 texts were longer than") as said:
        upload(client, "texts", corpus, encode, about={"model": "ones"}, batch=2)
    assert len(said) == 1
    client.close()
