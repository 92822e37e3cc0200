"""A shuffle that is asked for single places, and never held as a whole."""

import math
from collections.abc import Sequence

import numpy as np

_ROUNDS, _ROUNDS_OF_FEW, _FEW = 4, 8, 1_000
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)


def permute(places: np.ndarray, count: int, key: Sequence[int]) -> np.ndarray:
    """Tell which of `count` things come at some places of their shuffled order.

    A Feistel network on a rectangle of at least `count` cells; a cell outside of the
    range is sent through again until it falls inside. So a place of ten million costs
    what a place of ten does, and nothing is kept between two calls.

    Args:
        places: int64, each from 0 to below `count`.
        count: how many things.
        key: integers that choose the order, e.g. seed and epoch.

    Returns:
        int64, as many as `places`; all places together give each thing once.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains".

    Example:
        >>> sorted(permute(np.arange(5), 5, (0, 1)).tolist())
        [0, 1, 2, 3, 4]
    """
    width = math.isqrt(max(count - 1, 0)) + 1
    height = -(-count // width)
    keys = _keys(key, 2 * (_ROUNDS_OF_FEW if count < _FEW else _ROUNDS))
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        found[outside] = _rounds(found[outside], width, height, keys)
        outside = outside[found[outside] >= count]
    return found.astype(np.int64)


def _rounds(
    cells: np.ndarray, width: int, height: int, keys: Sequence[int]
) -> np.ndarray:
    wide, high = np.uint64(width), np.uint64(height)
    x, y = np.divmod(cells, high)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        x = (x + _stirred(y, first)) % wide
        y = (y + _stirred(x, second)) % high
    return x * high + y


def _stirred(x: np.ndarray, key: int) -> np.ndarray:
    """The upper half of the bits of x and a key, well mixed."""
    x = (x + np.uint64(key)) * _FIRST
    x ^= x >> _HALF
    x *= _SECOND
    x >>= _HALF
    return x


def _keys(key: Sequence[int], count: int) -> list[int]:
    """Keys of the rounds: a chain through all integers, the same on every machine."""
    state = 0
    for part in key:
        state = mixed(state + part)
    return [mixed(state + number) for number in range(1, count + 1)]


def mixed(number: int) -> int:
    """The next of a stream of 64 random bits (splitmix64).

    Args:
        number: what the bits are made of; negative and large ones wrap around.

    Returns:
        From 0 to below 2^64.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators".

    Example:
        >>> mixed(0) == mixed(2**64) != mixed(1)
        True
    """
    x = (number * _GOLDEN + _GOLDEN) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
