"""The paired bootstrap against a simple loop, exact cases and the normal law."""

import itertools
import math
import random
import statistics
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from m3jax.core.errors import InputError
from m3jax.evaluation import paired
from m3jax.evaluation.paired import Paired, bootstrap


def items(values) -> dict[str, float]:
    return {f"q{i}": float(value) for i, value in enumerate(values)}


def simple(a: dict[str, float], b: dict[str, float], resamples: int):
    """The same by an independent loop: interval and p."""
    rng = random.Random(5)
    d = [b[name] - a[name] for name in a]
    means = sorted(statistics.fmean(rng.choices(d, k=len(d))) for _ in range(resamples))
    beyond = sum(mean * statistics.fmean(d) <= 0 for mean in means) / resamples
    low, high = (means[round(share * (resamples - 1))] for share in (0.025, 0.975))
    return low, high, min(1, 2 * beyond)


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.1])
def test_against_a_simple_loop(shift: float) -> None:
    rng = np.random.default_rng(3)
    first = rng.random(60)
    a, b = items(first), items(first + rng.normal(shift, 0.3, 60))
    found = bootstrap(a, b)
    low, high, p = simple(a, b, 4_000)
    assert found.difference == pytest.approx(
        statistics.fmean(b.values()) - statistics.fmean(a.values())
    )
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)
    assert found.p == pytest.approx(p, abs=0.04)


@pytest.mark.parametrize("d", [(1, 1, -1), (3, -1, -1, 1), (2, 2, -1, 0)])
def test_against_all_resamples_there_are(d: tuple[int, ...]) -> None:
    every = [sum(row) for row in itertools.product(d, repeat=len(d))]
    share = sum(total <= 0 for total in every) / len(every)
    found = bootstrap(items([0] * len(d)), items(d), resamples=40_000)
    assert found.p == pytest.approx(min(1, 2 * share), abs=0.02)
    # The other way round everything is mirrored.
    other = bootstrap(items(d), items([0] * len(d)), resamples=40_000)
    assert other.p == pytest.approx(found.p, abs=0.02)
    assert (other.low, other.high) == pytest.approx((-found.high, -found.low), abs=0.05)
    assert (other.better, other.worse) == (found.worse, found.better)


def test_normal_law() -> None:
    d = np.random.default_rng(0).normal(0.02, 0.4, 5_000)
    found = bootstrap(items(np.zeros(5_000)), items(d), resamples=2_000)
    error = d.std() / math.sqrt(len(d))
    assert found.low == pytest.approx(d.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(d.mean() + 1.96 * error, abs=0.1 * error)


@pytest.mark.parametrize("hits", [2, 5, 19])
def test_percentiles_of_a_binomial(hits: int) -> None:
    # Of 20 items some get better by 1: 20 times the mean is binomial, and skewed.
    found = bootstrap(items([0] * 20), items([1] * hits + [0] * (20 - hits)))
    law = scipy.stats.binom(20, hits / 20)
    assert [round(20 * found.low), round(20 * found.high)] == [
        law.ppf(0.025),
        law.ppf(0.975),
    ]


def test_counts_and_p_at_the_ends() -> None:
    found = bootstrap(items([0, 0, 1, 1]), items([0, 1, 0, 0]))
    assert (found.better, found.worse, found.equal, found.count) == (1, 2, 1, 4)
    same = bootstrap(items([0.3, 0.7]), items([0.3, 0.7]))
    assert same == Paired(0.0, 0.0, 0.0, 1.0, 0, 0, 2)
    assert not same.is_clear
    better = bootstrap(items([0.1, 0.2, 0.3]), items([0.2, 0.3, 0.5]))
    assert better.p == 2 / 10_001 and better.is_clear
    worse = bootstrap(items([0.2, 0.3, 0.5]), items([0.1, 0.2, 0.3]))
    assert worse.p == 2 / 10_001 and worse.is_clear


def test_what_cancels_is_zero() -> None:
    d = (1, 2, -3, 1)
    every = [sum(row) for row in itertools.product(d, repeat=4)]
    share = sum(total <= 0 for total in every) / len(every)
    # Of tenths many of these sums miss 0 by 1e-17, to either side.
    tenths = [sum(x / 10 for x in row) for row in itertools.product(d, repeat=4)]
    assert sum(0 < total < 1e-9 for total in tenths) / len(every) > 0.1
    found = bootstrap(items([0] * 4), items(x / 10 for x in d), resamples=40_000)
    assert found.p == pytest.approx(2 * share, abs=0.02)


def test_the_order_of_the_items_of_b_does_not_matter() -> None:
    a, b = items([0.1, 0.5, 0.9]), items([0.4, 0.5, 0.2])
    assert bootstrap(a, dict(reversed(b.items()))) == bootstrap(a, b)
    assert bootstrap(a, b) == bootstrap(a, b)
    assert bootstrap(a, b, seed=1) != bootstrap(a, b)


def test_blocks_bound_the_memory(monkeypatch) -> None:
    a, b = items(np.zeros(2_000)), items(np.random.default_rng(0).normal(size=2_000))
    whole = bootstrap(a, b, resamples=3_000)
    monkeypatch.setattr(paired, "_BLOCK", 200_000)
    tracemalloc.start()
    assert bootstrap(a, b, resamples=3_000) == whole
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 8 * 200_000  # and not 3,000 * 2,000 numbers of 8 bytes


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (
            items(range(7)),
            items(range(2)),
            "expected the same items on both sides, found 'q2', 'q3', 'q4' and 2 more "
            "missing from the second",
        ),
        (items([1, 2]), items([1, 2, 3]), "found 'q2' missing from the first"),
        ({"a": 1.0}, {"b": 1.0}, "found 'a' missing from the second"),
        ({"a": 1.0}, {"a": 1.0}, "expected two items or more, found 1"),
        ({}, {}, "expected two items or more, found 0"),
    ],
)
def test_items_that_cannot_be_compared(a, b, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bootstrap(a, b)
