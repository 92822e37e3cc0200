"""Matryoshka: a loss on prefixes of dense embeddings."""

import inspect
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings
from m3jax.losses import checks
from m3jax.ops.pooling import normalize


def matryoshka(
    loss: Callable[..., Any],
    dims: Sequence[int],
    weights: Sequence[float | int] | None = None,
) -> Callable[..., Any]:
    """Make a loss that asks the same of prefixes of the embeddings.

    l = sum_d w_d loss(unit(query[:d]), unit(passage[:d])), a weighted sum that is not
    divided; unit scales to length 1, and leaves a row of zeros alone. The whole width
    is asked for by naming it among the dims.

    KaLM-Embedding has dims 64, 128, 256, 512, 896 with weights .1, .1, .2, .3, 1.

    Args:
        loss: takes query `[... e]`, passage `[... e]` and options, gives an array, as
            `info_nce` does. Or `m3`, which takes `Embeddings`: it is called once, cuts
            its dense head and scores the others once.
        dims: widths of the prefixes, ascending.
        weights: one for each; None = 1 each.

    Returns:
        A function with the arguments of `loss`; where the option `where` `[b g]` says
        that a passage or a positive is not there, `loss` is given zeros.

    Raises:
        InputError: dims that are not positive and ascending, weights of another length
            or that are no numbers; at the call, a dim larger than the embeddings, a
            loss that gives no array, `Embeddings` for another loss than `m3`.

    Source: Kusupati et al. 2022 (arXiv:2205.13147); weights and sum as in
    KaLM-Embedding (arXiv:2501.01028).

    Example:
        >>> import jax.numpy as jnp
        >>> nested = matryoshka(lambda q, p: (q * p).sum(-1), [1, 2], [0.5, 1.0])
        >>> f"{nested(jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0])):.3f}"
        '1.100'
    """
    dims, weights = check_dims(dims, weights)
    if not callable(loss):
        raise InputError("a function", type(loss).__name__, where="loss")

    def nested(query: Any, passage: Any, **options: Any) -> Any:
        if isinstance(query, Embeddings):
            if not _takes_dims(loss):
                expected = "arrays, or m3 as the loss of Embeddings"
                raise InputError(expected, "Embeddings", where="query")
            return loss(query, passage, dims=dims, dim_weights=weights, **options)
        query = checks.array("query", query, "floats")
        passage = checks.array("passage", passage, "floats")
        where = options.get("where")
        if where is not None and where.shape == passage.shape[:2]:
            # What is not there may be NaN, which scaling keeps in the gradient.
            query = jnp.where(where[:, :1], query, jnp.zeros_like(query))
            passage = jnp.where(where[:, :, None], passage, jnp.zeros_like(passage))
        total: Any = 0
        for dim, weight in zip(dims, weights, strict=True):
            found = loss(prefix(query, dim), prefix(passage, dim), **options)
            if not isinstance(found, jax.Array):
                kind = type(found).__name__
                raise InputError("a function that gives an array", kind, where="loss")
            total += weight * found
        return total

    return nested


def _takes_dims(loss: Callable[..., Any]) -> bool:
    known = inspect.signature(loss).parameters
    return "dims" in known or any(x.kind == x.VAR_KEYWORD for x in known.values())


def prefix(vectors: Float[Array, "... e"], dim: int) -> Float[Array, "... d"]:
    """The first `dim` numbers of each vector, scaled to length 1; zeros stay zeros.

    Raises:
        InputError: the vectors are shorter.

    Example:
        >>> import jax.numpy as jnp
        >>> prefix(jnp.array([3.0, 0.0, 4.0]), 2).tolist()
        [1.0, 0.0]
    """
    if dim > vectors.shape[-1]:
        raise InputError(
            f"at most the width {vectors.shape[-1]}", f"{dim}", where="dims"
        )
    return normalize(vectors[..., :dim]).astype(vectors.dtype)


def check_dims(
    dims: Sequence[int],
    weights: Sequence[float | int] | None,
    name: str = "weights",
) -> tuple[tuple[int, ...], tuple[float | int, ...]]:
    """Refuse dims that are not positive and ascending, and weights that do not fit.

    Returns:
        Both, with a weight for each dim.

    Raises:
        InputError: one of these.

    Example:
        >>> check_dims([64, 128], None)
        ((64, 128), (1.0, 1.0))
    """
    try:
        widths = tuple(0 if dim is True else operator.index(dim) for dim in dims)
    except TypeError:
        widths = ()
    if not widths or widths[0] < 1 or any(a >= b for a, b in pairwise(widths)):
        raise InputError("positive integers, ascending", f"{dims}", where="dims")
    if weights is None:
        return widths, (1.0,) * len(widths)
    if not hasattr(weights, "__len__"):
        raise InputError("a sequence of weights", repr(weights), where=name)
    if len(weights) != len(widths):
        expected = f"{len(widths)} weights, one for each dim"
        raise InputError(expected, f"{len(weights)}", where=name)
    for weight in weights:
        checks.number(name, weight)
    return widths, tuple(weights)
