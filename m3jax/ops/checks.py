"""What scores and losses refuse of arrays, in one line each."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.types import Multivec, Sparse


def array(name: str, value: Any, kind: str = "") -> Any:
    """Take an array, of jax or of numpy, and refuse everything else.

    Args:
        name: of the argument.
        value: what was given.
        kind: "floats", "integers" or "booleans", if it has to be of these.

    Returns:
        An array of jax.

    Raises:
        InputError: it is none, or not of the kind.

    Example:
        >>> array("query", [1.0])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: query: expected an array, found list
    """
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise InputError("an array", type(value).__name__, where=name)
    kinds: dict[str, Any] = {"": np.generic, "floats": jnp.floating}
    kinds |= {"integers": jnp.integer, "booleans": jnp.bool_}
    if not jnp.issubdtype(value.dtype, kinds[kind]):
        raise InputError(kind, f"{value.dtype}", where=name)
    return jnp.asarray(value)


def sparse(name: str, text: Any) -> None:
    """Refuse what is not `Sparse`, with a weight for each id.

    Raises:
        InputError: it names the part.

    Example:
        >>> sparse("query", Sparse(jnp.ones((1, 2), int), jnp.ones((1, 3))))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: query.weights: expected shape (1, 2), found (1, 3)
    """
    if not isinstance(text, Sparse):
        raise InputError("Sparse", type(text).__name__, where=name)
    ids, weights = text.ids, text.weights
    for part, value, kind in (("ids", ids, "integers"), ("weights", weights, "floats")):
        array(f"{name}.{part}", value, kind)
    if tuple(weights.shape) != tuple(ids.shape):
        expected, found = f"shape {tuple(ids.shape)}", f"{tuple(weights.shape)}"
        raise InputError(expected, found, where=f"{name}.weights")
    # jax would cut them, and other tokens would be the same.
    if isinstance(ids, np.ndarray) and ids.size and ids.max() > np.iinfo(np.int32).max:
        expected = "ids of at most 31 bits"
        raise InputError(expected, f"{ids.max()}", where=f"{name}.ids")


def multivec(name: str, text: Any) -> None:
    """Refuse what is not `Multivec`, with a mask for each vector.

    Raises:
        InputError: it names the part.

    Example:
        >>> multivec("query", Multivec(jnp.ones((1, 2, 4)), jnp.ones((1, 2))))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: query.mask: expected booleans, found float32
    """
    if not isinstance(text, Multivec):
        raise InputError("Multivec", type(text).__name__, where=name)
    vectors, mask = text.vectors, text.mask
    for part, value, kind in (
        ("vectors", vectors, "floats"),
        ("mask", mask, "booleans"),
    ):
        array(f"{name}.{part}", value, kind)
    expected = tuple(vectors.shape[:-1])
    if tuple(mask.shape) != expected:
        found = f"{tuple(mask.shape)}"
        raise InputError(f"shape {expected}", found, where=f"{name}.mask")
