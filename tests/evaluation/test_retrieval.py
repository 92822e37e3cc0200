"""Metrics against values that were computed by hand, and a whole evaluation."""

import functools
import math
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation.retrieval import dense, measure
from m3jax.evaluation.table import table
from m3jax.inference.encode import encode
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

SECOND = 1 / math.log2(3)  # what a passage at rank 2 is worth
LETTERS = "abcdefghijk"


def ranking(*names: str) -> dict[str, float]:
    return {name: -float(rank) for rank, name in enumerate(names)}


@pytest.mark.parametrize(
    ("row", "grades", "ndcg", "mrr", "recall"),
    [
        (ranking("a", "b"), {"a": 1}, 1, 1, 1),
        (ranking("b", "a"), {"a": 1}, SECOND, 1 / 2, 1),
        (ranking("b", "c"), {"a": 1}, 0, 0, 0),
        ({}, {"a": 1}, 0, 0, 0),
        # Graded: 0 + 1 / log2(3) + 2 / log2(4), against 2 + 1 / log2(3).
        (
            ranking("c", "b", "a"),
            {"a": 2, "b": 1, "c": 0},
            (SECOND + 2 / 2) / (2 + SECOND),
            1 / 2,
            1,
        ),
        # Two of three that are relevant are found.
        (
            ranking("a", "x", "b"),
            {"a": 1, "b": 1, "d": 1},
            1.5 / (1.5 + SECOND),
            1,
            2 / 3,
        ),
        # Rank 10 counts, rank 11 does not.
        (ranking(*"bcdefghijak"), {"a": 1}, 1 / math.log2(11), 1 / 10, 1),
        (ranking(*"bcdefghijka"), {"a": 1}, 0, 0, 1),
        # Rank 100 counts, rank 101 does not.
        (ranking(*map(str, range(100)), "a"), {"99": 1, "a": 1}, 0, 0, 1 / 2),
        # Of equal scores the last of the alphabet comes first.
        ({"a": 0.5, "b": 0.5}, {"a": 1}, SECOND, 1 / 2, 1),
        ({"a": 0.5, "b": 0.5}, {"b": 1}, 1, 1, 1),
        (dict.fromkeys(LETTERS, 0.5), {"a": 1}, 0, 0, 1),
        (dict.fromkeys(LETTERS, 0.5), {"b": 1}, 1 / math.log2(11), 1 / 10, 1),
        # What differs beyond float32 is equal.
        ({**dict.fromkeys(LETTERS, 0.5), "a": 0.5 + 1e-10}, {"a": 1}, 0, 0, 1),
        ({**dict.fromkeys(LETTERS, 0.5), "a": 0.5 + 1e-6}, {"a": 1}, 1, 1, 1),
    ],
)
def test_by_hand(
    row: dict[str, float],
    grades: dict[str, int],
    ndcg: float,
    mrr: float,
    recall: float,
) -> None:
    found = measure({"q": row}, {"q": grades})
    assert found == pytest.approx(
        {"ndcg@10": ndcg, "mrr@10": mrr, "recall@100": recall}
    )
    assert list(found) == ["ndcg@10", "mrr@10", "recall@100"]


def test_mean_over_the_judged_queries() -> None:
    results = {"q": ranking("a"), "r": ranking("b", "a"), "unjudged": ranking("z")}
    qrels = {name: {"a": 1} for name in ("q", "r", "without results")}
    found = measure(results, qrels)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["ndcg@10"] == pytest.approx((1 + SECOND + 0) / 3)
    assert found["recall@100"] == pytest.approx(2 / 3)


def test_no_judgements() -> None:
    with pytest.raises(InputError, match="at least one judged query"):
        measure({"q": {"a": 1.0}}, {})


PASSAGES = {"river": TEXTS[0], "bread": TEXTS[1], "moon": TEXTS[2]}
QUERIES = {
    "q1": "salt and flour",
    "unjudged": "a hill",
    "q2": "the moon pulls the tide",
}
TASK = Retrieval(QUERIES, PASSAGES, {"q2": {"moon": 1}, "q1": {"bread": 1}})
PROMPTS = Prompts(query="the sea: ", passage="a: ")


@functools.cache
def model() -> tuple[Any, Any, Any]:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size))
    return module, init(module, jax.random.key(0)), tokenizer


@pytest.mark.parametrize("on_mesh", [False, True])
def test_dense_scores_are_those_of_the_model(on_mesh: bool) -> None:
    mesh = make_mesh(MeshConfig()) if on_mesh else None
    results = dense(
        *model(), TASK, PROMPTS, query_length=9, passage_length=20, mesh=mesh
    )
    assert list(results) == ["q1", "q2"]
    for name, row in results.items():
        query = encode(*model(), [PROMPTS.query + QUERIES[name]], max_length=9).dense
        assert query is not None
        for passage, text in PASSAGES.items():
            one = encode(*model(), [PROMPTS.passage + text], max_length=20).dense
            assert one is not None
            assert row[passage] == pytest.approx(float(np.vdot(query, one)), abs=1e-6)
        assert list(row.values()) == sorted(row.values(), reverse=True)
    assert set(measure(results, TASK.qrels)) == {"ndcg@10", "mrr@10", "recall@100"}


def test_dense_keeps_the_k_best() -> None:
    search = functools.partial(
        dense, *model(), TASK, PROMPTS, query_length=9, passage_length=20
    )
    whole = search()
    assert search(k=2) == {
        name: dict(list(row.items())[:2]) for name, row in whole.items()
    }


def test_table() -> None:
    rows = {
        "before [training]": {"ndcg@10": 0.25, "mrr@10": 0.5, "recall@100": 1.0},
        "BM25": {"recall@100": 0.12345},
    }
    console = Console(width=79)
    with console.capture() as text:
        console.print(table(rows, "test [a]", caption="2 queries, 3 passages"))
    lines = [" ".join(line.split()) for line in text.get().splitlines()]
    assert lines[0] == "test [a]"
    assert lines[2] == "┃ ┃ nDCG@10 ┃ MRR@10 ┃ recall@100 ┃"
    assert lines[4] == "│ before [training] │ 0.2500 │ 0.5000 │ 1.0000 │"
    assert lines[5] == "│ BM25 │ │ │ 0.1235 │"
    assert lines[-1] == "2 queries, 3 passages"
