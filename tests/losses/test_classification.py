"""Cross-entropy on given scores: value, gradient, masks."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.losses.classification import softmax_cross_entropy
from m3jax.losses.distillation import m3_kd

B, N = 6, 5
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(B, N)).astype(np.float32)
TARGET = np.array([0, 3, 4, 1, 2, 0])
WHERE = (RNG.random((B, N)) > 0.4) | np.eye(N, dtype=bool)[TARGET]
ALL = np.ones((B, N), bool)


@jax.jit
def run(
    scores: Any, temperature: Any, target: Any, where: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def loss(scores: Any, temperature: Any) -> Any:
        rest: Any = {"temperature": temperature, "where": where}
        found = softmax_cross_entropy(scores, target, **rest)
        return found.sum(), found

    slopes, found = jax.grad(loss, (0, 1), has_aux=True)(scores, temperature)
    return found, slopes


def measure(
    scores: Any, target: Any = TARGET, where: Any = ALL, temperature: float = 1.0
) -> tuple[np.ndarray, tuple[jax.Array, jax.Array]]:
    """The loss, and its gradients by the scores and by the temperature."""
    found, slopes = run(scores, temperature, target, where)
    return np.asarray(found), slopes


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def test_easy_rows_keep_their_digits() -> None:
    """log(1 + 4e-18) is 0 in the usual form, and its gradient has no digits."""
    scores = np.tile(np.array([1.0, 0.2, 0.1, 0.0, -0.1], np.float32), (B, 1))
    found, (slope, _) = measure(scores, np.zeros(B, int), temperature=0.02)
    powers = np.exp((scores[0].astype(np.float64) - 1) / 0.02)
    np.testing.assert_allclose(found, powers[1:].sum(), rtol=1e-4)
    powers[0] = -powers[1:].sum()
    np.testing.assert_allclose(slope[0], powers / 0.02, rtol=1e-4)


@pytest.mark.parametrize("poison", [100.0, np.inf, np.nan])
def test_masked_is_deleted(poison: float) -> None:
    last = np.arange(N) == N - 1
    where, target = ALL & ~last, np.minimum(TARGET, N - 2)
    poisoned = changed(SCORES, np.s_[:, N - 1], poison)
    found, (slope, by_temperature) = measure(poisoned, target, where, 0.3)
    shorter, (of_shorter, by_its_temperature) = run(
        SCORES[:, :-1], 0.3, target, where[:, :-1]
    )
    np.testing.assert_allclose(found, shorter, rtol=1e-6)
    np.testing.assert_allclose(slope[:, :-1], of_shorter, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(slope[:, -1], 0)
    np.testing.assert_allclose(by_temperature, by_its_temperature, rtol=1e-5)


@pytest.mark.parametrize("poison", [1.0, np.inf, np.nan])
def test_without_its_target_a_row_has_no_loss(poison: float) -> None:
    where = changed(changed(WHERE, (2, TARGET[2]), False), 4, False)
    scores = changed(changed(SCORES, (2, TARGET[2]), poison), 4, poison)
    found, slopes = measure(scores, where=where, temperature=0.02)
    empty = [2, 4]
    assert (found[empty] == 0).all() and (np.delete(found, empty) > 0).all()
    assert all(np.isfinite(slope).all() for slope in slopes)
    np.testing.assert_array_equal(np.asarray(slopes[0])[empty], 0)
    for x in jax.tree.leaves(measure(scores, where=~ALL)):
        np.testing.assert_array_equal(x, 0)


def test_padding_has_no_target_and_no_loss() -> None:
    scores, target = jnp.ones((2, 3)), jnp.array([-1, 1])
    where = jnp.array([[False] * 3, [True] * 3])
    loss = softmax_cross_entropy(scores, target, where=where)
    np.testing.assert_allclose(loss, [0, np.log(3)], rtol=1e-6)
    loss = m3_kd(scores, jnp.ones((2, 1)), target[:, None], where=where)
    np.testing.assert_allclose(loss, [0, np.log(3)], rtol=1e-6)


def test_nan_is_not_hidden() -> None:
    def rows(*given: Any, **rest: Any) -> list[int]:
        return np.flatnonzero(np.isnan(measure(*given, **rest)[0])).tolist()

    for column in range(N):
        assert rows(changed(SCORES, (2, column), np.nan)) == [2]
    for outside in (N, -1, -100):
        assert rows(SCORES, changed(TARGET, 2, outside)) == [2]
        assert rows(SCORES, changed(TARGET, 2, outside), WHERE) == [2]
    alone = np.eye(N, dtype=bool)[TARGET]
    assert rows(changed(SCORES, 2, np.nan), where=alone) == [2]


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
