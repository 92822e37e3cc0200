"""Losses of rerankers: value, gradient, masks."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.losses.reranking import rerank_listwise, rerank_pointwise

B, G = 4, 3
RNG = np.random.default_rng(0)
YES, NO = RNG.normal(size=(2, B * G)).astype(np.float32)
LABELS = np.array([1, 0, 0, 1, 0.25, 0, 1, 0, 0.9, 0, 0, 0], np.float32)
WHERE = RNG.random(B * G) > 0.3
WHERE[::G] = True
ALL = np.ones(B * G, bool)


@jax.jit
def run(yes: Any, no: Any, labels: Any, where: Any, temperature: Any) -> Any:
    """Both losses, the groups being rows of G pairs, and their gradients."""

    def loss(yes: Any, no: Any, temperature: Any) -> Any:
        one = rerank_pointwise(yes, no, labels, where=where)
        two = rerank_listwise(
            (yes - no).reshape(-1, G),
            temperature=temperature,
            where=where.reshape(-1, G),
        )
        return one.sum() + 2 * two.sum(), (one, two)

    slopes, found = jax.grad(loss, (0, 1, 2), has_aux=True)(yes, no, temperature)
    return found, slopes


def measure(
    yes: Any = YES,
    no: Any = NO,
    labels: Any = LABELS,
    where: Any = ALL,
    temperature: Any = 1.0,
) -> Any:
    return run(yes, no, labels, where, temperature)


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def test_labels_outside_of_0_to_1_are_no_number() -> None:
    """-1 and 1 would make a loss without a lower bound."""
    (found, _), _ = measure(labels=changed(changed(LABELS, 1, -1), 2, 1.5))
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 2]


def test_easy_pairs_keep_their_digits() -> None:
    """-log(1 - 1e-18) is 0 in the usual form, and so would be its gradient."""

    def loss(yes: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = rerank_pointwise(yes, jnp.zeros(2), labels)
        return found.sum(), found

    run = jax.jit(jax.grad(loss, has_aux=True))
    labels, logits = np.float32(np.eye(2)[0]), np.float32(41 * np.array([1, -1]))
    slope, found = run(logits, labels)
    small = np.exp(-41)
    np.testing.assert_allclose(found, [small, small], rtol=1e-4)
    np.testing.assert_allclose(slope, [-small, small], rtol=1e-4)
    slope, found = run(logits, 1 - labels)
    np.testing.assert_allclose(found, [41, 41], rtol=1e-6)
    np.testing.assert_allclose(slope, [1, -1], rtol=1e-6)


@pytest.mark.parametrize("poison", [100.0, np.inf, np.nan])
def test_masked_is_without_influence(poison: float) -> None:
    found, slopes = measure(where=WHERE)
    given = [np.where(WHERE, x, np.float32(poison)) for x in (YES, NO, LABELS)]
    again = measure(*given, where=WHERE)
    jax.tree.map(np.testing.assert_array_equal, again, (found, slopes))
    for x in (found[0], *slopes[:2]):
        np.testing.assert_array_equal(np.asarray(x)[~WHERE], 0)


def test_nothing_there_is_no_loss() -> None:
    where = changed(WHERE, 0, False)  # a query without its positive
    (one, two), slopes = measure(where=where, temperature=0.02)
    assert one[0] == two[0] == 0 and (np.asarray(two[1:]) > 0).any()
    assert all(np.isfinite(slope).all() for slope in slopes)
    for x in jax.tree.leaves(measure(where=~ALL, temperature=0.02)):
        np.testing.assert_array_equal(x, 0)


def test_nan_is_not_hidden() -> None:
    for i in range(G):
        for name, array in (("yes", YES), ("no", NO), ("labels", LABELS)):
            given = {name: changed(array, i, np.nan)}
            (one, two), _ = measure(**given)
            assert np.flatnonzero(np.isnan(one)).tolist() == [i]
            expected = [] if name == "labels" else [0]
            assert np.flatnonzero(np.isnan(two)).tolist() == expected


@pytest.mark.parametrize(
    ("function", "change", "said"),
    [
        (
            rerank_pointwise,
            {"yes": YES[None]},
            "yes: expected [n], found shape (1, 12)",
        ),
        (rerank_pointwise, {"no": NO[:2]}, "no: expected shape (12,), found (2,)"),
        (rerank_pointwise, {"labels": LABELS[None]}, "labels: expected shape (12,)"),
        (rerank_pointwise, {"where": WHERE[:3]}, "where: expected shape (12,)"),
        (rerank_listwise, {"temperature": 0.0}, "temperature: expected a temperature"),
        (rerank_listwise, {"scores": YES}, "scores: expected [b n], n at least 1"),
        (rerank_listwise, {"where": ALL}, "where: expected shape (1, 12), found (12,)"),
    ],
)
def test_arguments_that_do_not_fit(function: Any, change: dict, said: str) -> None:
    arguments: dict[str, Any] = {"scores": jnp.asarray(YES[None])}
    if function is rerank_pointwise:
        arguments = {"yes": YES, "no": NO, "labels": LABELS}
    with pytest.raises(InputError) as error:
        # Without the suite's own shape checks, which users do not have.
        inspect.unwrap(function)(**arguments | change)
    assert said in str(error.value)
