"""Parameters on the host, one published tensor at a time."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from m3jax.core import tree


def pieces(path: str, leaf: Any) -> Iterator[np.ndarray]:
    """The published tensors of one leaf, as numpy arrays.

    `np.asarray` of a jax array keeps the copy for as long as the array lives. Nothing
    is kept here: a tensor is gone when the caller lets go of it.

    Of parameters that several processes hold together, every process gets all; each
    has to ask for the same ones in the same order.

    Args:
        path: of the leaf; under `layers` it is one tensor a layer, else one.
        leaf: a jax or a numpy array.

    Yields:
        The tensors, in the order of the layers.

    Example:
        >>> [piece.shape for piece in pieces("layers.bias", np.ones((2, 4)))]
        [(4,), (4,)]
    """
    if tree.STACK in path.split("."):
        for layer in range(leaf.shape[0]):
            yield _fetch(leaf[layer])
    elif isinstance(leaf, jax.Array):
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            yield _fetch(leaf)
            return
        # Another array of the same buffers: what it keeps goes with it.
        parts = [shard.data for shard in leaf.addressable_shards]
        yield np.asarray(
            jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)
        )
    else:
        yield leaf


def _fetch(x: Any) -> np.ndarray:
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)
