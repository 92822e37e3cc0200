"""What tests compare with: leaves of trees, slopes by differences, devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Leaf by leaf, as a share of its largest number.

    Leaves that hold no floats, as the gradient by ids, are not compared.
    """
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for x, y in pairs:
        if jnp.issubdtype(np.asarray(y).dtype, jnp.floating):
            limit = tolerance * float(np.abs(y).max(initial=0))
            np.testing.assert_allclose(x, y, rtol=0, atol=limit)


def slope(array: np.ndarray, total: Callable[[np.ndarray], float]) -> np.ndarray:
    """Of a total by each number of an array, by central differences."""
    found = np.zeros(array.size)
    for at in range(array.size):
        moved = []
        for by in (1e-6, -1e-6):
            changed = array.copy()
            changed.flat[at] += by
            moved.append(total(changed))
        found[at] = (moved[0] - moved[1]) / 2e-6
    return found.reshape(array.shape)


def line(devices: int) -> jax.sharding.Mesh:
    """A mesh of the first devices, whose axis is called data."""
    some = jax.devices()[:devices]
    return jax.make_mesh((devices,), ("data",), (AxisType.Auto,), devices=some)
