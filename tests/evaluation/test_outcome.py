"""Values of an evaluation: what does not fit together is refused."""

import dataclasses
import math

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.outcome import EmbeddingMap, Evaluation, Histogram, Outcome

GOOD = Outcome(
    "task",
    "retrieval",
    "ndcg@10",
    {"dense": {"ndcg@10": 0.5, "mrr@10": 0.25}},
    {"dense": {"q": 0.25, "r": 0.75}},
    {"queries": 2},
    language="de",
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"kind": "search"},
            "task, de: kind: expected one of retrieval, .*, found sea",
        ),
        ({"values": {}}, "task, de: expected the values of a system, found none"),
        ({"main": "map"}, "task, de: dense: expected a value of map, found ndcg@10, m"),
        (
            {"values": {"dense": {"ndcg@10": math.nan}}},
            "task, de: values.dense.ndcg@10: expected a finite number, found nan",
        ),
        (
            {"values": {"dense": {"ndcg@10": np.float32(0.5)}}},
            "expected a number, found a value of type float32",
        ),
        (
            {"items": {"dense": {"q": 0.5, "r": "0.5"}}},
            "items.dense.r: expected a number, found a string",
        ),
        (
            {"items": {"dense": {"q": 0.25, "r": 0.7501}}},
            "items whose mean is 0.500000, the ndcg@10 of dense, found a mean",
        ),
        ({"items": {"sparse": {}}}, "expected one of dense, found the system sparse"),
        ({"curves": {"sparse": {}}}, "found the system sparse"),
        ({"histograms": {"BM25": Histogram((0, 1), (1,), (0,))}}, "the system BM25"),
        ({"curves": {"dense": {0: 0.5}}}, "curves.dense: expected k from 1, found 0"),
        ({"curves": {"dense": {1: math.inf}}}, "curves.dense.1: expected a finite"),
        ({"counts": {"queries": None}}, "counts.queries: expected a number, found nu"),
        (
            {"language": None, "passage_language": "en"},
            "expected a language of the queries, found none",
        ),
    ],
)
def test_parts_that_do_not_fit(change, message) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(GOOD, **change)


def test_label_and_decisive() -> None:
    assert GOOD.label == "task, de"
    assert dataclasses.replace(GOOD, language=None).label == "task"
    both = dataclasses.replace(GOOD, passage_language="en")
    assert both.label == "task, de → en"
    assert both.languages == "de → en"
    assert GOOD.decisive == {"dense": 0.5}
    assert dataclasses.replace(GOOD, items={"dense": {}}).items == {"dense": {}}


def test_a_task_stands_once() -> None:
    other = dataclasses.replace(GOOD, language="en")
    elsewhere = Outcome("task", "sts", "spearman", {"dense": {"spearman": 0.5}})
    assert len(Evaluation("m", {}, (GOOD, other, elsewhere)).outcomes) == 3
    with pytest.raises(InputError, match=r"^task, de: expected one outcome a task"):
        Evaluation("m", {}, (GOOD, other, GOOD))
    apart = dataclasses.replace(other, main="mrr@10", items={})
    message = r"task, en: expected ndcg@10, which decides task .*, found mrr@10"
    with pytest.raises(InputError, match=message):
        Evaluation("m", {}, (GOOD, apart))


def test_histogram_counts_every_score_once() -> None:
    rng = np.random.default_rng(0)
    relevant, other = (
        rng.normal(x, 0.1, n).astype("f4") for x, n in ((1, 50), (0, 900))
    )
    found = Histogram.of(relevant, other, bins=12)
    assert len(found.edges) == 13
    assert found.edges[0] == other.min() and found.edges[-1] == relevant.max()
    for scores, counts in ((relevant, found.relevant), (other, found.other)):
        for low, high, count in zip(found.edges, found.edges[1:], counts, strict=False):
            last = high == found.edges[-1]
            inside = (scores >= low) & ((scores < high) | last)
            assert inside.sum() == count
    assert all(type(count) is int for count in found.relevant)
    alike = Histogram.of([0.5, 0.5], [])
    assert sum(alike.relevant) == 2 and sum(alike.other) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Histogram.of([], []), "finite scores, found none"),
        (lambda: Histogram.of([0.5, math.nan], [1]), "finite scores, found others"),
        (
            lambda: Histogram((0, 1), (1, 2), (3,)),
            "of 1 bins, .*, found 2 and 1 counts",
        ),
        (lambda: Histogram((0,), (), ()), "counts of 0 bins, one at least"),
        (lambda: Histogram((0, 1, 1), (1, 2), (3, 4)), "rising edges"),
        (lambda: Histogram((0, 1), (-1,), (0,)), "counts from 0"),
        (lambda: EmbeddingMap("m", (), (), (0, 0)), "map m: expected at least one po"),
        (
            lambda: EmbeddingMap("m", ((0, 0), (1, 1)), ("a",), (0, 0)),
            "map m: expected 2 labels, one a point, found 1",
        ),
    ],
)
def test_what_is_no_picture(make, message) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_the_mean_of_many_items_may_differ_in_the_last_digits() -> None:
    rng = np.random.default_rng(0)
    row = {str(i): value for i, value in enumerate(rng.random(10_001).tolist())}
    value = float(np.mean(np.array(list(row.values()), "f4")))
    assert value != sum(row.values()) / len(row)
    Outcome("t", "bitext", "f1", {"dense": {"f1": value}}, {"dense": row})
