from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Tokens
from m3jax.nn.layers import Dense, Embed, positions, stack

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("use_bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_is_a_product_in_its_dtype(use_bias: bool, dtype: str) -> None:
    x, kernel = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((4, 5))
    bias = RNG.standard_normal(5)
    params = {"kernel": kernel} | ({"bias": bias} if use_bias else {})
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    layer = Dense(5, jnp.dtype(dtype), use_bias)
    found: Any = layer.apply({"params": params}, jnp.asarray(x, jnp.float32))
    assert found.dtype == dtype
    near = 1e-5 if dtype == "float32" else 0.1
    np.testing.assert_allclose(
        found.astype(np.float32), x @ kernel + use_bias * bias, atol=near
    )
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 4)))
    assert set(shapes["params"]) == set(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_embed_looks_rows_up_in_its_dtype() -> None:
    table = jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)
    ids = jnp.array([[5, 0], [2, 2]])
    for dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        layer = Embed(6, 4, dtype)
        found: Any = layer.apply({"params": {"embedding": table}}, ids)
        assert found.dtype == dtype
        expected = np.asarray(table)[np.asarray(ids)]
        np.testing.assert_array_equal(found, expected.astype(dtype))


@pytest.mark.parametrize(
    ("mask", "segments", "expected"),
    [
        ("1110", None, "012."),
        ("0011", None, "..01"),
        ("0000", None, "...."),
        ("0110", None, ".01."),
        ("11111", "00111", "01012"),
        # Padding before, between and after the texts of a packed row.
        ("0110110", "9008119", ".01.01."),
        ("1111", "5223", "0010"),
    ],
)
def test_positions_count_the_real_tokens_of_a_text(
    mask: str, segments: str | None, expected: str
) -> None:
    def row(text: str) -> jax.Array:
        return jnp.array([[int(letter) for letter in text]])

    tokens = Tokens(row(mask), row(mask) == 1, segments and row(segments))
    found = np.asarray(positions(tokens))[0]
    for at, wanted in enumerate(expected):
        assert wanted == "." or found[at] == int(wanted), (found, expected)
    # Also what padding gets is a row of every table.
    assert 0 <= found.min() and found.max() < max(1, mask.count("1") + 1)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_stack_is_its_layers_one_after_the_other(remat: Any) -> None:
    class Layer(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x: jax.Array, shared: jax.Array) -> tuple[jax.Array, None]:
            layer = Dense(self.width, jnp.dtype("float32"), name="dense")
            return jnp.tanh(layer(x)) + shared, None

    layers = stack(Layer, 3, remat)(4)
    x, shared = jnp.ones((2, 4)), jnp.full((2, 4), 0.5)
    params = layers.init(jax.random.key(0), x, shared)["params"]
    kernel = np.asarray(params["dense"]["kernel"])
    assert kernel.shape == (3, 4, 4)
    assert (kernel[0] != kernel[1]).all()  # every layer has its own random numbers
    found, _ = layers.apply({"params": params}, x, shared)
    expected = np.ones((2, 4))
    for layer in kernel:
        expected = np.tanh(expected @ layer) + 0.5
    np.testing.assert_allclose(found, expected, atol=1e-6)
