"""Inner products of dense embeddings."""

import functools
from typing import Any

import jax
from jaxtyping import Array, Float

from m3jax.core.errors import InputError
from m3jax.ops import checks
from m3jax.ops.product import product
from m3jax.ops.scores.tiles import check_tile, one_to_one, scan_tiles, vary_like


def dense(
    query: Float[Array, "q e"],
    passage: Float[Array, "p e"],
    *,
    tile: int | None = None,
) -> Float[Array, "q p"]:
    """Inner products of all pairs: s_qp = <q, p>; cosines when both have length 1.

    float32 operands are multiplied in full precision, others as they are; sums are
    float32.

    Args:
        query: query embeddings.
        passage: passage embeddings.
        tile: queries multiplied at once; None = all.

    Returns:
        float32 scores.

    Raises:
        InputError: shapes do not fit, or `tile` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> dense(jnp.eye(2), jnp.ones((1, 2))).tolist()
        [[1.0], [1.0]]
    """
    check_tile(tile)
    _check(query, passage)
    if tile is not None and tile < len(query):
        return _in_tiles(*vary_like((query, passage)), tile)
    return product("qe,pe->qp", query, passage)


# Outside of any program, the loop would be compiled anew at each call.
@functools.partial(jax.jit, static_argnums=2)
def _in_tiles(
    query: Float[Array, "q e"], passage: Float[Array, "p e"], tile: int
) -> Float[Array, "q p"]:
    return scan_tiles(lambda _, q: (None, dense(q, passage)), None, query, tile)[1]


def dense_pairs(
    query: Float[Array, "n e"], passage: Float[Array, "n e"], *, tile: int | None = None
) -> Float[Array, " n"]:
    """Inner products one to one: s_i = <q_i, p_i>; else as `dense`.

    Args:
        query: query embeddings.
        passage: passage embeddings, one for each query.
        tile: pairs at once; None = all.

    Returns:
        float32 scores.

    Raises:
        InputError: shapes do not fit, or `tile` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> dense_pairs(jnp.eye(2), jnp.ones((2, 2))).tolist()
        [1.0, 1.0]
    """
    _check(query, passage)
    return one_to_one(dense, query, passage, tile)


def _check(query: Any, passage: Any) -> None:
    for name, array in (("query", query), ("passage", passage)):
        checks.array(name, array, "floats")
        if array.ndim != 2 or not array.shape[1]:
            found = f"shape {tuple(array.shape)}"
            raise InputError("[texts e], e at least 1", found, where=name)
    if query.shape[1] != passage.shape[1]:
        width, found = query.shape[1], passage.shape[1]
        raise InputError(f"width {width}, as query", f"{found}", where="passage")
