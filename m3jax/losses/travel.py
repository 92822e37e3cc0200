"""What goes from device to device: queries out, scores home."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Axis = str | tuple[str, ...] | None


def everyones(tree: Any, axis_name: Axis) -> Any:
    """Rows of all devices, in the order of the devices.

    Args:
        tree: arrays `[b ...]` of this device.
        axis_name: mapped axes over which the rows are divided; None = one device.

    Returns:
        Arrays `[B ...]`.

    Example:
        >>> import jax.numpy as jnp
        >>> everyones(jnp.ones((2, 3)), None).shape
        (2, 3)
    """
    if axis_name is None:
        return tree

    def gather(x: Array) -> Array:
        narrow = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
        return (_gather_narrow if narrow else _gather)(x, axis_name)

    return jax.tree.map(gather, tree)


def _gather(x: Array, axis_name: str | tuple[str, ...]) -> Array:
    return jax.lax.all_gather(x, axis_name, axis=0, tiled=True)


_gather_narrow = jax.custom_vjp(_gather, nondiff_argnums=(1,))


def _gather_forward(x: Array, axis_name: Any) -> tuple[Array, None]:
    return _gather(x, axis_name), None


def _gather_backward(axis_name: Any, _: None, slope: Array) -> tuple[Array]:
    # In bfloat16, a sum over hundreds of devices would lose a few percent.
    wide = slope.astype(jnp.float32)
    found = jax.lax.psum_scatter(wide, axis_name, scatter_dimension=0, tiled=True)
    return (found.astype(slope.dtype),)


_gather_narrow.defvjp(_gather_forward, _gather_backward)


def home(scores: Float[Array, "Q p"], axis_name: Axis) -> Float[Array, "q P"]:
    """Turn scores of all queries with the local passages into the local queries' own.

    Args:
        scores: of the queries of all devices with the passages of this one.
        axis_name: as of `everyones`.

    Returns:
        Scores of the queries of this device with the passages of all.

    Example:
        >>> import jax.numpy as jnp
        >>> home(jnp.ones((2, 6)), None).shape
        (2, 6)
    """
    if axis_name is None:
        return scores
    return jax.lax.all_to_all(
        scores, axis_name, split_axis=0, concat_axis=1, tiled=True
    )
