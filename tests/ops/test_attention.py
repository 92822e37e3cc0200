import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.ops.attention import attend

KEY = jax.random.key(0)
QKV = tuple[jax.Array, jax.Array, jax.Array]


@pytest.fixture
def qkv() -> QKV:
    one, two, three = jax.random.normal(KEY, (3, 2, 5, 3, 4))
    return one, two, three


MASK = jnp.array([[True] * 5, [True, True, True, False, False]])


def test_is_the_definition(qkv: QKV) -> None:
    query, key, value = (np.asarray(x, np.float64) for x in qkv)
    expected = np.zeros_like(value)
    for b in range(2):
        real = np.flatnonzero(MASK[b])
        for h in range(3):
            scores = query[b, :, h] @ key[b, real, h].T / 2
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            expected[b, :, h] = weights @ value[b, real, h]
    np.testing.assert_allclose(attend(*qkv, MASK), expected, rtol=1e-5, atol=1e-6)


def test_masked_tokens_are_not_seen(qkv: QKV) -> None:
    """Zero is no mask: the scores of real tokens may all be below it."""
    query, key, value = qkv
    key = -10 * query[:, :1] * jnp.ones_like(key)  # real tokens score far below 0
    plain = attend(query, key, value, MASK)
    padding = ~MASK[:, :, None, None]
    changed = attend(
        query, jnp.where(padding, 0, key), jnp.where(padding, 1e6, value), MASK
    )
    np.testing.assert_allclose(plain, changed, rtol=1e-6)


def test_a_row_of_padding_is_finite(qkv: QKV) -> None:
    none = jnp.zeros((2, 5), bool)
    found, back = jax.vjp(lambda q, k, v: attend(q, k, v, none), *qkv)
    assert all(np.isfinite(x).all() for x in (found, *back(found)))


def test_softmax_is_float32_for_bfloat16(qkv: QKV) -> None:
    query, key, value = (x.astype(jnp.bfloat16) for x in qkv)
    found = attend(query, key, value, MASK)
    assert found.dtype == jnp.bfloat16
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    exact = attend(query, key, value, MASK)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=2e-2)
