import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.ops.pooling import normalize, pool

HIDDEN = jnp.arange(24, dtype=jnp.float32).reshape(2, 4, 3) ** 2
RIGHT = jnp.array([[True, True, True, False], [True, False, False, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("cls", [HIDDEN[0, 0], HIDDEN[1, 0]]),
        ("last", [HIDDEN[0, 2], HIDDEN[1, 0]]),
        ("mean", [HIDDEN[0, :3].mean(0), HIDDEN[1, 0]]),
    ],
)
def test_by_hand_and_on_either_side(pooling, expected: list) -> None:
    np.testing.assert_allclose(pool(HIDDEN, RIGHT, pooling), expected, rtol=1e-6)
    hidden, mask = (jnp.roll(x[:1], 1, axis=1) for x in (HIDDEN, RIGHT))
    np.testing.assert_allclose(pool(hidden, mask, pooling), expected[:1], rtol=1e-6)


@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
def test_an_empty_text_gives_zeros(pooling) -> None:
    none = jnp.zeros((2, 4), bool)
    vectors, back = jax.vjp(lambda x: normalize(pool(x, none, pooling)), HIDDEN)
    np.testing.assert_array_equal(vectors, 0)
    np.testing.assert_array_equal(back(jnp.ones_like(vectors))[0], 0)


def test_normalize_has_a_safe_gradient() -> None:
    x = jnp.array([[0.0, 0.0], [3.0, 4.0], [1e-6, 0.0]])
    gradient = jax.grad(lambda x: normalize(x)[:, 0].sum())(x)
    np.testing.assert_array_equal(gradient[0], 0)
    np.testing.assert_allclose(gradient[1], [16 / 125, -12 / 125], rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(normalize(x), axis=-1), [0, 1, 1])
    assert normalize(x.astype(jnp.bfloat16)).dtype == jnp.float32
