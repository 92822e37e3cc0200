"""Products of many rows with many others, and their gradients."""

from typing import Any

import jax
from jaxtyping import Array, Float

from m3jax.ops.product import product
from m3jax.ops.scores.tiles import add_tiles

# Rows of a gradient that are added at once; elsewhere XLA may hold it twice.
_PIECE = 2048


def add_product(
    total: Float[Array, "v d"], slope: Float[Array, "t v"], rows: Float[Array, "t d"]
) -> Float[Array, "v d"]:
    """Add the gradient by v rows of what was multiplied with t others.

    The total plus slope' rows, a piece of the total at a time, in its place.

    Example:
        >>> import jax.numpy as jnp
        >>> add_product(jnp.ones((1, 2)), jnp.ones((3, 1)), jnp.ones((3, 2))).tolist()
        [[4.0, 4.0]]
    """

    def add(total: Array, start: Any, size: int) -> Array:
        part = jax.lax.dynamic_slice_in_dim(slope, start, size, 1)
        before = jax.lax.dynamic_slice_in_dim(total, start, size)
        after = before + product("tv,td->vd", part, rows)
        return jax.lax.dynamic_update_slice_in_dim(total, after, start, 0)

    return add_tiles(add, total, len(total), _PIECE)


@jax.custom_vjp
def summed(
    rows: Float[Array, "t d"], columns: Float[Array, "v d"], total: Float[Array, "v d"]
) -> tuple[Float[Array, "t v"], Float[Array, "v d"]]:
    """All inner products, and `total` as it is.

    The gradient by the columns is no result of its own: it is added to that by
    `total`, by `add_product`, and that by `columns` is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> ones = jnp.ones((1, 2))
        >>> (found, _), pull = jax.vjp(summed, ones, ones, ones)
        >>> [x.tolist() for x in pull((jnp.full((1, 1), 3.0), ones))]
        [[[3.0, 3.0]], [[0.0, 0.0]], [[4.0, 4.0]]]
    """
    return product("td,vd->tv", rows, columns), total


def _forward(rows: Array, columns: Array, total: Array) -> tuple[Any, Any]:
    return (product("td,vd->tv", rows, columns), total), (rows, columns)


def _backward(kept: Any, slopes: tuple[Array, Array]) -> tuple[Array, None, Array]:
    (rows, columns), (slope, total) = kept, slopes
    of_rows = product("tv,vd->td", slope, columns).astype(rows.dtype)
    return of_rows, None, add_product(total, slope, rows)


summed.defvjp(_forward, _backward)
