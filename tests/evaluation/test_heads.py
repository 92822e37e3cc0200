"""Rankings of every head, against loops over all pairs."""

import dataclasses
import functools
import itertools
import math
import tracemalloc
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation import heads
from m3jax.evaluation.heads import score, search
from m3jax.evaluation.retrieval import measure
from m3jax.inference.best import Best, best_places
from m3jax.inference.encode import encode
from m3jax.inference.encoded import Encoded
from m3jax.inference.ranking import Mixture
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

THREE = ("dense", "sparse", "multivec")
WORDS = " ".join(TEXTS).replace(",", "").split()
PROMPTS = Prompts(query="the sea: ", passage="a: ")
LENGTHS: dict[str, Any] = {"query_length": 16, "passage_length": 16}
NOISE = 2e-6


def hybrid(*weights: float) -> dict[str, Mixture]:
    return {"hybrid": Mixture(weights)}


@functools.cache
def model(*outputs: str) -> tuple[Any, Any, Any]:
    tokenizer = tiny_tokenizer()
    config = dataclasses.replace(
        tiny_config(tokenizer.vocab_size, layers=1),
        sparse="sparse" in outputs,
        multivec=8 if "multivec" in outputs else None,
        special_ids=tokenizer.special_ids,
    )
    module = EmbeddingModule(config)
    return module, init(module, jax.random.key(0)), tokenizer


@functools.cache
def task() -> Retrieval:
    """Random words, a text that is there three times, and a query without judgement."""
    rng = np.random.default_rng(0)

    def texts(count: int, most: int) -> list[str]:
        lengths = rng.integers(1, most, count)
        return [" ".join(rng.choice(WORDS, length)) for length in lengths]

    passages = texts(30, 9)
    passages[7] = passages[21] = passages[3]
    corpus = {f"p{i:02}": text for i, text in enumerate(passages)}
    queries = {f"q{i}": text for i, text in enumerate(texts(6, 5))} | {"none": ""}
    qrels = {f"q{i}": {f"p{5 * i:02}": 1} for i in range(6) if i != 2}
    return Retrieval(queries, corpus, qrels | {"none": {"p00": 1}})


@functools.cache
def naive(names: tuple[str, ...]) -> dict[str, Any]:
    """Head -> query -> passage -> score, of all pairs."""
    data = task()
    sides = (PROMPTS.query, data.queries), (PROMPTS.passage, data.corpus)
    query, passage = (
        encode(
            *model(*THREE),
            [prompt + text for text in texts.values()],
            max_length=16,
            outputs=names,
        )
        for prompt, texts in sides
    )
    found: dict[str, Any] = {name: {} for name in names}
    for (i, q), (j, p) in itertools.product(
        enumerate(data.queries), enumerate(data.corpus)
    ):
        scores = {}
        if query.dense is not None and passage.dense is not None:
            scores["dense"] = float(query.dense[i] @ passage.dense[j])
        if query.sparse is not None and passage.sparse is not None:
            weights = passage.sparse[j]
            both = ((w, weights.get(t, 0.0)) for t, w in query.sparse[i].items())
            scores["sparse"] = math.fsum(a * b for a, b in both)
        if query.multivec is not None and passage.multivec is not None:
            best = [(passage.multivec[j] @ v).max() for v in query.multivec[i]]
            scores["multivec"] = math.fsum(best) / len(best)
        for name in names:
            found[name].setdefault(q, {})[p] = scores[name]
    return found


Bounds = tuple[set[str], set[str]]


def best_of(row: dict[str, float], k: int) -> Bounds:
    """Which passages are surely among the k best, and which may be: where equal."""
    cut = sorted(row.values(), reverse=True)[:k][-1] if row else 0
    sure = {name for name, x in row.items() if x > cut + NOISE or k >= len(row)}
    return sure, {name for name, x in row.items() if x >= cut - NOISE}


def assert_ranking(
    found: dict[str, float], row: dict[str, float], k: int, pool: Bounds | None = None
) -> None:
    """The k best of a pool, by scores that are known."""
    sure, possible = pool or (set(row), set(row))
    assert set(found) <= possible
    assert found == pytest.approx({name: row[name] for name in found}, abs=NOISE)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert min(k, len(sure)) <= len(found) <= min(k, len(possible))
    least = min(found.values(), default=0)
    assert all(row[name] <= least + NOISE for name in sure - set(found))


