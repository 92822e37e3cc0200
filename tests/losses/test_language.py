"""Cross-entropy over a vocabulary: in tiles, in order, masked, and on devices."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.losses import language, products
from tests.compare import assert_same, line, slope
from tests.losses import definitions
from tests.programs import equations, shapes, traced

Gradient = Literal["eager", "late"]
B, L, D, V = 2, 5, 4, 7
RNG = np.random.default_rng(0)
HIDDEN, TABLE = RNG.normal(size=(B, L, D)), RNG.normal(size=(V, D))
BIAS, MIXED = RNG.normal(size=V), RNG.normal(size=(B, L))
LABELS = np.array([[-1, 3, -1, 0, 6], [-1, -1, 2, -1, -1]])
COUNTS = LABELS >= 0


class Right(NamedTuple):
    """What the definition gives: losses, and gradients of their weighted sum."""

    loss: np.ndarray
    of_hidden: np.ndarray
    of_table: np.ndarray
    of_bias: np.ndarray


WEIGHTS = {"uniform": np.full((B, L), 1 / 4), "mixed": MIXED}


@functools.cache
def right(weights: str) -> Right:
    arrays = HIDDEN, TABLE, BIAS

    def loss(hidden: np.ndarray, table: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return definitions.masked_lm(hidden, table, LABELS, bias=bias)

    def total(at: int, x: np.ndarray) -> float:
        given = (*arrays[:at], x, *arrays[at + 1 :])
        return float((loss(*given) * WEIGHTS[weights]).sum())

    return Right(
        loss(*arrays),
        *(slope(x, functools.partial(total, i)) for i, x in enumerate(arrays)),
    )


def program(
    tile: Any, gradient: Gradient = "eager", piece: int = 3
) -> Callable[..., Any]:
    return made(tile, gradient, piece)  # tests share what they compile


@functools.cache
def made(tile: Any, gradient: Gradient, piece: int) -> Callable[..., Any]:
    """Losses, and gradients by hidden states, table and bias.

    The gradient of the table is added 3, 3 and 1 of its rows at a time; auto is a tile
    of 4 tokens.
    """

    jax.clear_caches()  # an inner program may have been traced with other pieces

    @jax.jit
    def run(hidden: Any, weights: Any, labels: Any, where: Any) -> Any:
        def loss(hidden: jax.Array, table: jax.Array, bias: jax.Array) -> jax.Array:
            rest: Any = {"tile": tile, "gradient": gradient, "where": where}
            return losses.masked_lm(hidden, table, labels, bias=bias, **rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_PIECE", piece)
            patch.setattr(language, "_BUDGET", 4 * V * 4)
            found, back = jax.vjp(loss, hidden, jnp.float32(TABLE), jnp.float32(BIAS))
            return found, *back(weights)

    def given(
        hidden: Any, weights: Any, labels: Any = LABELS, where: Any = COUNTS
    ) -> Any:
        return run(jnp.float32(hidden), jnp.float32(weights), labels, where)

    return given


def poisoned(counts: np.ndarray = COUNTS) -> np.ndarray:
    return np.where(counts[:, :, None], HIDDEN, np.nan)


def test_by_hand() -> None:
    hidden, table = jnp.array([[[1.0, 0.0], [0.0, 2.0], [0.0, 2.0]]]), jnp.eye(2)
    labels, bias = jnp.array([[0, 0, -1]]), jnp.array([0.0, 3.0])
    loss = jax.jit(losses.masked_lm)(hidden, table, labels, bias=bias)
    # Logits: [1, 0 + 3], and [0, 2 + 3] twice.
    right = [[math.log(1 + math.exp(2)), math.log(1 + math.exp(5)), 0]]
    np.testing.assert_allclose(loss, right, rtol=1e-6)


@pytest.mark.parametrize(
    ("tile", "gradient", "piece"),
    [
        (None, "eager", 3),
        (3, "eager", 3),
        (3, "late", 3),
        ("auto", "late", 4096),
        (1, "late", 7),
    ],
)
def test_value_and_gradient(tile: Any, gradient: Gradient, piece: int) -> None:
    """NaN in what does not count is in no result."""
    run = program(tile, gradient, piece)
    for name, weights in WEIGHTS.items():
        lost = np.where(COUNTS, weights, np.nan)
        assert_same(run(poisoned(), lost), tuple(right(name)))


def test_auto_is_a_tile_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiles(tokens: int, budget: int) -> set[int]:
        monkeypatch.setattr(language, "_BUDGET", 4 * V * budget)
        given = jnp.ones((1, tokens, D)), jnp.ones((V, D)), jnp.ones((1, tokens), int)
        whole = traced(lambda *given: losses.masked_lm(*given), *given)
        return {x[0] for x in shapes(whole) if x[1:] == (V,)}

    assert tiles(12, 5) == {4}  # a divisor is near
    assert tiles(14, 6) == {6, 2}  # no divisor is
    assert tiles(3, 8) == {3}
    assert tiles(3, 0) == {1}


def test_what_counts_is_what_where_says() -> None:
    """A label that is none gives NaN, if it is to count."""
    labels = np.array([[-1, 3, V, 0, 6], [2**31 - 1, -7, 2, V, -1]])
    where = np.array([[True] * 4 + [False], [True, True, True, False, False]])
    lost = where & ((labels < 0) | (labels >= V))
    known = definitions.masked_lm(
        HIDDEN, TABLE, np.where(lost, 0, labels), bias=BIAS, where=where
    )
    for tile in (None, 3):
        found = program(tile)(poisoned(where), MIXED, labels, where)[0]
        np.testing.assert_allclose(found, np.where(lost, np.nan, known), rtol=2e-6)


def test_masked_is_deleted() -> None:
    at = np.array([1, 2, 4])
    counts = np.isin(np.arange(L), at)[None] & np.ones((B, 1), bool)
    labels = np.arange(B * L).reshape(B, L) % V

    def short(table: np.ndarray) -> np.ndarray:
        return definitions.masked_lm(HIDDEN[:, at], table, labels[:, at], bias=BIAS)

    for weights in WEIGHTS.values():
        given = poisoned(counts), weights, labels, counts
        loss, of_hidden, of_table, _ = program(3)(*given)
        right = slope(TABLE, lambda x: float((short(x) * weights[:, at]).sum()))  # noqa: B023
        assert_same((loss[:, at], of_table), (short(TABLE), right))
        for x in (loss, of_hidden):
            np.testing.assert_array_equal(np.delete(x, at, axis=1), 0)


@pytest.mark.parametrize(
    ("tile", "gradient"), [(None, "eager"), (3, "eager"), (3, "late")]
)
def test_nothing_counts(tile: int | None, gradient: Gradient) -> None:
    nothing = np.zeros((B, L), bool)
    for weights in (MIXED, np.full((B, L), np.nan)):
        run = program(tile, gradient)
        for found in run(poisoned(nothing), weights, LABELS, nothing):
            np.testing.assert_array_equal(found, 0)


@pytest.mark.parametrize("tile", [None, 3])
def test_nan_is_not_hidden(tile: int | None) -> None:
    hidden = HIDDEN.copy()
    hidden[0, 3] = np.nan
    lost = np.zeros((B, L), bool)
    lost[0, 3] = True
    for weights in WEIGHTS.values():
        found = program(tile)(hidden, weights)
        np.testing.assert_array_equal(np.isnan(found[0]), lost)
        np.testing.assert_array_equal(np.isnan(found[1]).all(2), lost)
        assert np.isnan(found[2]).all()


def test_what_does_not_count_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, untraced: None
) -> None:
    """4 tokens of 10 count, here and there: one tile of 4, and not 3."""
    found: list[str] = []
    product = products.product

    def count(how: str, one: Any, two: Any) -> Any:
        jax.debug.callback(lambda: found.append(how))
        return product(how, one, two)

    for module in (language, products):
        monkeypatch.setattr(module, "product", count)
    run = made.__wrapped__(4, "eager", 4096)  # others share one that does not count
    # A tile: its logits, and the gradients of hidden states and of the table.
    for name, number in (("uniform", 3), ("mixed", 3 + 3)):
        found.clear()
        jax.block_until_ready(run(HIDDEN, WEIGHTS[name]))
        jax.effects_barrier()
        assert len(found) == number


def test_bfloat16_is_close() -> None:
    # Against the definition of what bfloat16 holds of the numbers.
    arrays = [jnp.asarray(x, jnp.bfloat16) for x in (HIDDEN, TABLE)]
    exact = [np.asarray(x, np.float64) for x in arrays]
    weights = jnp.asarray(MIXED, jnp.float32)

    def total(x: np.ndarray, at: int) -> float:
        given = (x, exact[1]) if at == 0 else (exact[0], x)
        return float((definitions.masked_lm(*given, LABELS) * MIXED).sum())

    @jax.jit
    def run(hidden: jax.Array, table: jax.Array) -> Any:
        loss = functools.partial(losses.masked_lm, labels=jnp.asarray(LABELS), tile=3)
        found, back = jax.vjp(loss, hidden, table)
        return found, back(weights)

    found, slopes = run(*arrays)
    assert found.dtype == jnp.float32
    value = definitions.masked_lm(exact[0], exact[1], LABELS)
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)
    for at, of in enumerate(slopes):
        assert of.dtype == jnp.bfloat16
        known = slope(exact[at], functools.partial(total, at=at))
        of = np.asarray(of, np.float32)
        np.testing.assert_allclose(of, known, rtol=0, atol=1e-2)


def test_no_text() -> None:
    given = jnp.ones((0, L, D)), jnp.ones((V, D)), jnp.ones((0, L), int)
    assert jax.eval_shape(losses.masked_lm, *given).shape == (0, L)


# Programs at the size of a training.


@pytest.mark.parametrize(("tokens", "tile"), [(8192, 128), (8191, 134)])
@pytest.mark.parametrize("gradient", ["eager", "late"])
def test_the_logits_never_exist_whole(
    gradient: Gradient, tokens: int, tile: int
) -> None:
    shape, width, vocabulary = jax.ShapeDtypeStruct, 1024, 250_002

    def loss(hidden: Any, table: Any, bias: Any, labels: Any) -> jax.Array:
        return losses.masked_lm(
            hidden, table, labels, bias=bias, gradient=gradient
        ).sum()

    whole = traced(
        jax.value_and_grad(loss, (0, 1, 2)),
        shape((1, tokens, width), jnp.float32),
        shape((vocabulary, width), jnp.float32),
        shape((vocabulary,), jnp.float32),
        shape((1, tokens), jnp.int32),
    )
    found = shapes(whole)
    assert max(map(math.prod, found)) == vocabulary * width  # the table and its slope
    rows = {x[0] for x in found if len(x) > 1 and x[-1] == vocabulary}
    assert max(rows) == tile


def test_products_are_full_precision() -> None:
    def loss(hidden: jax.Array, table: jax.Array) -> jax.Array:
        return losses.masked_lm(hidden, table, jnp.asarray(LABELS), tile=3).sum()

    given = jnp.float32(HIDDEN), jnp.float32(TABLE)
    found = [
        equation.params["precision"]
        for equation in equations(traced(jax.grad(loss, (0, 1)), *given))
        if equation.primitive.name == "dot_general"
    ]
    assert found
    assert all(x == (jax.lax.Precision.HIGHEST,) * 2 for x in found)


@pytest.mark.parametrize(
    ("gradient", "check_vma"),
    [("eager", True), pytest.param("late", False, marks=pytest.mark.slow)],
)
def test_a_table_that_is_the_same_on_all_devices(
    gradient: Gradient, check_vma: bool
) -> None:
    row, same = P("data"), P()

    @functools.partial(
        jax.shard_map,
        mesh=line(2),
        in_specs=(row, same, row, same),
        out_specs=row,
        check_vma=check_vma,
    )
    def loss(
        hidden: jax.Array, table: jax.Array, labels: jax.Array, bias: jax.Array
    ) -> jax.Array:
        return losses.masked_lm(
            hidden, table, labels, bias=bias, tile=2, gradient=gradient
        )

    @jax.jit
    def run(hidden: Any, table: Any, bias: Any, weights: Any) -> Any:
        found, back = jax.vjp(
            lambda hidden, table, bias: loss(hidden, table, jnp.asarray(LABELS), bias),
            hidden,
            table,
            bias,
        )
        return found, *back(weights)

    given = tuple(map(jnp.float32, (poisoned(), TABLE, BIAS)))
    for name, weights in WEIGHTS.items():
        assert_same(run(*given, jnp.float32(weights)), tuple(right(name)))


# Bad input.


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the suite's own checks, which users do not have."""
    for name in ("_tokens", "by_rows", "masked_lm"):
        monkeypatch.setattr(language, name, inspect.unwrap(getattr(language, name)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": (L, D)}, "hidden: expected [b l d], found shape (5, 4)"),
        ({"table": (V,)}, "table: expected [v d], v at least 1, found shape (7,)"),
        ({"table": (V, 3)}, "hidden: expected width 3, as table, found 4"),
        ({"labels": (B, 4)}, "labels: expected shape (2, 5), found (2, 4)"),
        ({"bias": (6,)}, "bias: expected shape (7,), found (6,)"),
        ({"where": (L,)}, "where: expected shape (2, 5), found (5,)"),
        ({"tile": 0}, "tile: expected a positive integer or None, found 0"),
        ({"tile": -3}, "tile: expected a positive integer or None, found -3"),
        ({"tile": True}, "tile: expected a positive integer or None, found True"),
        ({"gradient": "now"}, "gradient: expected eager or late, found 'now'"),
    ],
)
def test_arguments_that_do_not_fit(
    change: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unchecked(monkeypatch)
    given: dict[str, Any] = {"hidden": (B, L, D), "table": (V, D), "labels": (B, L)}
    given |= change
    kinds = {"labels": jnp.int32, "where": jnp.bool_}
    for name, value in given.items():
        if isinstance(value, tuple):
            given[name] = jnp.ones(value, kinds.get(name, jnp.float32))
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda: language.masked_lm(**given))
    assert str(error.value).startswith(said)
