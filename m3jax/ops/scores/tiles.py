"""Walks along the first axis, a tile at a time."""

import functools
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
    whole = isinstance(tile, int) and not isinstance(tile, bool)
    if tile is not None and (not whole or tile < 1):
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
            lambda x: x[:whole].reshape(whole // tile, tile, *x.shape[1:]), rows
        )
        carry, found = jax.lax.scan(step, carry, tiles)
        results.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), found))
    if whole < count:
        carry, found = step(carry, jax.tree.map(lambda x: x[whole:], rows))
        results.append(found)
    if len(results) == 1:
        return carry, results[0]
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def map_tiles(function: Callable[[Any], Any], rows: Any, tile: int) -> Any:
    """Apply a function to a tile of rows at a time, without a gradient of its own.

    The last tile starts earlier where it would be shorter, and some results are found
    twice: dividing the rows otherwise costs a copy of them.

    Args:
        function: a tile of the rows -> results with a row for each row.
        rows: a tree of arrays with the same first axis.
        tile: rows at once.

    Returns:
        The results of all rows.

    Example:
        >>> map_tiles(lambda x: 2 * x, jnp.arange(3), 2)
        Array([0, 2, 4], dtype=int32)
    """
    count = length(rows)
    if tile >= count:
        return function(rows)

    def part(start: Any) -> Any:
        cut = functools.partial(jax.lax.dynamic_slice_in_dim, slice_size=tile)
        return function(jax.tree.map(lambda x: cut(x, start), rows))

    def step(found: Any, start: jax.Array) -> tuple[Any, None]:
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
        return jax.tree.map(lambda x, y: put(x, y, start), found, part(start)), None

    like = jax.eval_shape(part, 0)
    zeros = jax.tree.map(lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype), like)
    starts = jnp.minimum(jnp.arange(0, count, tile), count - tile)
    return jax.lax.scan(step, vary_like(zeros, rows), starts)[0]


def add_tiles(
    step: Callable[[Any, Any, int], Any], carry: Any, count: int, tile: int
) -> Any:
    """Change a carry tile by tile; as `scan_tiles`, for steps that cut out their rows.

    Args:
        step: (carry, first row, rows of this tile) -> carry.
        carry: at first.
        count: rows in all; the last tile may have fewer.
        tile: rows at once.

    Returns:
        The last carry.

    Example:
        >>> add_tiles(lambda carry, start, size: carry + size, 0, 5, 2)
        Array(5, dtype=int32, weak_type=True)
    """
    if tile >= count:
        return step(carry, 0, count)
    whole = count // tile
    carry = jax.lax.fori_loop(0, whole, lambda n, x: step(x, n * tile, tile), carry)
    return step(carry, whole * tile, count % tile) if count % tile else carry


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

    Raises:
        InputError: `tile` is not positive, or there are not as many of both.

    Example:
        >>> ones = jnp.ones(2)
        >>> one_to_one(lambda q, p: q[:, None] + p[None], ones, ones, None)
        Array([2., 2.], dtype=float32)
    """
    check_tile(tile)
    count, found = length(query), length(passage)
    if count != found:
        raise InputError(
            f"{count} texts, one for each query", f"{found}", where="passage"
        )

    return _pairs(score, tile or max(1, count), vary_like((query, passage)))


# Outside of any program, the loop would be compiled anew at each call.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _pairs(
    score: Callable[[Any, Any], jax.Array], tile: int, pairs: tuple[Any, Any]
) -> jax.Array:
    def one(query: Any, passage: Any) -> jax.Array:
        return score(*jax.tree.map(lambda x: x[None], (query, passage)))[0, 0]

    def step(carry: None, pairs: tuple[Any, Any]) -> tuple[None, jax.Array]:
        return carry, jax.vmap(one)(*pairs)

    return scan_tiles(step, None, pairs, tile)[1]


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
