"""Walks along the first axis, a tile at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from m3jax.core.errors import InputError


def check_tile(tile: int | None) -> None:
    """Refuse a tile that is no positive integer.

    Raises:
        InputError: it is none.

    Example:
        >>> check_tile(8)
    """
    if tile is not None and (not isinstance(tile, int) or tile < 1):
        raise InputError("a positive integer or None", repr(tile), where="tile")


def length(tree: Any) -> int:
    """Rows of the arrays of a tree.

    Example:
        >>> length({"a": jnp.ones((3, 2))})
        3
    """
    return jax.tree.leaves(tree)[0].shape[0]


def scan_tiles(
    step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, rows: Any, tile: int
) -> tuple[Any, Any]:
    """`jax.lax.scan` over tiles of rows; the last may be shorter, nothing is padded.

    Args:
        step: (carry, a tile of the rows) -> (carry, results with a row for each row).
        carry: at first.
        rows: a tree of arrays with the same first axis.
        tile: rows at once.

    Returns:
        The last carry, and the results of all rows.

    Example:
        >>> scan_tiles(lambda c, x: (c + x.sum(), 2 * x), 0, jnp.arange(3), 2)[1]
        Array([0, 2, 4], dtype=int32)
    """
    count = length(rows)
    whole = count // tile * tile
    if whole <= tile and whole == count:
        return step(carry, rows)
    results = []
    if whole:
        tiles = jax.tree.map(
            lambda x: x[:whole].reshape(-1, tile, *x.shape[1:]), rows
        )
        carry, found = jax.lax.scan(step, carry, tiles)
        results.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), found))
    if whole < count:
        carry, found = step(carry, jax.tree.map(lambda x: x[whole:], rows))
        results.append(found)
    if len(results) == 1:
        return carry, results[0]
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def one_to_one(
    score: Callable[[Any, Any], jax.Array], query: Any, passage: Any, tile: int | None
) -> jax.Array:
    """Score the i-th query with the i-th passage, by a function that scores all pairs.

    Args:
        score: `[q ...]`, `[p ...]` -> `[q p]`.
        query: arrays with a row a pair.
        passage: arrays with a row a pair.
        tile: pairs at once; None = all.

    Returns:
        A score a pair.

    Example:
        >>> one_to_one(lambda q, p: q[:, None] + p, jnp.ones(2), jnp.ones(2), None)
        Array([2., 2.], dtype=float32)
    """
    check_tile(tile)

    def one(pair: tuple[Any, Any]) -> jax.Array:
        return score(*jax.tree.map(lambda x: x[None], pair))[0, 0]

    if tile is None:
        return jax.vmap(one)((query, passage))
    return jax.lax.map(one, (query, passage), batch_size=tile)


def vary_like(tree: Any, *others: Any) -> Any:
    """Mark arrays as varying over the mapped axes that `others` vary over.

    Inside `jax.shard_map` a scan wants carries that vary as what is added to them, and
    a gradient that is summed over devices should be summed once, outside of the scan.

    Args:
        tree: arrays.
        others: trees of arrays.

    Returns:
        The same values.

    Example:
        >>> vary_like(jnp.ones(2), jnp.ones(3)).shape
        (2,)
    """
    axes: set[Any] = set()
    for leaf in jax.tree.leaves((tree, others)):
        axes |= set(jax.typeof(leaf).manual_axis_type.varying)

    def cast(x: Any) -> Any:
        lacking = tuple(sorted(axes - set(jax.typeof(x).manual_axis_type.varying)))
        return jax.lax.pcast(x, lacking, to="varying") if lacking else x

    return jax.tree.map(cast, tree)