@pytest.mark.parametrize(
    ("names", "block"),
    [
        (THREE, 8),
        pytest.param(THREE, None, marks=pytest.mark.slow),
        pytest.param(THREE[:2], 8, marks=pytest.mark.slow),
        pytest.param(THREE[::2], 8, marks=pytest.mark.slow),
    ],
)
def test_every_head(names: tuple[str, ...], block: int | None) -> None:
    data, k, rescored, weights = task(), 5, 7, (2.0, 1.0, 3.0)
    found = search(
        *model(*THREE),
        data,
        PROMPTS,
        **LENGTHS,
        outputs=names,
        mixtures=hybrid(*weights),
        k=k,
        rescored=rescored,
        block=block,
    )
    assert list(found) == [*names, "hybrid"]
    expected = naive(names)
    share = {name: w for name, w in zip(THREE, weights, strict=True) if name in names}
    for query in data.qrels:
        every = {name: expected[name][query] for name in names}
        assert_ranking(found["dense"][query], every["dense"], k)
        of_dense = both = best_of(every["dense"], rescored)
        if "sparse" in names:
            shared = {p: x for p, x in every["sparse"].items() if x > 0}
            assert_ranking(found["sparse"][query], shared, k)
            sure, possible = best_of(shared, rescored)
            both = of_dense[0] | sure, of_dense[1] | possible
        if "multivec" in names:
            assert_ranking(found["multivec"][query], every["multivec"], k, of_dense)
        mixed = {
            p: sum(w * every[name][p] for name, w in share.items())
            / sum(share.values())
            for p in data.corpus
        }
        assert_ranking(found["hybrid"][query], mixed, k, both)
    judged = [name for name in data.queries if name in data.qrels]
    assert all(list(results) == judged for results in found.values())


def test_a_query_without_token_weights() -> None:
    found = search(*model(*THREE), task(), Prompts(), **LENGTHS, rescored=3)
    assert found["sparse"]["none"] == {}
    assert len(found["dense"]["none"]) == 30  # k = 100, and the corpus has no more
    assert len(found["multivec"]["none"]) == len(found["hybrid"]["none"]) == 3
    values = score(found, task().qrels)
    assert values["sparse/recall@100"] < 1 == values["recall@100"]


def test_one_head() -> None:
    expected = naive(THREE)
    for name in ("dense", "sparse"):
        options: dict[str, Any] = {"outputs": name, "block": 8}
        found = search(*model(*THREE), task(), PROMPTS, **LENGTHS, **options)
        assert list(found) == [name]
        two = search(*model(*THREE), task(), PROMPTS, **LENGTHS, **options, k=2)
        for query, row in found[name].items():
            scores = expected[name][query]
            assert_ranking(row, {p: x for p, x in scores.items() if x > 0}, 30)
            assert list(two[name][query].items()) == list(row.items())[:2]
    assert list(search(*model("dense"), task(), PROMPTS, **LENGTHS)) == ["dense"]


def test_every_text_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    shown: list[int] = []

    def spy(module, params, tokenizer, texts, **options):
        seen.extend(texts)
        shown.append(len(texts))
        return encode(module, params, tokenizer, texts, **options)

    monkeypatch.setattr(heads, "encode", spy)
    data = task()
    search(*model(*THREE), data, PROMPTS, **LENGTHS, block=8)
    queries = [PROMPTS.query + data.queries[name] for name in data.queries]
    queries.remove(PROMPTS.query + data.queries["q2"])
    assert seen == queries + [PROMPTS.passage + text for text in data.corpus.values()]
    assert shown == [6, 8, 8, 8, 6]


def test_on_a_mesh_it_is_the_same() -> None:
    found, expected = (
        search(*model(*THREE), task(), PROMPTS, **LENGTHS, mesh=mesh)
        for mesh in (make_mesh(MeshConfig()), None)
    )
    assert list(found) == list(expected)
    for name, results in found.items():
        for query, row in results.items():
            assert_ranking(row, expected[name][query], 30)


