"""A value for every row, computed and differentiated a tile of rows at a time."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from m3jax.core.errors import InputError
from m3jax.ops.scores.tiles import add_tiles, check_tile, length, vary_like

Gradient = Literal["eager", "late"]
# (rows, facts of rows, shared, facts that are shared) -> (a value a row, more a row)
PerRow = Callable[[Any, Any, Any, Any], tuple[jax.Array, Any]]
# (total so far, as PerRow, what weighs it) -> (new total, (found, gradients by rows))
Add = Callable[..., tuple[Any, tuple[tuple[jax.Array, Any], Any]]]


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
    counts: Bool[Array, " b"] | None = None,
    add: Add | None = None,
) -> tuple[Float[Array, " b"], Any]:
    """Apply a function to a tile of rows at a time, with little memory for gradients.

    What is as large as rows x shared, as scores or logits, exists for one tile only.
    eager: the gradient is made together with the value, as if every row had the same
    weight in the end, and scaled afterwards; if the weights turn out to differ, it is
    made once more. late: value and intermediate results are made a second time when
    the weights are known, always. A mean is faster with eager, other sums with late.

    With a tile: `jax.grad` of it may be differentiated again, but there is no
    `jax.jvp` of the values. Under `jax.vmap` eager makes both gradients, and under
    `jax.checkpoint` the values once more: late is as good there, or better.

    Args:
        function: gives a float32 value for each row, which depends on this row and on
            `shared` alone, and a tree of arrays, a row each, without gradient. It
            holds no traced array of its own.
        rows: arrays `[b ...]` with gradients.
        row_facts: arrays `[b ...]` without gradients.
        shared: arrays with gradients that all rows see.
        shared_facts: the same without gradients.
        tile: rows at once; None = all, differentiated as jax does.
        gradient: when it is made.
        counts: False = the row gives 0 and no gradient, whatever it holds, NaN too,
            and its weight is not looked at; a tile in which no row counts costs
            nothing.
        add: how a tile is differentiated, if not as jax does; see `add_tile`.

    Returns:
        Values `[b]`, and the other tree.

    Raises:
        InputError: `tile` is not a positive integer, or `gradient` neither way.

    Example:
        >>> def function(rows, row_facts, shared, shared_facts):
        ...     return (rows * shared).sum(1), None
        >>> ones = jnp.ones((3, 2))
        >>> by_rows(function, ones, None, jnp.ones(2)[None], None, tile=1)[0].tolist()
        [2.0, 2.0, 2.0]
    """
    check_tile(tile)
    check_gradient(gradient)
    given = rows, row_facts, shared, shared_facts
    if tile is None or tile >= length(rows):
        values, more = _only(counts, function(_only(counts, rows), *given[1:]))
        return values, jax.lax.stop_gradient(more)
    # Sums over devices belong outside of the loop and of the choice in it.
    return _compiled(function, add, tile, gradient, *vary_like((*given, counts)))


def add_tile(
    function: PerRow,
    total: Any,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
    weigh: Callable[[tuple[Array, Any]], Array],
) -> tuple[Any, tuple[tuple[Array, Any], Any]]:
    """Differentiate a tile as jax does; any `add` of `by_rows` does the same.

    Its gradient by `shared` exists beside the total. Where `shared` is too large for
    that, an `add` of one's own can add it piece by piece.

    Args:
        function: as of `by_rows`; an `add` of one's own has no such argument.
        total: gradients by `shared` of the tiles before, float32 at least.
        rows: a tile.
        row_facts: of the tile.
        shared: as of `by_rows`.
        shared_facts: as of `by_rows`.
        weigh: what the function found -> the weight of each value, a float32.

    Returns:
        The total with that of this tile; what the function found, and the gradients
        by the rows.

    Example:
        >>> def function(rows, row_facts, shared, shared_facts):
        ...     return rows * shared, None
        >>> given = jnp.arange(3.0), None, jnp.float32(2), None
        >>> total, _ = add_tile(function, jnp.float32(1), *given, lambda _: jnp.ones(3))
        >>> float(total)
        4.0
    """
    values, pull, more = jax.vjp(
        lambda rows, shared: function(rows, row_facts, shared, shared_facts),
        rows,
        shared,
        has_aux=True,
    )
    of_rows, of_shared = pull(weigh((values, more)))
    total = jax.tree.map(lambda sum, x: sum + x.astype(sum.dtype), total, of_shared)
    return total, ((values, more), of_rows)


def gradients(
    function: PerRow,
    tile: int,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
    weigh: Callable[[Any, Any], Array],
    weights: Any = None,
    *,
    counts: Bool[Array, " b"] | None = None,
    add: Add | None = None,
    slopes: tuple[Any, Any] | None = None,
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
        counts: as of `by_rows`.
        add: as of `by_rows`.
        slopes: gradients by `rows` and by `shared` to start from; None = zeros.

    Returns:
        What the function found, and the gradients by `rows` and by `shared`, the
        latter in float32 at least.
    """
    add = add or functools.partial(add_tile, function)
    given = rows, row_facts, weights, counts

    def step(carry: Any, start: Any, size: int) -> Any:
        rows, row_facts, weights, counts = _cut(given, start, size)
        rows = _only(counts, rows)

        def weighed(found: tuple[Array, Any]) -> Array:
            return _only(counts, weigh(found, weights))

        def run(carry: Any) -> Any:
            found, of_rows, total = carry
            total, part = add(total, rows, row_facts, shared, shared_facts, weighed)
            found, of_rows = _put((found, of_rows), _only(counts, part), start)
            return found, of_rows, total

        return _if_any(counts, run, carry)

    def zeros(x: Array) -> Array:
        return jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))

    of_rows, total = slopes or (
        jax.tree.map(jnp.zeros_like, rows),
        jax.tree.map(zeros, shared),
    )
    found = _nothing(function, rows, row_facts, shared, shared_facts)
    carry = vary_like((found, of_rows, total), rows, shared)
    found, of_rows, total = add_tiles(step, carry, length(rows), tile)
    return found, (of_rows, total)


