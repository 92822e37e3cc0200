"""Scores of given passages, against those of all pairs."""

import dataclasses
import itertools
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation.given import rank
from m3jax.inference import scores
from m3jax.inference.embedder import Embedder
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

THREE = ("dense", "sparse", "multivec")
WORDS = " ".join(TEXTS).replace(",", "").split()
PROMPTS = Prompts(query="the sea: ", passage="a: ")
GIVEN = {"q0": ["p8", "p1", "p5"], "q2": ["p1", "p7", "p7", "p0"], "other": ["p9"]}


@pytest.fixture(scope="module")
def model() -> Embedder:
    tokenizer = tiny_tokenizer()
    config = dataclasses.replace(
        tiny_config(tokenizer.vocab_size, layers=1),
        sparse=True,
        multivec=8,
        special_ids=tokenizer.special_ids,
    )
    module = EmbeddingModule(config)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(lambda: init(module, jax.random.key(0))),
    )
    return Embedder(module, params, tokenizer, Prompts(), 64)


@pytest.fixture(scope="module")
def data() -> Retrieval:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 8))) for _ in range(13)]
    texts[8] = texts[5]
    corpus = {f"p{i}": text for i, text in enumerate(texts[:10])}
    return Retrieval({f"q{i}": text for i, text in enumerate(texts[10:])}, corpus, {})


def test_each_head_scores_what_is_given(model, data) -> None:
    query = model.encode_query(
        data.queries.values(), prompt=PROMPTS.query, outputs=THREE
    )
    passage = model.encode_passage(
        data.corpus.values(), prompt=PROMPTS.passage, outputs=THREE
    )
    weights = (1, 2, 0.5)
    expected = {
        "dense": scores.dense(query, passage),
        "sparse": scores.sparse(query, passage),
        "multivec": scores.multivec(query, passage),
        "hybrid": scores.hybrid(query, passage, weights=weights),
    }
    options: dict[str, Any] = {"prompts": PROMPTS, "weights": weights}
    found = rank(model, data, GIVEN, **options)
    assert set(found) == set(expected)
    equal = 0
    for name, ranking in found.items():
        values = expected[name]
        assert {query: set(row) for query, row in ranking.items()} == {
            query: set(GIVEN.get(query, ())) for query in data.queries
        }
        for i, row in enumerate(ranking.values()):
            wanted = {name: values[i, int(name[1:])] for name in row}
            assert row == pytest.approx(wanted, abs=1e-6)
            assert list(row.values()) == sorted(row.values(), reverse=True)
        for query, row in ranking.items():
            for one, two in itertools.pairwise(row):
                if row[one] == row[two]:
                    equal += 1
                    assert GIVEN[query].index(one) < GIVEN[query].index(two)
    assert equal
    in_blocks = rank(model, data, GIVEN, block=2, **options)
    for name, ranking in found.items():
        for query, row in ranking.items():
            assert in_blocks[name][query] == pytest.approx(row, abs=1e-6)
    best = rank(model, data, GIVEN, k=1, **options)
    assert best["dense"] == {
        query: dict(list(row.items())[:1]) for query, row in found["dense"].items()
    }


def test_only_what_is_given_is_encoded_and_once(model, data, monkeypatch) -> None:
    seen: list[str] = []
    real = tokenize.encode_counted

    def spy(tokenizer: Any, texts: Any, **options: Any) -> Any:
        seen.extend(texts)
        return real(tokenizer, texts, **options)

    monkeypatch.setattr(tokenize, "encode_counted", spy)
    rank(model, data, GIVEN, prompts=PROMPTS, block=3)
    wanted = [PROMPTS.query + data.queries[name] for name in ("q0", "q2")]
    given = ("p0", "p1", "p5", "p7", "p8")
    wanted += [PROMPTS.passage + data.corpus[name] for name in given]
    assert sorted(seen) == sorted(wanted)


def test_one_head_has_no_hybrid(model, data) -> None:
    found = rank(model, data, GIVEN, prompts=PROMPTS, outputs=("multivec",))
    assert list(found) == ["multivec"]
    nothing = rank(model, data, {}, prompts=PROMPTS, outputs=("dense",))
    assert nothing == {"dense": {"q0": {}, "q1": {}, "q2": {}}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": {"q0": ["p1", "p77", "p78"]}}, "found 2 that are not, e.g. 'p77'"),
        ({"outputs": ("dense", "words")}, "outputs: expected one or more of dense"),
        ({"outputs": THREE[:2], "weights": (0, 0, 1)}, "for dense or sparse, found"),
        ({"k": 0}, "k: expected a positive number, found 0"),
    ],
)
def test_what_does_not_fit(model, data, options, message) -> None:
    options = {"given": GIVEN, **options}
    with pytest.raises(InputError, match=message):
        rank(model, data, options.pop("given"), prompts=PROMPTS, **options)
