"""Products of many rows with many others, and their gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3jax.ops.scores.tiles import add_tiles

# Rows of a gradient that are added at once; elsewhere XLA may hold it twice.
_PIECE = 2048


def product(how: str, one: Array, two: Array) -> Float[Array, "..."]:
    """`jnp.einsum` in full precision, with float32 sums.

    Example:
        >>> product("td,vd->tv", jnp.ones((1, 2)), jnp.ones((3, 2))).tolist()
        [[2.0, 2.0, 2.0]]
    """
    return jnp.einsum(
        how,
        one,
        two,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def add_product(
    total: Float[Array, "v d"], slope: Float[Array, "t v"], rows: Float[Array, "t d"]
) -> Float[Array, "v d"]:
    """Add the gradient by v rows of what was multiplied with t others.

    The total plus slope' rows, a piece of the total at a time, in its place.

    Example:
        >>> add_product(jnp.ones((1, 2)), jnp.ones((3, 1)), jnp.ones((3, 2))).tolist()
        [[4.0, 4.0]]
    """

    def add(total: Array, start: Any, size: int) -> Array:
        part = jax.lax.dynamic_slice_in_dim(slope, start, size, 1)
        before = jax.lax.dynamic_slice_in_dim(total, start, size)
        after = before + product("tv,td->vd", part, rows)
        return jax.lax.dynamic_update_slice_in_dim(total, after, start, 0)

    return add_tiles(add, total, len(total), _PIECE)
