"""One number for several sets of graded pairs, as SimCSE reports a year of STS."""

from collections.abc import Mapping, Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.rows import finite_numbers
from m3jax.evaluation.similarity import correlate

METRICS = ("all", "mean", "wmean")
Numbers = Sequence[float] | np.ndarray


def aggregate(
    cosines: Mapping[str, Numbers], grades: Mapping[str, Numbers]
) -> dict[str, float]:
    """Make one Spearman correlation of those of several subsets, in three ways.

    The three differ by points, so a table has to say which it shows. SimCSE's shows
    "all", which also asks that pairs of different subsets are ordered rightly.

    Args:
        cosines: subset -> cosines of its pairs.
        grades: subset -> grades of the same pairs, all on one scale.

    Returns:
        all: of the pairs of all subsets together; mean: of the correlations of the
        subsets; wmean: the same, each weighted by its number of pairs.

    Raises:
        InputError: there is no subset, the two have other subsets or numbers of pairs,
            a number is not finite, or all grades of a subset are equal.

    Source: Gao et al. 2021 (SimCSE), appendix B, arXiv:2104.08821; SentEval's sts.py.

    Example:
        >>> cosines = {"news": [0.1, 0.2, 0.3], "forum": [0.7, 0.9]}
        >>> found = aggregate(cosines, {"news": [1, 2, 3], "forum": [2, 1]})
        >>> {name: round(value, 3) for name, value in found.items()}
        {'all': 0.0, 'mean': 0.0, 'wmean': 0.2}
    """
    if not grades or set(cosines) != set(grades):
        expected = f"cosines of the subsets {', '.join(grades)}" if grades else "grades"
        raise InputError(expected, ", ".join(cosines) or "none", where="sts")
    ours, theirs = (
        {name: finite_numbers(rows[name], where=f"{name}: {what}") for name in grades}
        for what, rows in (("cosines", cosines), ("grades", grades))
    )
    each = [_spearman(ours[name], theirs[name], name) for name in grades]
    sizes = [len(row) for row in theirs.values()]
    left, right = (np.concatenate(list(rows.values())) for rows in (ours, theirs))
    return {
        "all": _spearman(left, right, "all subsets"),
        "mean": float(np.mean(each)),
        "wmean": float(np.average(each, weights=sizes)),
    }


def _spearman(cosines: np.ndarray, grades: np.ndarray, where: str) -> float:
    try:
        return correlate(cosines, grades)["spearman"]
    except InputError as error:
        raise error.at(where) from None
