"""Products whose gradient is added in its place: the same as jax finds."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax import losses
from m3jax.losses import products
from m3jax.losses.products import add_product, summed
from m3jax.ops.product import product

RNG = np.random.default_rng(0)
T, V, D = 3, 7, 4


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


ROWS, COLUMNS, TOTAL, SLOPE = normal(T, D), normal(V, D), normal(V, D), normal(T, V)


@pytest.fixture(params=[1, 3, 100])
def piece(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, untraced: None
) -> None:
    """A piece divides the rows, or does not, or holds them all."""
    monkeypatch.setattr(products, "_PIECE", request.param)


@pytest.mark.usefixtures("piece")
def test_adds_a_product() -> None:
    total, slope, rows = (x.astype(np.float64) for x in (TOTAL, SLOPE, ROWS))
    right = total + slope.T @ rows
    found = jax.jit(lambda *x: add_product(*x))(TOTAL, SLOPE, ROWS)
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)


def plain(rows: Any, columns: Any) -> Any:
    """Gradients of something curved that meets the columns three times."""

    def value(rows: Any, columns: Any) -> Any:
        found = product("td,vd->tv", rows, columns)
        again = product("td,vd->tv", jnp.sin(rows), columns)
        return jnp.tanh(found + again).sum() + (columns**2).sum()

    return jax.grad(value, (0, 1))(rows, columns)


def added(rows: Any, columns: Any) -> Any:
    """The same, with the gradients of both products added to that of the third use."""

    def value(rows: Any, columns: Any, total: Any) -> Any:
        found, total = summed(rows, columns, total)
        again, total = summed(jnp.sin(rows), columns, total)
        return jnp.tanh(found + again).sum() + (columns**2).sum(), total

    zeros = jnp.zeros(columns.shape, jnp.float32)
    _, pull = jax.vjp(value, rows, columns, zeros)
    of_rows, of_columns, total = pull((jnp.float32(1), zeros))
    return of_rows, of_columns + total


@pytest.mark.usefixtures("piece")
def test_the_gradient_and_its_own() -> None:
    @jax.jit
    def both(rows: Any, columns: Any) -> Any:
        along = jnp.cos(rows), jnp.sin(columns)
        return [jax.jvp(form, (rows, columns), along) for form in (added, plain)]

    found, right = both(ROWS, COLUMNS)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found, right)


def test_the_total_is_float32() -> None:
    """256 + 1 is 256 in bfloat16."""
    rows, columns = jnp.ones((2, 1), jnp.bfloat16), jnp.ones((V, 1), jnp.bfloat16)
    total = jnp.full((V, 1), 256, jnp.float32)
    _, pull = jax.vjp(summed, rows, columns, total)
    of_rows, none, of_total = pull((jnp.full((2, V), 0.5), total))
    assert of_rows.dtype == none.dtype == jnp.bfloat16
    assert not none.any()
    np.testing.assert_array_equal(of_total, 257)


def test_no_gradient_lies_beside_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiled losses need less than one array of the size of the embeddings."""
    monkeypatch.setattr(products, "_PIECE", 64)
    many, width = 1024, 256

    def contrast(query: jax.Array, passage: jax.Array) -> jax.Array:
        loss = losses.info_nce(query, passage[:, None], temperature=0.1, tile=32)
        return (loss * jnp.arange(many)).sum()

    def tokens(hidden: jax.Array, table: jax.Array) -> jax.Array:
        labels = jnp.zeros(hidden.shape[:2], jnp.int32)
        return losses.masked_lm(hidden, table, labels, tile=32).mean()

    large, few = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((many, width), (1, 128, width))
    )
    for loss, given in ((contrast, (large, large)), (tokens, (few, large))):
        program = jax.jit(jax.grad(loss, (0, 1))).lower(*given).compile()
        memory = program.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 4 * many * width
