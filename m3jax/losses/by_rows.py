"""A value for every row, computed and differentiated a tile of rows at a time."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3jax.core.errors import InputError
from m3jax.ops.scores.tiles import check_tile, length, scan_tiles, vary_like

Gradient = Literal["eager", "late"]
# (rows, facts of rows, shared, facts that are shared) -> (a value a row, more a row)
PerRow = Callable[[Any, Any, Any, Any], tuple[jax.Array, Any]]


def check_gradient(gradient: str) -> None:
    """Refuse a name that is neither of the two ways.

    Raises:
        InputError: it is neither.

    Example:
        >>> check_gradient("late")
    """
    if gradient not in ("eager", "late"):
        raise InputError("eager or late", repr(gradient), where="gradient")


def by_rows(
    function: PerRow,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
    *,
    tile: int | None,
    gradient: Gradient = "eager",
) -> tuple[Float[Array, " b"], Any]:
    """Apply a function to a tile of rows at a time, with little memory for gradients.

    What is as large as rows x shared, as scores or logits, exists for one tile only.
    eager: the gradient is made together with the value, as if every row had the same
    weight in the end, and scaled afterwards; if the weights turn out to differ, it is
    made once more. late: value and intermediate results are made a second time when
    the weights are known, always. A mean is faster with eager, other sums with late.

    Args:
        function: gives a float32 value for each row, which depends on this row and on
            `shared` alone, and a tree of arrays, a row each, without gradient.
        rows: arrays `[b ...]` with gradients.
        row_facts: arrays `[b ...]` without gradients.
        shared: arrays with gradients that all rows see.
        shared_facts: the same without gradients.
        tile: rows at once; None = all, differentiated as jax does.
        gradient: when it is made.

    Returns:
        Values `[b]`, and the other tree.

    Raises:
        InputError: `tile` is not positive.

    Example:
        >>> def function(rows, row_facts, shared, shared_facts):
        ...     return (rows * shared).sum(1), None
        >>> ones = jnp.ones((3, 2))
        >>> by_rows(function, ones, None, jnp.ones(2)[None], None, tile=1)[0].tolist()
        [2.0, 2.0, 2.0]
    """
    check_tile(tile)
    check_gradient(gradient)
    if tile is None or tile >= length(rows):
        return function(rows, row_facts, shared, shared_facts)
    # Sums over devices belong outside of the loop and of the choice in it.
    rows, row_facts, shared, shared_facts = vary_like(
        (rows, row_facts, shared, shared_facts)
    )
    return _tiled(function, tile, gradient, rows, row_facts, shared, shared_facts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _tiled(
    function: PerRow,
    tile: int,
    gradient: Gradient,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
) -> tuple[Array, Any]:
    def step(carry: None, part: Any) -> tuple[None, tuple[Array, Any]]:
        return carry, function(*part, shared, shared_facts)

    return scan_tiles(step, None, (rows, row_facts), tile)[1]


def _forward(
    function: PerRow,
    tile: int,
    gradient: Gradient,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
) -> tuple[tuple[Array, Any], Any]:
    given = rows, row_facts, shared, shared_facts
    if gradient == "late":
        return _tiled(function, tile, gradient, *given), (given, None)
    found, slopes = gradients(function, tile, *given, lambda found, _: jnp.ones_like(found[0]))
    return found, (given, slopes)


def gradients(
    function: PerRow,
    tile: int,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
    weigh: Callable[[Array, Any], Array],
    weights: Any = None,
) -> tuple[tuple[Array, Any], tuple[Any, Any]]:
    """Values and gradients of a weighted sum of them, a tile of rows at a time.

    Args:
        function: as of `by_rows`.
        tile: rows at once.
        rows: as of `by_rows`.
        row_facts: as of `by_rows`.
        shared: as of `by_rows`.
        shared_facts: as of `by_rows`.
        weigh: (what the function found for a tile, `weights` of it) -> cotangents.
        weights: arrays `[b ...]`.

    Returns:
        What the function found, and the gradients by `rows` and by `shared`.
    """

    def step(total: Any, part: Any) -> tuple[Any, Any]:
        rows, row_facts, weights = part
        values, pull, more = jax.vjp(
            lambda rows, shared: function(rows, row_facts, shared, shared_facts),
            rows,
            shared,
            has_aux=True,
        )
        by_rows, by_shared = pull(weigh((values, more), weights))
        total = jax.tree.map(lambda sum, x: sum + x.astype(sum.dtype), total, by_shared)
        return total, ((values, more), by_rows)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shared)
    zeros = vary_like(zeros, rows, shared)
    total, (found, by_rows) = scan_tiles(step, zeros, (rows, row_facts, weights), tile)
    return found, (by_rows, total)


def _backward(
    function: PerRow, tile: int, gradient: Gradient, kept: Any, cotangents: Any
) -> tuple[Any, None, Any, None]:
    given, slopes = kept
    weights, _ = cotangents

    def again() -> tuple[Any, Any]:
        return gradients(function, tile, *given, lambda _, weights: weights, weights)[1]

    def scaled() -> tuple[Any, Any]:
        return jax.tree.map(lambda x: x * weights[0].astype(x.dtype), slopes)

    if gradient == "late":
        by_rows, by_shared = again()
    else:
        same = jnp.all(weights == weights[0])
        by_rows, by_shared = jax.lax.cond(same, scaled, again)
    rows, _, shared, _ = given
    return (
        jax.tree.map(lambda x, like: x.astype(like.dtype), by_rows, rows),
        None,
        jax.tree.map(lambda x, like: x.astype(like.dtype), by_shared, shared),
        None,
    )


_tiled.defvjp(_forward, _backward)
