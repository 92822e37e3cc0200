"""Exact search: the best passages of each query, and a corpus kept on disk."""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m3jax.core import files, tree
from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded, require_own
from m3jax.ops import scores as ops

PASSAGES, META = "passages.jsonl", "meta.json"
_QUERIES = 256  # scored at once: the largest array is float32 [_QUERIES, tile]


def top_k(
    query: np.ndarray | jax.Array,
    passage: np.ndarray | jax.Array,
    k: int,
    *,
    tile: int = 65_536,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k passages with the largest inner products, for each query; exact.

    Passages stream through the device in tiles, of which each leaves its best k: no
    more than 256 x tile scores exist at once, and a memory-mapped corpus is read one
    tile at a time.

    Args:
        query: float32 `[q e]`.
        passage: float32 `[p e]`.
        k: how many; at most p are returned.
        tile: passages scored at once.

    Returns:
        Scores float32 `[q k]`, the largest first, and passage numbers int64 `[q k]`;
        of equal scores the lower number comes first.

    Raises:
        InputError: k or tile is below 1, or the widths differ.

    Example:
        >>> found, at = top_k(np.eye(2, dtype=np.float32), np.ones((3, 2)), 2)
        >>> at.tolist()
        [[0, 1], [0, 1]]
    """
    for name, number in (("k", k), ("tile", tile)):
        if number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    if query.shape[1] != passage.shape[1]:
        raise InputError(
            f"passages of width {query.shape[1]}, as the queries",
            f"{passage.shape[1]}",
            where="top_k",
        )
    count, k = len(query), min(k, len(passage))
    scores, at = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    if k == 0:
        return scores, at
    rows, tile = min(_QUERIES, _power(count)), min(tile, len(passage))
    for first in range(0, count, rows):
        part = _padded(query[first : first + rows], rows)
        best = (
            jnp.full((rows, k), -jnp.inf, jnp.float32),
            jnp.zeros((rows, k), jnp.int32),
        )
        for start in range(0, len(passage), tile):
            some = _padded(passage[start : start + tile], tile)
            best = _merge(best, part, some, start, len(passage))
        size = min(rows, count - first)
        scores[first : first + size] = np.asarray(best[0])[:size]
        at[first : first + size] = np.asarray(best[1])[:size]
    return scores, at


@jax.jit
def _merge(
    best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
    query: Float[Array, "q e"],
    passage: Float[Array, "p e"],
    start: Int[Array, ""],
    count: Int[Array, ""],
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Keep the best of what was found before and of one more tile."""
    k = best[0].shape[1]
    at = start + jnp.arange(len(passage))
    scores = ops.dense(query, passage)
    # The sort tells -0 from 0; and rows that only fill up the tile are no passages.
    scores = jnp.where(scores == 0, 0, scores)
    scores = jnp.where(at[None] < count, scores, -jnp.inf)
    scores, place = jax.lax.top_k(scores, min(k, len(passage)))
    # Of equal scores top_k takes the first: the earlier tile, the lower number.
    scores = jnp.concatenate([best[0], scores], axis=1)
    at = jnp.concatenate([best[1], at[place]], axis=1)
    scores, place = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(at, place, axis=1)


def _power(number: int) -> int:
    """The next power of two, so that few shapes are compiled."""
    return 1 << (number - 1).bit_length()


def _padded(rows: np.ndarray | jax.Array, size: int) -> np.ndarray | jax.Array:
    if len(rows) == size:
        return rows
    return np.pad(np.asarray(rows), ((0, size - len(rows)), (0, 0)))
