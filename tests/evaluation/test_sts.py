"""Three ways to make one number of several subsets, by scipy used directly."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from m3jax.core.errors import InputError
from m3jax.evaluation.sts import aggregate

SIZES = {"news": 5, "forum": 40, "captions": 12}


def subsets(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    grades = {name: rng.integers(0, 6, size) for name, size in SIZES.items()}
    cosines = {
        # Each subset has a level of its own: "all" and "mean" are far apart.
        name: grades[name] / 10 + i + rng.normal(size=size) / 5
        for i, (name, size) in enumerate(SIZES.items())
    }
    return cosines, grades


def spearman(x: Any, y: Any) -> float:
    found: Any = scipy.stats.spearmanr(x, y)[0]
    return float(found)


@pytest.mark.parametrize("seed", range(3))
def test_against_scipy(seed: int) -> None:
    cosines, grades = subsets(seed)
    each = {name: spearman(cosines[name], grades[name]) for name in SIZES}
    weighted = sum(SIZES[name] * each[name] for name in SIZES) / sum(SIZES.values())
    joined = ([x for n in SIZES for x in rows[n]] for rows in (cosines, grades))
    expected = {
        "all": spearman(*joined),
        "mean": sum(each.values()) / 3,
        "wmean": weighted,
    }
    found = aggregate(cosines, grades)
    assert found == pytest.approx(expected)
    assert len({round(value, 3) for value in found.values()}) == 3
    # Subsets go together by name.
    turned = dict(reversed(cosines.items()))
    assert aggregate(turned, grades) == pytest.approx(expected)


def test_one_subset() -> None:
    found = aggregate({"a": [0.1, 0.3, 0.2]}, {"a": [1, 2, 3]})
    assert found == pytest.approx(dict.fromkeys(("all", "mean", "wmean"), 0.5))


def test_what_cannot_be_measured() -> None:
    cosines, grades = subsets(0)
    refused: list[tuple[Any, Any, str]] = [
        ({}, {}, "sts: expected grades, found none"),
        ({"a": [1, 2]}, {}, "sts: expected grades, found a"),
        ({}, grades, "cosines of the subsets news, forum, captions, found none"),
        ({**cosines, "x": [1]}, grades, "found news, forum, captions, x"),
        (
            {**cosines, "news": [math.nan, 0, math.inf, 0, 0]},
            grades,
            "news: cosines: expected .* NaN or infinity 2 times, first at 0",
        ),
        (
            cosines,
            {**grades, "forum": [math.nan] * 40},
            "forum: grades: expected finite numbers, found NaN or infinity 40 times",
        ),
        (
            cosines,
            {**grades, "forum": [3] * 40},
            "forum: correlate: expected pairs of two grades or more, found 40 pairs",
        ),
        (
            {**cosines, "news": [1, 2]},
            grades,
            r"news: correlate: expected \(2,\) grades, found \(5,\)",
        ),
    ]
    for left, right, message in refused:
        with pytest.raises(InputError, match=message):
            aggregate(left, right)
