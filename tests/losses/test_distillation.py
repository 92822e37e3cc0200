"""Distillation: KL, and FlagEmbedding's m3_kd."""

import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.losses.distillation import distill_kl, m3_kd
from tests.losses import definitions

B, G, N = 4, 3, 7
RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(B, N)).astype(np.float32)
TEACHER = 2 * RNG.normal(size=(B, N)).astype(np.float32)
OWN = np.array([[0, 1, 2], [4, 3, 6], [6, 0, 5], [2, 5, 1]])
WHERE = RNG.random((B, N)) > 0.3
WHERE[1, 4], WHERE[3, 1] = False, True
ALL = np.ones((B, N), bool)


@jax.jit
def run(
    scores: Any,
    temperature: Any,
    teacher: Any,
    other: Any,
    where: Any,
    own: Any,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    def loss(scores: Any, temperature: Any, teacher: Any, other: Any) -> Any:
        rest: Any = {"temperature": temperature, "where": where}
        kl = distill_kl(scores, teacher, teacher_temperature=other, **rest)
        kd = m3_kd(scores, teacher[:, :G], own, **rest)
        return (kl + 2 * kd).sum(), (kl, kd)

    slopes, found = jax.grad(loss, (0, 1, 2, 3), has_aux=True)(
        scores, temperature, teacher, other
    )
    return found, slopes


def both(
    scores: Any,
    teacher: Any = TEACHER,
    where: Any = ALL,
    own: Any = OWN,
    temperature: Any = 1.0,
    teacher_temperature: Any = 1.0,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The two losses, m3_kd with the teacher's first columns, and all gradients."""
    other = teacher_temperature
    return run(scores, temperature, teacher, other, where, own)


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def test_the_teacher_has_no_gradient() -> None:
    _, (by_scores, by_temperature, *of_teacher) = both(SCORES, temperature=0.5)
    assert (np.asarray(by_scores) != 0).all() and by_temperature != 0
    assert all((np.asarray(slope) == 0).all() for slope in of_teacher)


def test_under_vmap() -> None:
    """And with own passages alone, so that there are no others."""

    def one(scores: jax.Array, teacher: jax.Array, own: jax.Array) -> jax.Array:
        return m3_kd(scores[None], teacher[None], own[None], temperature=0.5)[0]

    own = np.tile([[1, 0, 2]], (B, 1))
    run = jax.jit(jax.vmap(jax.value_and_grad(one)))
    found, slope = run(SCORES[:, :G], TEACHER[:, :G], own)
    where = np.broadcast_to(np.arange(N) < G, (B, N))
    expected = definitions.m3_kd(
        SCORES, TEACHER[:, :G], own, temperature=0.5, where=where
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("poison", [100.0, np.inf, np.nan])
def test_masked_is_without_influence(poison: float) -> None:
    rest: dict[str, Any] = {"where": WHERE, "temperature": 0.5}
    found, slopes = both(SCORES, **rest)
    poisoned = np.where(WHERE, SCORES, np.float32(poison))
    again = both(poisoned, **rest)
    jax.tree.map(np.testing.assert_array_equal, again, (found, slopes))
    np.testing.assert_array_equal(np.asarray(slopes[0])[~WHERE], 0)
    teacher = np.where(WHERE, TEACHER, np.float32(poison))
    (kl, _), _ = both(SCORES, teacher, **rest)
    np.testing.assert_array_equal(kl, found[0])
    # What stands in the group at an own passage that is not there.
    absent = np.zeros((B, N), bool)
    absent[:, :G] = ~np.take_along_axis(WHERE, OWN, 1)
    (_, kd), _ = both(SCORES, changed(TEACHER, absent, poison), **rest)
    np.testing.assert_array_equal(kd, found[1])


def test_rows_without_candidates_have_no_loss() -> None:
    where = changed(WHERE, 2, False)
    found, slopes = both(SCORES, where=where, temperature=0.02)
    assert [float(x[2]) for x in found] == [0, 0]
    assert all(np.isfinite(slope).all() for slope in slopes)
    np.testing.assert_array_equal(slopes[0][2], 0)
    # Others are there, own passages are not: nothing to tell with m3_kd.
    (_, kd), _ = both(SCORES, where=changed(where, (2, [1, 2]), True))
    assert kd[2] == 0
    for x in jax.tree.leaves(both(SCORES, where=~ALL, temperature=0.02)):
        np.testing.assert_array_equal(x, 0)


def test_nan_is_not_hidden() -> None:
    only_2 = [i == 2 for i in range(B)]
    for column in range(N):
        found, _ = both(changed(SCORES, (2, column), np.nan))
        assert [np.isnan(x).tolist() for x in found] == [only_2, only_2]
    for column in range(G):
        found, _ = both(SCORES, changed(TEACHER, (2, column), np.nan))
        assert [np.isnan(x).tolist() for x in found] == [only_2, only_2]
    for outside in (-1, N):
        (_, kd), _ = both(SCORES, own=changed(OWN, (2, 1), outside))
        assert np.isnan(kd).tolist() == only_2


def test_a_teacher_may_be_sure() -> None:
    sure = changed(np.full_like(TEACHER, -np.inf), (slice(None), 0), 0.0)
    (kl, kd), (slope, *_) = both(SCORES, sure, own=np.tile([[0, 1, 2]], (B, 1)))
    expected = np.log(np.exp(SCORES).sum(1)) - SCORES[:, 0]
    np.testing.assert_allclose(kl, expected, rtol=1e-5)
    np.testing.assert_allclose(kd, expected, rtol=1e-5)
    assert np.isfinite(slope).all()


def test_says_what_flagembedding_says() -> None:
    golden = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
    scores, teacher = golden["kd/scores"], golden["kd/teacher"]
    b, g = teacher.shape
    own = np.arange(b * g).reshape(b, g)

    def loss(scores: jax.Array, group: jax.Array) -> tuple[jax.Array, Any]:
        kd = m3_kd(scores, jnp.asarray(teacher), jnp.asarray(own)).mean()
        kl = distill_kl(group, jnp.asarray(teacher), temperature=1.0).mean()
        return kd + kl, (kd, kl)

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (by_scores, by_group), (kd, kl) = run(scores, np.take_along_axis(scores, own, 1))
    np.testing.assert_allclose(kd, golden["kd/m3"], rtol=1e-6)
    np.testing.assert_allclose(by_scores, golden["kd/m3_scores"], rtol=1e-5, atol=1e-7)
    # Theirs is a cross-entropy: more by the entropy of the teacher, same gradient.
    shares = np.array([definitions.softmax(row) for row in teacher.tolist()])
    entropy = -(shares * np.log(shares)).sum(1).mean()
    np.testing.assert_allclose(kl, golden["kd/kl"] - entropy, rtol=1e-5)
    np.testing.assert_allclose(by_group, golden["kd/kl_scores"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("function", "change", "said"),
    [
        (distill_kl, {"temperature": 0.0}, "temperature: expected a temperature above"),
        (
            distill_kl,
            {"teacher_temperature": -1.0},
            "teacher_temperature: expected a temperature above 0, found -1.0",
        ),
        (distill_kl, {"scores": SCORES[0]}, "scores: expected [b n], n at least 1"),
        (
            distill_kl,
            {"teacher_scores": TEACHER[:, :G]},
            "teacher_scores: expected shape (4, 7), found (4, 3)",
        ),
        (
            distill_kl,
            {"where": WHERE[:2]},
            "where: expected shape (4, 7), found (2, 7)",
        ),
        (m3_kd, {"temperature": float("nan")}, "found nan"),
        (m3_kd, {"scores": SCORES[0]}, "scores: expected [b n], n at least 1"),
        (m3_kd, {"own": OWN[:2]}, "own: expected shape (4, 3), found (2, 3)"),
        (
            m3_kd,
            {"teacher_scores": TEACHER},
            "teacher_scores: expected shape (4, 3), found (4, 7)",
        ),
        (m3_kd, {"teacher_scores": TEACHER[0]}, "teacher_scores: expected [b n]"),
        (m3_kd, {"where": WHERE[:, :3]}, "where: expected shape (4, 7), found (4, 3)"),
        (m3_kd, {"scores": SCORES[:, :2]}, "own: expected at most 2 own passages"),
    ],
)
def test_arguments_that_do_not_fit(function: Any, change: dict, said: str) -> None:
    arguments: dict[str, Any] = {"scores": SCORES, "temperature": 1.0}
    if function is m3_kd:
        arguments |= {"teacher_scores": TEACHER[:, :G], "own": OWN}
    else:
        arguments |= {"teacher_scores": TEACHER}
    with pytest.raises(InputError) as error:
        # Without the suite's own shape checks, which users do not have.
        inspect.unwrap(function)(**arguments | change)
    assert said in str(error.value)
