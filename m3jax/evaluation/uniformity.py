"""How close embeddings of the same meaning lie, and how evenly all of them."""

import math
from collections.abc import Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.rows import (
    finite_numbers,
    require_one_width,
    require_positive,
    unit,
)

METRICS = ("alignment", "uniformity")
_T = 2.0
_BLOCK = 2_048  # rows of each side whose distances exist at once: 32 MiB


def measure(
    first: np.ndarray,
    second: np.ndarray,
    grades: Sequence[float] | np.ndarray,
    *,
    least: float = 4.0,
) -> dict[str, float]:
    """Measure alignment and uniformity on graded pairs, as SimCSE does on STS-B.

    Args:
        first: embeddings of one text of each pair, `[n e]`.
        second: of the other, `[n e]`.
        grades: of the pairs.
        least: the grade from which two texts mean the same. SimCSE's paper says
            "higher than 4" of 5; the code in use takes those of 4 as well.

    Returns:
        alignment of the pairs graded `least` or more, and uniformity of all texts.

    Raises:
        InputError: embeddings are not finite or zero, grades are not finite, numbers or
            widths differ, or no pair is graded so high.

    Source: Gao et al. 2021 (SimCSE), section 3, arXiv:2104.08821.

    Example:
        >>> found = measure(np.eye(2), np.eye(2), [5, 0])
        >>> found["alignment"], round(found["uniformity"], 3)
        (0.0, -1.063)
    """
    graded = finite_numbers(grades, where="grades")
    if not (len(first) == len(second) == graded.size) or graded.ndim != 1:
        found = f"{len(first)}, {len(second)} and {graded.size}"
        expected = "as many first texts as second ones and grades"
        raise InputError(expected, found, where="uniformity")
    close = graded >= least
    if not close.any():
        highest = f"none; the highest is {graded.max():g}" if graded.size else "none"
        raise InputError(
            f"a pair of grade {least:g} or more",
            highest,
            where="uniformity",
            do="Let least be the grade from which two texts mean the same.",
        )
    first, second = unit(first, where="first"), unit(second, where="second")
    require_one_width(first=first, second=second)
    return {
        "alignment": alignment(first[close], second[close]),
        "uniformity": uniformity(np.concatenate([first, second])),
    }


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of embeddings that should be the same.

    E |x - y|^2 over the pairs (x, y), of length 1.

    Args:
        first: embeddings, `[n e]`.
        second: of texts of the same meaning, in the same order, `[n e]`.

    Returns:
        From 0, the best, to 4.

    Raises:
        InputError: embeddings are not finite or zero, or numbers or widths differ.

    Source: Wang and Isola 2020, with alpha = 2, arXiv:2005.10242.

    Example:
        >>> alignment(np.array([[1, 0], [0, 1]]), np.array([[5, 0], [1, 0]]))
        1.0
    """
    first, second = unit(first, where="first"), unit(second, where="second")
    require_one_width(first=first, second=second)
    if len(first) != len(second):
        expected, found = f"{len(first)} embeddings", f"{len(second)}"
        raise InputError(expected, found, where="second")
    apart = first.astype(np.float64) - second
    return float(np.square(apart).sum(axis=1).mean())


def uniformity(embeddings: np.ndarray, *, block: int = _BLOCK) -> float:
    """How far apart embeddings lie, the close ones above all.

    log E exp(-2 |x - y|^2) over all pairs of two rows, of length 1; block by block, so
    that no `[n n]` exists.

    Args:
        embeddings: `[n e]`, two rows or more.
        block: rows of each side at once.

    Returns:
        From -8 to 0; 0 where all embeddings are the same.

    Raises:
        InputError: embeddings are not finite or zero, or fewer than two, or block is
            below 1.

    Source: Wang and Isola 2020, with t = 2, arXiv:2005.10242.

    Example:
        >>> uniformity(np.array([[1, 0], [-1, 0]]))
        -8.0
    """
    require_positive(block=block)
    rows = unit(embeddings, where="uniformity")
    count = len(rows)
    if count < 2:
        raise InputError("two embeddings or more", f"{count}", where="uniformity")
    total = 0.0
    for i in range(0, count, block):
        for j in range(i, count, block):
            cosines = rows[i : i + block] @ rows[j : j + block].T
            # |x - y|^2 = 2 - 2 <x, y>, where both have length 1.
            near = np.exp(2 * _T * (cosines - 1), dtype=np.float64)
            total += float((np.triu(near, 1) if i == j else near).sum())
    return math.log(total / (count * (count - 1) / 2))
