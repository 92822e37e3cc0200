"""Cross-entropy on given scores: value, gradient, masks."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from m3jax.core.errors import InputError
from m3jax.losses.classification import softmax_cross_entropy

B, N = 6, 5
RNG = np.random.default_rng(0)
SCORES = jnp.float32(RNG.normal(size=(B, N)))
TARGET = jnp.array([0, 3, 4, 1, 2, 0])
WHERE = jnp.asarray(RNG.random((B, N)) > 0.4).at[jnp.arange(B), TARGET].set(True)
loss_of = jax.jit(softmax_cross_entropy)


def definition(
    scores: Any, target: Any, temperature: float = 1.0, where: Any = None
) -> np.ndarray:
    """In float64, one candidate after the other."""
    losses = []
    for i, row in enumerate(np.asarray(scores, np.float64)):
        if where is not None and not where[i, target[i]]:
            losses.append(0.0)
            continue
        there = [c for c in range(len(row)) if where is None or where[i, c]]
        others = [
            np.exp((row[c] - row[target[i]]) / temperature)
            for c in there
            if c != target[i]
        ]
        losses.append(np.log1p(sum(others)))
    return np.array(losses)


def test_by_hand() -> None:
    scores = jnp.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    loss = softmax_cross_entropy(scores, jnp.array([0, 2]), temperature=0.2)
    # Margins over the temperature: -2, -4 and 4, 2.
    expected = np.log([1 + np.exp(-2) + np.exp(-4), 1 + np.exp(4) + np.exp(2)])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("where", [None, WHERE])
def test_is_the_definition(temperature: float, where: Any) -> None:
    found = loss_of(SCORES, TARGET, temperature=temperature, where=where)
    expected = definition(SCORES, TARGET, temperature, where)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    plain = softmax_cross_entropy(SCORES, TARGET, temperature=temperature, where=where)
    np.testing.assert_allclose(plain, found, rtol=1e-5, atol=1e-7)


def test_easy_rows_keep_their_digits() -> None:
    """log(1 + 4e-18) is 0 in the usual form, and so would be the gradient."""
    scores = jnp.array([[1.0, 0.2, 0.1]])
    value, slope = jax.value_and_grad(
        lambda x: loss_of(x, jnp.array([0]), temperature=0.02).sum()
    )(scores)
    small = np.exp(-40) + np.exp(-45)
    np.testing.assert_allclose(value, small, rtol=1e-4)
    expected = np.array([[-small, np.exp(-40), np.exp(-45)]]) / 0.02
    np.testing.assert_allclose(slope, expected, rtol=1e-4)


def test_gradient() -> None:
    def loss(scores: Any, temperature: Any) -> jax.Array:
        given = jnp.asarray(scores), TARGET
        return loss_of(*given, temperature=jnp.asarray(temperature), where=WHERE).sum()

    given = (SCORES, jnp.float32(0.5))
    check_grads(loss, given, order=1, modes=("rev",), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("poison", [100.0, jnp.inf, jnp.nan])
def test_masked_is_deleted(poison: float) -> None:
    where = jnp.ones((B, N), bool).at[:, N - 1].set(False)
    target = jnp.minimum(TARGET, N - 2)
    poisoned = SCORES.at[:, N - 1].set(poison)

    def loss(scores: jax.Array, temperature: jax.Array, where: Any) -> jax.Array:
        return loss_of(scores, target, temperature=temperature, where=where).sum()

    run = jax.value_and_grad(loss, (0, 1))
    value, (slope, by_temperature) = run(poisoned, 0.3, where)
    shorter, (of_shorter, by_its_temperature) = run(SCORES[:, :-1], 0.3, None)
    np.testing.assert_allclose(value, shorter, rtol=1e-6)
    np.testing.assert_allclose(slope[:, :-1], of_shorter, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(slope[:, -1], 0)
    np.testing.assert_allclose(by_temperature, by_its_temperature, rtol=1e-5)


@pytest.mark.parametrize("poison", [1.0, jnp.inf, jnp.nan])
def test_without_its_target_a_row_has_no_loss(poison: float) -> None:
    where = WHERE.at[2, TARGET[2]].set(False).at[4].set(False)
    scores = SCORES.at[2, TARGET[2]].set(poison).at[4].set(poison)

    def loss(scores: jax.Array, temperature: Any) -> jax.Array:
        return loss_of(scores, TARGET, temperature=temperature, where=where)

    value = np.asarray(loss(scores, 0.02))
    assert value[2] == value[4] == 0 and (np.delete(value, [2, 4]) > 0).all()
    slopes = jax.grad(lambda *given: loss(*given).sum(), (0, 1))(scores, 0.02)
    assert all(np.isfinite(slope).all() for slope in slopes)
    np.testing.assert_array_equal(slopes[0][np.array([2, 4])], 0)


def test_nan_is_not_hidden() -> None:
    def rows(scores: jax.Array, target: jax.Array, **rest: Any) -> list[bool]:
        return np.isnan(loss_of(scores, target, **rest)).tolist()

    only_2 = [i == 2 for i in range(B)]
    assert rows(SCORES.at[2, TARGET[2]].set(jnp.nan), TARGET) == only_2
    assert rows(SCORES.at[2, TARGET[2] - 1].set(jnp.nan), TARGET) == only_2
    for outside in (N, -1, -100):
        assert rows(SCORES, TARGET.at[2].set(outside)) == only_2
        assert rows(SCORES, TARGET.at[2].set(outside), where=WHERE) == only_2
    alone = jax.nn.one_hot(TARGET, N, dtype=bool)
    assert rows(SCORES.at[2].set(jnp.nan), TARGET, where=alone) == only_2


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    temperature=st.floats(0.05, 5),
    shift=st.floats(-3, 3),
    scale=st.floats(0.1, 10),
)
def test_laws(seed: int, temperature: float, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    scores, target = rng.normal(size=(B, N)), rng.integers(0, N, B)
    scores, target = jnp.float32(scores), jnp.asarray(target)
    plain = np.asarray(loss_of(scores, target, temperature=temperature))
    assert (plain >= 0).all()

    def same(scores: Any, target: Any, temperature: float, expected: Any) -> None:
        found = loss_of(scores, jnp.asarray(target), temperature=temperature)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)

    rows, columns = rng.permutation(B), rng.permutation(N)
    same(scores[rows], target[rows], temperature, plain[rows])
    place = np.argsort(columns)[np.asarray(target)]
    same(scores[:, columns], place, temperature, plain)
    same(scores + jnp.float32(shift), target, temperature, plain)
    same(scores * jnp.float32(scale), target, temperature * scale, plain)


def test_bfloat16_is_close() -> None:
    loss = loss_of(SCORES.astype(jnp.bfloat16), TARGET, temperature=0.5)
    assert loss.dtype == jnp.float32
    expected = definition(SCORES, TARGET, 0.5)
    np.testing.assert_allclose(loss.mean(), expected.mean(), rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.0}, "temperature: expected a temperature above 0, found 0"),
        ({"temperature": -1.0}, "found -1.0"),
        ({"scores": SCORES[0]}, "scores: expected [b n], n at least 1, found shape (5"),
        ({"scores": SCORES[:, :0]}, "found shape (6, 0)"),
        ({"target": TARGET[:2]}, "target: expected shape (6,), found (2,)"),
        ({"where": WHERE[:, :2]}, "where: expected shape (6, 5), found (6, 2)"),
    ],
)
def test_arguments_that_do_not_fit(change: dict, said: str) -> None:
    arguments: dict[str, Any] = {"scores": SCORES, "target": TARGET} | change
    with pytest.raises(InputError) as error:
        # Without the suite's own shape checks, which users do not have.
        inspect.unwrap(softmax_cross_entropy)(**arguments)
    assert said in str(error.value)
