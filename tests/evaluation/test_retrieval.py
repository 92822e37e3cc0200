"""Metrics against values that were computed by hand, and the table of them."""

import math

import pytest
from rich.console import Console

from m3jax.core.errors import InputError
from m3jax.evaluation.retrieval import measure
from m3jax.evaluation.table import table

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


def test_table_of_heads_and_of_graded_pairs() -> None:
    rows = {
        "before": {"ndcg@10": 0.1, "sparse/ndcg@10": 0.2, "hybrid/ndcg@10": 0.3},
        "BM25": {"ndcg@10": 0.4},
    }
    heads = table(rows, "dev")
    assert [column.header for column in heads.columns] == ["", "nDCG@10"]
    assert [str(cell) for cell in heads.columns[0].cells] == [
        "before",
        "before, sparse",
        "before, hybrid",
        "BM25",
    ]
    assert list(heads.columns[1].cells) == ["0.1000", "0.2000", "0.3000", "0.4000"]
    pairs = table({"after": {"spearman": 0.5, "pearson": 0.25}}, "dev")
    assert [column.header for column in pairs.columns] == ["", "Spearman", "Pearson"]