def test_score_names_the_heads() -> None:
    found = search(*model(*THREE), task(), PROMPTS, **LENGTHS)
    values = score(found, task().qrels)
    metrics = ("ndcg@10", "mrr@10", "recall@100")
    prefixes = ("", "sparse/", "multivec/", "hybrid/")
    assert list(values) == [prefix + name for prefix in prefixes for name in metrics]
    for name in ("sparse", "hybrid"):
        alone = measure(found[name], task().qrels)
        assert {key: values[f"{name}/{key}"] for key in metrics} == alone
    assert {key: values[key] for key in metrics} == measure(
        found["dense"], task().qrels
    )


def test_an_empty_corpus_and_no_query() -> None:
    names = (*THREE, "hybrid")
    empty = Retrieval({"q": "sea"}, {}, {"q": {"p": 1}})
    found = search(*model(*THREE), empty, PROMPTS, **LENGTHS)
    assert found == {name: {"q": {}} for name in names}
    empty = Retrieval({"q": "sea"}, {"p": "the sea"}, {})
    found = search(*model(*THREE), empty, PROMPTS, **LENGTHS)
    assert found == {name: {} for name in names}


def test_memory_bounds_the_block() -> None:
    config = dataclasses.replace(tiny_config(), multivec=1024)
    assert heads.block_size(config, 8192, THREE) == 64
    assert heads.block_size(config, 512, THREE) == 1024
    assert heads.block_size(config, 512, ("dense", "sparse")) == 16_384
    assert heads.block_size(config, 8, THREE) == 16_384


def test_a_block_costs_no_copy_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def stub(module, params, tokenizer, texts, **options):
        return Encoded(np.zeros((len(texts), 1), np.float32))

    def rank(query, blocks, *words, **options):
        iterator = iter(blocks)
        next(iterator)
        tracemalloc.start()
        taken.append(len(next(iterator)))
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return {}

    monkeypatch.setattr(heads, "encode", stub)
    monkeypatch.setattr(heads, "rank", rank)
    corpus = dict.fromkeys(map(str, range(100_000)), "sea")
    data = Retrieval({"q": "sea"}, corpus, {"q": {"1": 1}})
    search(*model("dense"), data, PROMPTS, **LENGTHS, block=8)
    assert taken[0] == 8 and taken[1] < 100_000  # bytes; of their places alone 800,000


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (THREE, {"outputs": ("sparse", "multivec")}, "outputs: expected dense among"),
        (THREE, {"outputs": ("multivec",)}, "outputs: expected dense among"),
        (("dense",), {"outputs": ("sparse",)}, "outputs: expected one or more of den"),
        (THREE, {"mixtures": hybrid(1, 1)}, "hybrid: weights: expected three weights"),
        (
            THREE[:2],
            {"mixtures": hybrid(0, 0, 1)},
            "weights: .* above 0 for dense or sparse",
        ),
        (THREE, {"k": 0}, "k: expected a positive number, found 0"),
        (THREE, {"rescored": 0}, "rescored: expected a positive number, found 0"),
        (THREE, {"block": 0}, "block: expected a positive number, found 0"),
        (THREE, {"passage_length": 1}, "room for the special tokens"),
    ],
)
def test_what_is_refused(names, options, message) -> None:
    with pytest.raises(InputError, match=message):
        search(*model(*names), task(), PROMPTS, **LENGTHS | options)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_the_best_of_parts_are_those_of_the_whole(k: int) -> None:
    scores = np.random.default_rng(k).integers(0, 6, (4, 23)).astype(np.float32)
    best = Best.none(4, k)
    for start, stop in ((0, 5), (5, 6), (6, 23)):
        at = np.broadcast_to(np.arange(start, stop), (4, stop - start))
        best = best.merge(scores[:, start:stop], at)
    for row, (found, at) in enumerate(zip(best.scores, best.at, strict=True)):
        order = sorted(range(23), key=lambda i: (-scores[row, i], i))[:k]
        assert at[: len(order)].tolist() == order
        assert found[: len(order)].tolist() == scores[row, order].tolist()
        assert (at[23:] == -1).all() and np.isneginf(found[23:]).all()
        above = [i for i in order if scores[row, i] > 0]
        assert best_places(scores[row], k).tolist() == above
