"""Values by rows: for any tile and weights what jax finds, in as few products."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.losses.by_rows import add_tile, by_rows, check_gradient
from tests.compare import assert_same, line
from tests.programs import equations, shapes, traced

Gradient = Literal["eager", "late"]
BOTH: tuple[Gradient, ...] = ("eager", "late")
B, N, E = 8, 5, 3


def function(rows: Any, row_facts: Any, shared: Any, shared_facts: Any) -> Any:
    """The value is curved in all that has a gradient."""
    logits = (rows @ shared[0].T) * shared[1] + shared_facts[None]
    right = jnp.take_along_axis(logits, row_facts[:, None], axis=1)[:, 0]
    value = jax.nn.logsumexp(logits, axis=1) - right
    return value, {"most": logits.max(1), "fact": row_facts}


RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


LABELS = RNG.integers(0, N, B).astype(np.int32)
GIVEN = normal(B, E), LABELS, (normal(N, E), np.float32(1.5)), normal(N)
COUNTS = np.array([False, True, True, False, False, False, False, True])
WEIGHTS = {
    "uniform": np.full(B, -0.3, np.float32),
    "mixed": normal(B),
    "zero": np.zeros(B, np.float32),
}


@functools.cache
def program(**options: Any) -> Callable[..., Any]:
    """Values, the other tree and gradients; without `tile` those of jax."""

    @jax.jit
    def run(given: Any, weights: jax.Array, counts: Any = None) -> Any:
        rows, row_facts, shared, shared_facts = given

        def values(rows: Any, shared: Any) -> Any:
            given = rows, row_facts, shared, shared_facts
            if not options:
                return function(*given)
            return by_rows(function, *given, counts=counts, **options)

        found, back, rest = jax.vjp(values, rows, shared, has_aux=True)
        return found, rest, *back(weights)

    return run


@pytest.mark.parametrize(("tile", "gradient"), [(3, "eager"), (None, "late")])
def test_is_what_jax_finds(tile: int | None, gradient: Gradient) -> None:
    for weights in WEIGHTS.values():
        found = program(tile=tile, gradient=gradient)(GIVEN, weights)
        assert_same(found, program()(GIVEN, weights))


def masked(counts: np.ndarray, tree: Any, by: float) -> Any:
    """Something else in all rows that do not count."""

    def mask(x: Any) -> np.ndarray:
        where = counts.reshape(-1, *[1] * (x.ndim - 1))
        return np.where(where, x, np.asarray(by, x.dtype))

    return jax.tree.map(mask, tree)


@pytest.mark.parametrize(
    ("tile", "gradient"), [(4, "eager"), (4, "late"), (9, "eager")]
)
def test_rows_that_do_not_count(tile: int | None, gradient: Gradient) -> None:
    """NaN in them and in their weights is in no result; all, some and none count."""
    run = program(tile=tile, gradient=gradient)
    rows, *facts = GIVEN
    for counts in (COUNTS, ~COUNTS, np.ones(B, bool), np.zeros(B, bool)):
        for weights in WEIGHTS.values():
            poisoned = masked(counts, rows, math.nan), *facts
            found = run(poisoned, masked(counts, weights, math.nan), counts)
            right = program()(GIVEN, masked(counts, weights, 0))
            assert_same(found, (*masked(counts, right[:2], 0), *right[2:]))
            none = jax.tree.map(lambda x: x[~counts], (found[0], found[2]))  # noqa: B023
            assert not any(np.asarray(x).any() for x in jax.tree.leaves(none))


@pytest.mark.parametrize("gradient", BOTH)
def test_nan_is_not_hidden(gradient: Gradient) -> None:
    lost = np.where(np.arange(B) == 2, np.float32(np.nan), WEIGHTS["uniform"])
    run = program(tile=4, gradient=gradient)
    _, _, of_rows, of_shared = run(GIVEN, lost, np.ones(B, bool))
    assert np.isnan(of_rows).all(1).tolist() == [i == 2 for i in range(B)]
    assert np.isnan(of_shared[0]).all()


# How many products of all rows of a tile with `shared`, and which.


PRODUCTS: list[int] = []


def compute(number: int) -> None:
    jax.debug.callback(lambda: PRODUCTS.append(number))


def computed(run: Callable[..., Any], *given: Any) -> int:
    """Products that a program computes in a run."""
    PRODUCTS.clear()
    jax.block_until_ready(run(*given))
    jax.effects_barrier()
    return sum(PRODUCTS)


@jax.custom_vjp
def product(rows: jax.Array, shared: jax.Array) -> jax.Array:
    compute(1)
    return rows @ shared.T


def _product_forward(rows: jax.Array, shared: jax.Array) -> Any:
    compute(1)
    return rows @ shared.T, (rows, shared)


def _product_backward(kept: Any, slope: jax.Array) -> Any:
    compute(2)
    return slope @ kept[1], slope.T @ kept[0]


product.defvjp(_product_forward, _product_backward)


def counted(rows: jax.Array, _: None, shared: jax.Array, __: None) -> Any:
    return jax.nn.logsumexp(product(rows, shared), axis=1), None


@functools.cache
def counted_pull(gradient: Gradient, form: str) -> Callable[..., Any]:
    @jax.jit
    def run(rows: jax.Array, shared: jax.Array, weights: jax.Array) -> Any:
        def values(rows: jax.Array, shared: jax.Array) -> jax.Array:
            counts = jnp.asarray(COUNTS) if form == "some" else None
            given = rows, None, shared, None
            return by_rows(counted, *given, tile=3, gradient=gradient, counts=counts)[0]

        if form == "values":
            return values(rows, shared)
        values = jax.checkpoint(values) if form == "checkpoint" else values
        found, back = jax.vjp(values, rows, shared)
        return found, back(weights)

    return run


@pytest.mark.parametrize(
    ("form", "gradient", "weights", "each"),
    [
        # A tile: 1 for the values, 2 for the gradients.
        ("values", "eager", "mixed", 1),
        ("all", "eager", "uniform", 3),
        ("all", "eager", "mixed", 3 + 3),
        ("all", "late", "uniform", 1 + 3),
        ("all", "late", "mixed", 1 + 3),
        pytest.param("checkpoint", "eager", "uniform", 1 + 3, marks=pytest.mark.slow),
    ],
)
def test_products(form: str, gradient: Gradient, weights: str, each: int) -> None:
    rows, _, (shared, _), _ = GIVEN
    found = computed(counted_pull(gradient, form), rows, shared, WEIGHTS[weights])
    assert found == 3 * each  # tiles of 3, 3 and 2 rows


@pytest.mark.parametrize(
    ("gradient", "each"),
    [("eager", 3), pytest.param("late", 1 + 3, marks=pytest.mark.slow)],
)
def test_tiles_that_do_not_count_are_left_out(gradient: Gradient, each: int) -> None:
    """And weights are the same if they are among the rows that count."""
    rows, _, (shared, _), _ = GIVEN
    weights = np.where(COUNTS, np.float32(0.5), WEIGHTS["mixed"])
    found = computed(counted_pull(gradient, "some"), rows, shared, weights)
    assert found == 2 * each  # nothing counts in the second of three


def test_an_add_of_ones_own() -> None:
    """In the first gradient, and in that of weights that differ."""

    def twice(total: Any, *rest: Any) -> Any:
        added, found = add_tile(function, total, *rest)
        return jax.tree.map(lambda x, y: 2 * x - y, added, total), found

    run = program(tile=4, gradient="eager", add=twice)
    for weights in WEIGHTS.values():
        *same, of_shared = program()(GIVEN, weights)
        right = *same, jax.tree.map(lambda x: 2 * x, of_shared)
        assert_same(run(GIVEN, weights), right)


@pytest.mark.parametrize("gradient", BOTH)
def test_bfloat16_is_added_in_float32(gradient: Gradient) -> None:
    def scaled(rows: jax.Array, _: None, shared: jax.Array, __: None) -> Any:
        return (rows * shared).astype(jnp.float32), None

    @jax.jit
    def slopes(weight: jax.Array) -> Any:
        def values(rows: jax.Array, shared: jax.Array) -> jax.Array:
            given = rows, None, shared, None
            return by_rows(scaled, *given, tile=1, gradient=gradient)[0]

        rows = jnp.ones(600, jnp.bfloat16)
        _, back = jax.vjp(values, rows, jnp.asarray(3, jnp.bfloat16))
        return back(jnp.full(600, weight))

    of_rows, of_shared = slopes(jnp.float32(1))
    assert of_rows.dtype == of_shared.dtype == jnp.bfloat16
    assert float(of_shared) == 600  # 256 + 1 is 256 in bfloat16
    if gradient == "eager":  # 0.3 in bfloat16 would give 0.902
        np.testing.assert_array_equal(slopes(jnp.float32(0.3))[0], jnp.bfloat16(0.9))


# Other transformations.


@pytest.mark.parametrize(
    ("gradient", "reverse"),
    [
        ("eager", True),
        ("late", False),
        pytest.param("eager", False, marks=pytest.mark.slow),
        pytest.param("late", True, marks=pytest.mark.slow),
    ],
)
def test_second_derivatives(gradient: Gradient, reverse: bool) -> None:
    """Also by weights that are the same here, and not the same next to it."""
    rows, row_facts, (shared, scale), shared_facts = jax.tree.map(jnp.asarray, GIVEN)
    along = jax.tree.map(np.sin, (rows, scale, np.arange(1, B + 1, dtype=np.float32)))

    def second(values: Callable[..., Any], *, reverse: bool) -> list[Any]:
        def total(rows: jax.Array, scale: jax.Array, weights: jax.Array) -> jax.Array:
            given = rows, row_facts, (shared, scale), shared_facts
            return (values(*given)[0] * weights).sum()

        def slopes(*given: Any) -> Any:
            return jax.grad(total, (0, 1, 2))(*given)

        def dotted(*given: Any) -> jax.Array:
            parts = jax.tree.map(lambda x, y: (x * y).sum(), slopes(*given), along)
            return sum(jax.tree.leaves(parts), jnp.zeros(()))

        @jax.jit
        def run(*given: Any) -> Any:
            if reverse:
                return jax.grad(dotted, (0, 1, 2))(*given)
            return jax.jvp(slopes, given, along)[1]

        return [run(rows, scale, x) for x in WEIGHTS.values()]

    right = second(function, reverse=False)
    tiled = functools.partial(by_rows, function, tile=4, gradient=gradient)
    assert_same(second(tiled, reverse=reverse), right, tolerance=2e-5)


@pytest.mark.parametrize(
    "gradient", ["eager", pytest.param("late", marks=pytest.mark.slow)]
)
def test_under_vmap_and_checkpoint(gradient: Gradient) -> None:
    """The weights of one are the same, and those of the other are not."""
    rows, row_facts, *rest = jax.tree.map(jnp.asarray, GIVEN)

    def slopes(values: Callable[..., Any], rows: Any, weights: jax.Array) -> Any:
        def total(rows: Any) -> jax.Array:
            return (values(rows, row_facts, *rest)[0] * weights).sum()

        return jax.value_and_grad(total)(rows)

    tiled = functools.partial(by_rows, function, tile=4, gradient=gradient)
    weights = np.stack([WEIGHTS["uniform"], WEIGHTS["mixed"]])
    both = np.stack([rows, -rows])
    right, found = (
        jax.jit(jax.vmap(functools.partial(slopes, form)))(both, weights)
        for form in (function, jax.checkpoint(tiled))
    )
    assert_same(found, right)


def test_there_is_no_jvp() -> None:
    rows, *rest = jax.tree.map(jnp.asarray, GIVEN)

    def slope(rows: Any) -> Any:
        return jax.jvp(lambda x: by_rows(function, x, *rest, tile=4)[0], [rows], [rows])

    with pytest.raises(TypeError, match="forward-mode"):
        jax.jit(slope).lower(rows)


# Devices.


def on_devices(gradient: Gradient, check_vma: bool, counts: Any, inside: bool) -> Any:
    """One part of `shared` is that of all devices, the other of one device."""
    over = functools.partial(jax.shard_map, mesh=line(2), check_vma=check_vma)
    row, same = P("data"), P()
    specs = (row, row, (same, row), same), row, row

    def values(given: Any, counts: Any) -> jax.Array:
        rows, row_facts, (shared, scale), shared_facts = given
        given = rows, row_facts, (shared, scale[0]), shared_facts
        return by_rows(function, *given, tile=2, gradient=gradient, counts=counts)[0]

    def slopes(given: Any, weights: jax.Array, counts: Any) -> Any:
        def total(rows: Any, shared: Any) -> jax.Array:
            found = values((rows, given[1], shared, given[3]), counts)
            return (found * weights).sum()

        of_rows, (of_shared, of_scale) = jax.grad(total, (0, 1))(given[0], given[2])
        if not check_vma:  # else the sum is made by jax
            of_shared = jax.lax.psum(of_shared, "data")
        return of_rows, (of_shared, of_scale)

    if inside:
        return over(slopes, in_specs=specs, out_specs=(row, (same, row)))

    def outside(given: Any, weights: jax.Array, counts: Any) -> Any:
        whole = over(values, in_specs=(specs[0], row), out_specs=row)

        def total(rows: Any, shared: Any) -> jax.Array:
            found = whole((rows, given[1], shared, given[3]), counts)
            return (found * weights).sum()

        return jax.grad(total, (0, 1))(given[0], given[2])

    return outside


@pytest.mark.parametrize(
    ("gradient", "check_vma", "some", "inside"),
    [
        ("eager", True, True, False),
        ("late", False, False, True),
        pytest.param("eager", False, False, True, marks=pytest.mark.slow),
        pytest.param("late", True, True, True, marks=pytest.mark.slow),
    ],
)
def test_inside_of_shard_map(
    gradient: Gradient, check_vma: bool, some: bool, inside: bool
) -> None:
    rows, row_facts, (shared, _), shared_facts = GIVEN
    scale = np.array([1.5, -0.5], np.float32)
    given = rows, row_facts, (shared, scale), shared_facts
    counts = COUNTS if some else None
    run = jax.jit(on_devices(gradient, check_vma, counts, inside))
    half = B // 2
    for weights in WEIGHTS.values():
        # The weights of a device may be the same while those of all are not.
        weights = np.where(np.arange(B) < half, np.float32(0.7), weights)
        at = masked(COUNTS, weights, 0) if some else weights
        right = []
        for i, part in enumerate((slice(half), slice(half, None))):
            mine = jax.tree.map(lambda x: x[part], (rows, row_facts))  # noqa: B023
            right.append(slopes_of((*mine, (shared, scale[i]), shared_facts), at[part]))
        of_rows = jax.tree.map(lambda *x: np.concatenate(x), *(x[0] for x in right))
        of_shared = right[0][1][0] + right[1][1][0]
        of_scale = np.stack([x[1][1] for x in right])
        found = run(given, weights, counts)
        assert_same(found, (of_rows, (of_shared, of_scale)))


def slopes_of(given: Any, weights: Any) -> Any:
    return program()(given, weights)[2:]


def test_devices_are_summed_over_once() -> None:
    """After the last tile, not in each."""

    def sums(program: Any) -> int:
        names = (equation.primitive.name for equation in equations(program))
        return sum(name.startswith("psum") for name in names)

    rows, row_facts, (shared, _), shared_facts = GIVEN
    given = rows, row_facts, (shared, np.ones(2, np.float32)), shared_facts
    for gradient in BOTH:
        run = on_devices(gradient, True, None, inside=True)
        whole = traced(run, given, WEIGHTS["mixed"], None)
        assert sums(whole) == 1
        loops = [x for x in equations(whole) if x.primitive.name == "scan"]
        assert loops
        assert not any(sums(x.params["jaxpr"]) for x in loops)


def test_one_tile_exists_at_once() -> None:
    shape = jax.ShapeDtypeStruct
    row, col, width, tile = 64, 1000, 2, 4

    def total(rows: Any, shared: Any, facts: Any) -> jax.Array:
        given = rows, jnp.zeros(row, jnp.int32), shared, facts
        return by_rows(function, *given, tile=tile, gradient="eager")[0].mean()

    whole = traced(
        jax.value_and_grad(total, (0, 1)),
        shape((row, width), jnp.float32),
        (shape((col, width), jnp.float32), shape((), jnp.float32)),
        shape((col,), jnp.float32),
    )
    assert max(map(math.prod, shapes(whole))) == tile * col


# Bad input.


@pytest.mark.parametrize("tile", [0, -1, True])
def test_a_tile_is_a_positive_number(tile: Any) -> None:
    # Without the suite's own checks, which users do not have.
    with pytest.raises(InputError, match="tile: expected a positive integer or None"):
        inspect.unwrap(by_rows)(function, *GIVEN, tile=tile)


def test_there_are_two_ways() -> None:
    sometimes: Any = "sometimes"
    for tile in (None, 3):
        with pytest.raises(InputError, match="gradient: expected eager or late"):
            inspect.unwrap(by_rows)(function, *GIVEN, tile=tile, gradient=sometimes)
    with pytest.raises(InputError, match="found 'sometimes'"):
        check_gradient("sometimes")
