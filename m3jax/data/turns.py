"""Whose turn it is: data sets in the proportions asked for, at every step."""

import heapq
from collections.abc import Sequence
from fractions import Fraction

import numpy as np


def take_turns(
    weights: Sequence[float | Fraction], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide steps among data sets by weight: apportioned, not drawn.

    After any number of steps n, each data set has had its share of n, give or take less
    than one. The j-th turn of a data set (from 0) may be taken from the step where its
    share exceeds j, and must be before its share exceeds j + 1; of those that may, the
    one comes first that must soonest. Such a schedule always exists.

    Args:
        weights: above 0; only their proportions count.
        steps: how many.

    Returns:
        Data set of each step, int16, and how many turns it had before, int64.

    Source: Baruah et al. 1996, "Proportionate progress"; Tijdeman 1980.

    Example:
        >>> [part.tolist() for part in take_turns((2, 1), 6)]
        [[0, 0, 1, 0, 0, 1], [0, 1, 0, 2, 3, 1]]
    """
    exact = [Fraction(weight).limit_denominator(10**9) for weight in weights]
    scale = np.lcm.reduce([one.denominator for one in exact], dtype=object)
    whole = [int(one * scale) for one in exact]
    total = sum(whole)
    turns = np.empty(steps, np.int16)
    before = np.empty(steps, np.int64)
    taken = [0] * len(whole)
    # (the step after the last that is allowed, data set), and (first allowed, ...).
    ready = [(-(-total // weight), number) for number, weight in enumerate(whole)]
    heapq.heapify(ready)
    waiting: list[tuple[int, int]] = []
    for step in range(steps):
        while waiting and waiting[0][0] <= step:
            _, number = heapq.heappop(waiting)
            end = -(-(taken[number] + 1) * total // whole[number])
            heapq.heappush(ready, (end, number))
        _, number = heapq.heappop(ready)
        turns[step] = number
        before[step] = taken[number]
        taken[number] += 1
        first = taken[number] * total // whole[number]
        heapq.heappush(waiting, (first, number))
    return turns, before
