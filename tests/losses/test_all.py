"""Every loss by the same laws, and every argument in several values."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from m3jax import losses
from tests.losses.enrolled import (
    BESIDE,
    ENROLLED,
    B,
    Given,
    cosines,
    defined,
    in_float64,
    on_device,
    usual,
)

LOSSES = pytest.mark.parametrize("name", ENROLLED)
# These compile long; of the first two other files of the quick suite have as much.
LONG = ("m3", "contrast", "retromae", "matryoshka")
QUICKLY = pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x in LONG else []) for x in ENROLLED],
)


PROGRAMS: dict[tuple[str, str], Callable[..., Any]] = {}


def program(name: str, given: Given, gradient: bool) -> tuple[Any, Given]:
    """The losses, and the gradients of their sum by the arrays; compiled once."""
    loss, given = ENROLLED[name], on_device(given)
    arrays = {k: given.pop(k) for k in loss.arrays}
    facts = {k: given.pop(k) for k in tuple(given) if isinstance(given[k], jax.Array)}

    def total(arrays: Given, facts: Given) -> Any:
        found = loss.call(**arrays, **facts, **given)
        return found.sum(), found

    def values(arrays: Given, facts: Given) -> Any:
        return None, total(arrays, facts)[1]

    slope = jax.grad(total, has_aux=True, allow_int=True)
    run = jax.jit(slope if gradient else values)
    gradients, found = PROGRAMS.setdefault((name, f"{gradient} {given}"), run)(
        arrays, facts
    )
    return found, gradients


def slopes(name: str, given: Given) -> tuple[Any, Given]:
    """The losses, and the gradients of their sum by the arrays."""
    return program(name, given, True)


def losses_of(name: str, given: Given) -> Any:
    """The losses alone."""
    return program(name, given, False)[0]


def real(tree: Any) -> list[np.ndarray]:
    """Leaves that are numbers."""
    leaves = map(np.asarray, jax.tree.leaves(tree))
    return [x for x in leaves if x.dtype in (np.float32, np.float64)]


def test_everything_is_enrolled() -> None:
    functions = {x for x in losses.__all__ if not isinstance(getattr(losses, x), type)}
    assert set(ENROLLED) == functions
    for name, loss in ENROLLED.items():
        arguments = set(inspect.signature(getattr(losses, name)).parameters)
        if name == "matryoshka":
            arguments |= {"query", "passage", "temperature", "where"}
        assert set(usual(name)) == arguments, name
        for argument, values in loss.values.items():
            alone = ("axis_name", "transport")  # see below, on devices
            inner = name == "matryoshka" and argument in ("temperature", "where")
            assert len(values) > 1 or argument in alone or inner, (name, argument)


@LOSSES
def test_by_hand(name: str) -> None:
    given, expected = ENROLLED[name].hand
    np.testing.assert_allclose(losses_of(name, given), expected, rtol=1e-6, atol=1e-6)


# Those whose arguments other files of the quick suite have in several values, too.
SLOW = ("info_nce", "contrast", "m3", "masked_lm", "retromae", "matryoshka")

QUICK = {("info_nce", "where")}


def arguments() -> list[Any]:
    """Names of losses and arguments."""
    return [
        pytest.param(
            name,
            argument,
            marks=[pytest.mark.slow]
            if name in SLOW and (name, argument) not in QUICK
            else [],
        )
        for name, loss in ENROLLED.items()
        for argument, values in loss.values.items()
        if len(values) > 1
    ]


def moved_by(step: float, given: Given, direction: Given) -> Given:
    def move(x: Any, way: np.ndarray) -> Any:
        return x + step * way if x.dtype == np.float64 else x

    arrays = in_float64({k: given[k] for k in direction})
    return {k: jax.tree.map(move, arrays[k], way) for k, way in direction.items()}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_values_of_every_argument(name: str, argument: str) -> None:
    """Each is the definition, in value and in slope, and one makes a difference."""
    loss = ENROLLED[name]
    base = usual(name) | BESIDE.get((name, argument), {})
    direction = jax.tree.map(
        # A sparse weight of 0 is no token, and cannot fall.
        lambda x: np.random.default_rng(1).normal(size=x.shape) * (x != 0),
        loss.arrays,
    )
    results = []
    for value in loss.values[argument]:
        given = base | {argument: value}
        if argument == "loss" and value is cosines:
            given |= {"weights": (1, 1)}
        found, gradient = slopes(name, given)
        expected = defined(name, given)
        results.append(expected)
        np.testing.assert_allclose(found, expected, rtol=3e-5, atol=1e-5)
        if argument in loss.held:
            continue

        slope = sum(
            (x * d).sum()
            for x, d in zip(
                jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
            )
            if x.dtype == np.float32
        )
        ahead, behind = (
            defined(name, given | moved_by(step, given, direction)).sum()
            for step in (1e-6, -1e-6)
        )
        right = (ahead - behind) / 2e-6
        np.testing.assert_allclose(slope, right, rtol=2e-4, atol=1e-4)
    differ = max(np.abs(x - y).max() for x in results for y in results)
    assert differ == 0 if argument in loss.same else differ > 1e-4


@pytest.mark.slow
@LOSSES
def test_gradient(name: str) -> None:
    loss = ENROLLED[name]
    given = on_device(usual(name))
    leaves, tree = jax.tree.flatten({k: given.pop(k) for k in loss.arrays})
    which = [i for i, x in enumerate(leaves) if x.dtype == jnp.float32]

    @jax.jit
    def total(numbers: list[Any]) -> Any:
        now = list(leaves)
        for i, x in zip(which, numbers, strict=True):
            now[i] = x
        return loss.call(**tree.unflatten(now), **given).sum()

    numbers = [leaves[i] for i in which]
    check_grads(total, (numbers,), order=1, modes=("rev",), atol=3e-2, rtol=3e-2)


@QUICKLY
def test_masked_is_deleted(name: str) -> None:
    loss = ENROLLED[name]
    assert loss.absent is not None
    where, axes = loss.absent
    given = usual(name)
    axis = axes[where]
    last: Any = (slice(None),) * axis + (-1,)
    real_ones = np.array(given[where])
    real_ones[last] = False

    def poison(x: np.ndarray, axis: int) -> np.ndarray:
        if x.dtype != np.float32:
            return x
        x = x.copy()
        x[(slice(None),) * axis + (-1,)] = np.nan
        return x

    for k, at in axes.items():
        if k in loss.arrays:
            given[k] = jax.tree.map(lambda x, at=at: poison(x, at), given[k])
    shorter = given | {
        k: jax.tree.map(lambda x, at=at: np.delete(x, -1, at), given[k])
        for k, at in axes.items()
    }
    found, gradient = slopes(name, given | {where: real_ones})
    expected, right = slopes(name, shorter)
    if np.ndim(found) > axis and axis + 1 == np.ndim(real_ones):
        if found.shape != expected.shape:
            np.testing.assert_array_equal(found[last], 0)
            found = np.delete(found, -1, axis)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for k, at in axes.items():
        if k in loss.arrays:
            for x, y in zip(real(gradient[k]), real(right[k]), strict=True):
                gone: Any = (slice(None),) * at + (-1,)
                np.testing.assert_array_equal(x[gone], 0)
                kept = np.delete(x, -1, at)
                np.testing.assert_allclose(kept, y, rtol=1e-4, atol=1e-6)


@LOSSES
def test_nothing_there_is_zero(name: str) -> None:
    given = usual(name)
    for k in given:
        if k.endswith("where"):
            given[k] = np.zeros_like(given[k])
    found, gradient = slopes(name, given)
    np.testing.assert_array_equal(found, 0)
    for x in real(gradient):
        np.testing.assert_array_equal(x, 0)


@LOSSES
def test_nan_is_not_hidden(name: str) -> None:
    """In the row that has it, or in the loss of all."""
    loss, given = ENROLLED[name], usual(name)
    first = next(iter(loss.arrays))
    at = 0
    given[first] = jax.tree.map(np.copy, given[first])
    for leaf in jax.tree.leaves(given[first]):
        if leaf.dtype == np.float32:
            leaf[at] = np.nan
    found = np.asarray(slopes(name, given)[0])
    lost = np.isnan(found[at] if found.ndim else found)
    assert lost[np.asarray(given["where"])[at]].all() if lost.ndim else lost


@QUICKLY
def test_bfloat16_is_close(name: str) -> None:
    given = on_device(usual(name))
    low = given | {
        k: jax.tree.map(
            lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, given[k]
        )
        for k in ENROLLED[name].arrays
    }
    found = losses_of(name, low)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(
        found.mean(), defined(name, usual(name)).mean(), rtol=1e-2
    )


@functools.cache
def compiled(name: str) -> Callable[[Given], Any]:
    """With the usual arguments, or those of the shift; arrays and rows may change."""
    loss = ENROLLED[name]
    rest = loss.shift(usual(name), 0.0)
    static = {k: x for k, x in rest.items() if k not in (*loss.rows, *loss.arrays)}
    static.pop("bias", None)
    return jax.jit(lambda given: loss.call(**static, **given))


@LOSSES
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 1000), by=st.floats(-2, 2))
def test_laws(name: str, seed: int, by: float) -> None:
    """Never below 0; rows in any order; some shifts change nothing."""
    loss, rng = ENROLLED[name], np.random.default_rng(seed)
    given = loss.shift(usual(name), 0.0)
    names = [*loss.arrays, *loss.rows] + (["bias"] if "bias" in given else [])
    given = {k: given[k] for k in dict.fromkeys(names)}
    for k in loss.arrays:
        given[k] = jax.tree.map(
            lambda x: rng.permutation(x) if x.dtype == np.float32 else x, given[k]
        )
    plain = np.asarray(compiled(name)(given))
    assert (plain >= -1e-6).all()
    order = rng.permutation(B)
    mixed = {
        k: jax.tree.map(lambda x: x[order], x) if k in loss.rows else x
        for k, x in given.items()
    }
    found = compiled(name)(mixed)
    expected = plain[order] if plain.ndim else plain
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    shifted = loss.shift(given, by)
    np.testing.assert_allclose(compiled(name)(shifted), plain, rtol=1e-3, atol=1e-3)