def _cut(tree: Any, start: Any, size: int) -> Any:
    """Some rows of arrays."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), tree)


def _put(tree: Any, part: Any, start: Any) -> Any:
    """Arrays with other values in some rows."""

    def put(x: Array, y: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), start, 0)

    return jax.tree.map(put, tree, part)


def _nothing(
    function: PerRow, rows: Any, row_facts: Any, shared: Any, shared_facts: Any
) -> Any:
    """Zeros of the shape of what the function finds."""
    found = jax.eval_shape(function, rows, row_facts, shared, shared_facts)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), found)


def _only(counts: Array | None, tree: Any) -> Any:
    """Zeros in rows that do not count.

    They may be NaN, and 0 x NaN would be in every gradient.
    """
    if counts is None:
        return tree

    def only(x: Array) -> Array:
        where = counts.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(where, x, jnp.zeros_like(x))

    return jax.tree.map(only, tree)


def _if_any(counts: Array | None, run: Callable[[Any], Any], carry: Any) -> Any:
    """`run(carry)`, or the carry as it is where no row counts."""
    if counts is None:
        return run(carry)
    return jax.lax.cond(counts.any(), run, lambda carry: carry, carry)


def _values(
    function: PerRow,
    add: Add | None,
    tile: int,
    gradient: Gradient,
    rows: Any,
    row_facts: Any,
    shared: Any,
    shared_facts: Any,
    counts: Array | None,
) -> tuple[Array, Any]:
    given = rows, row_facts, counts

    def step(found: Any, start: Any, size: int) -> Any:
        rows, row_facts, counts = _cut(given, start, size)
        rows = _only(counts, rows)

        def run(found: Any) -> Any:
            part = function(rows, row_facts, shared, shared_facts)
            return _put(found, _only(counts, part), start)

        return _if_any(counts, run, found)

    found = _nothing(function, rows, row_facts, shared, shared_facts)
    return add_tiles(step, vary_like(found, rows, shared), length(rows), tile)


_tiled = jax.custom_vjp(_values, nondiff_argnums=(0, 1, 2, 3))


def _forward(
    function: PerRow,
    add: Add | None,
    tile: int,
    gradient: Gradient,
    *given: Any,
) -> tuple[tuple[Array, Any], Any]:
    if gradient == "late":
        return _values(function, add, tile, gradient, *given), (given, None)
    rows, row_facts, shared, shared_facts, counts = given

    def one(found: Any, _: None) -> Array:
        return jnp.ones_like(found[0])

    found, slopes = gradients(
        function,
        tile,
        rows,
        row_facts,
        shared,
        shared_facts,
        one,
        counts=counts,
        add=add,
    )
    return found, (given, slopes)


def _backward(
    function: PerRow,
    add: Add | None,
    tile: int,
    gradient: Gradient,
    kept: Any,
    cotangents: Any,
) -> tuple[Any, None, Any, None, None]:
    given, slopes = kept
    rows, _, shared, _, counts = given
    weights = _only(counts, cotangents[0])
    if slopes is None:
        found = _again(function, add, tile, given, weights)
    else:
        found = _scaled(function, add, tile, given, weights, slopes)
    by_rows, by_shared = jax.tree.map(
        lambda x, y: x.astype(y.dtype), found, (rows, shared)
    )
    return by_rows, None, by_shared, None, None


def _again(
    function: PerRow,
    add: Add | None,
    tile: int,
    given: Any,
    weights: Array,
    slopes: tuple[Any, Any] | None = None,
) -> tuple[Any, Any]:
    """Gradients by rows and `shared`, from the values on."""
    rows, row_facts, shared, shared_facts, counts = given

    def known(_: Any, weights: Array) -> Array:
        return weights

    return gradients(
        function,
        tile,
        rows,
        row_facts,
        shared,
        shared_facts,
        known,
        weights,
        counts=counts,
        add=add,
        slopes=slopes,
    )[1]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _scaled(
    function: PerRow,
    add: Add | None,
    tile: int,
    given: Any,
    weights: Array,
    slopes: tuple[Any, Any],
) -> tuple[Any, Any]:
    """As `_again`, by those of a weight of 1 if the weights are the same."""
    *given, counts = given
    ones = jnp.ones(weights.shape, bool) if counts is None else counts
    first = weights[jnp.argmax(ones)]
    same = ((weights == first) | ~ones).all()
    # The gradients stay where they are: they are kept and the tiles are left out, or a
    # loop that turns once clears them; a choice of two results would hold both.
    _, slopes = jax.lax.while_loop(
        lambda state: state[0],
        lambda state: jax.tree.map(jnp.zeros_like, state),
        (~same, slopes),
    )
    found = _again(function, add, tile, (*given, ones & ~same), weights, slopes)
    # In float32: a small weight has few digits in bfloat16.
    scale = jnp.where(same, first, 1)
    return jax.tree.map(lambda x: x * scale, found)


@_scaled.defjvp
def _scaled_jvp(
    function: PerRow, add: Add | None, tile: int, primals: Any, tangents: Any
) -> tuple[Any, Any]:
    # Weights that are the same here need not be the same next to it.
    again = functools.partial(_again, function, add, tile)
    return jax.jvp(again, primals[:2], tangents[:2])


_tiled.defvjp(_forward, _backward)
# Outside of any program, a loop would be compiled anew at each call.
_compiled = jax.jit(_tiled, static_argnums=(0, 1, 2, 3))
