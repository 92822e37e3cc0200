"""CoSENT: value, gradient, masks, and the same on any number of devices."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.losses.graded import cosent
from m3jax.ops.pooling import normalize
from m3jax.ops.scores import dense_pairs

N, E = 8, 3
RNG = np.random.default_rng(0)
SCORES = RNG.uniform(-1, 1, N).astype(np.float32)
LABELS = np.array([0, 5, 1, 1, 3, 0, 5, 2.5], np.float32)
WHERE = np.array([True, True, False, True, True, True, False, True])
ALL = np.ones(N, bool)


@jax.jit
def run(
    scores: Any, labels: Any, temperature: Any, where: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def loss(scores: Any, temperature: Any) -> jax.Array:
        return cosent(scores, labels, temperature=temperature, where=where)

    return jax.value_and_grad(loss, (0, 1))(scores, temperature)


def measure(
    scores: Any = SCORES,
    labels: Any = LABELS,
    temperature: Any = 0.05,
    where: Any = ALL,
) -> Any:
    """The loss, and its gradients by the scores and by the temperature."""
    return run(scores, labels, temperature, where)


def changed(array: np.ndarray, index: Any, value: Any) -> np.ndarray:
    array = array.copy()
    array[index] = value
    return array


def test_right_orders_keep_their_digits() -> None:
    """log(1 + 1e-20) is 0 in the usual form, and so would be its gradient."""
    scores, labels = np.zeros(N, np.float32), np.ones(N, np.float32)
    scores[0], labels[0] = -0.9, 0
    found, (slope, _) = measure(scores, labels, 0.02)
    small = (N - 1) * np.exp(-45)
    np.testing.assert_allclose(found, small, rtol=1e-4)
    np.testing.assert_allclose(slope[0], small / 0.02, rtol=1e-4)


@pytest.mark.parametrize("poison", [100.0, np.inf, np.nan])
def test_masked_is_deleted(poison: float) -> None:
    given = [np.where(WHERE, x, np.float32(poison)) for x in (SCORES, LABELS)]
    found, (slope, by_temperature) = measure(*given, where=WHERE)
    expected, (of_less, by_its_temperature) = run(
        SCORES[WHERE], LABELS[WHERE], 0.05, ALL[WHERE]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(slope[WHERE], of_less, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(slope[~WHERE], 0)
    np.testing.assert_allclose(by_temperature, by_its_temperature, rtol=1e-5)


def test_nothing_to_compare_is_no_loss() -> None:
    alike = np.ones_like(LABELS)
    for change in ({"where": ~ALL}, {"where": np.arange(N) == 3}, {"labels": alike}):
        for x in jax.tree.leaves(measure(**change, temperature=0.02)):
            np.testing.assert_array_equal(x, 0)


def test_nan_is_not_hidden() -> None:
    for i in range(N):
        assert np.isnan(measure(changed(SCORES, i, np.nan))[0])
        assert np.isnan(measure(labels=changed(LABELS, i, np.nan))[0])
    alike = np.ones_like(LABELS)
    assert np.isnan(measure(changed(SCORES, 0, np.nan), alike)[0])


def test_says_what_sentence_transformers_says() -> None:
    golden = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")

    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss(query: jax.Array, passage: jax.Array) -> jax.Array:
        scores = dense_pairs(normalize(query), normalize(passage))
        return cosent(scores, jnp.asarray(golden["graded/labels"]))

    value, slopes = jax.jit(loss)(golden["query"], golden["passage"][:, 0])
    np.testing.assert_allclose(value, golden["graded/loss"], rtol=1e-6)
    expected = golden["graded/query"], golden["graded/passage"][:, 0]
    for slope, theirs in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(slope, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.0}, "temperature: expected a temperature above 0, found 0"),
        ({"scores": SCORES[None]}, "scores: expected [n], found shape (1, 8)"),
        ({"labels": LABELS[:2]}, "labels: expected shape (8,), found (2,)"),
        ({"where": WHERE[:2]}, "where: expected shape (8,), found (2,)"),
        ({"axis_name": "data"}, "axis_name: expected a mapped axis"),
    ],
)
def test_arguments_that_do_not_fit(change: dict, said: str) -> None:
    arguments: dict[str, Any] = {"scores": SCORES, "labels": LABELS} | change
    with pytest.raises(InputError) as error:
        # Without the suite's own shape checks, which users do not have.
        inspect.unwrap(cosent)(**arguments)
    assert said in str(error.value)


# Devices. One device is the truth; every right form has to agree with it.

ROWS = RNG.normal(size=(N, E)).astype(np.float32)
WEIGHT = np.array([0.3, -0.2, 0.5], np.float32)
FORMS = (
    "shard_map, grad(pmean)",
    "shard_map, grad",
    "shard_map unchecked, pmean(grad)",
    "pmap, pmean(grad)",
)


def local(
    form: str, axes: Any, weight: Any, rows: Any, labels: Any, where: Any
) -> tuple[jax.Array, jax.Array]:
    """The loss and its gradient by a weight that all devices share, made inside."""

    def loss(weight: jax.Array) -> jax.Array:
        scores = (rows * weight[None]).sum(1)
        rest: Any = {"temperature": 0.5, "axis_name": axes, "where": where}
        found = cosent(scores, labels, **rest)
        return jax.lax.pmean(found, axes) if "grad(pmean)" in form else found

    value, gradient = jax.value_and_grad(loss)(weight)
    if "pmean(grad)" in form:
        gradient = jax.lax.pmean(gradient, axes)
    return value, gradient


def inside(form: str, devices: int) -> Callable[..., Any]:
    if "pmap" in form:
        run = jax.pmap(
            functools.partial(local, form, "data"),
            "data",
            in_axes=(None, 0, 0, 0),
            devices=jax.devices()[:devices],
        )

        def on_all(weight: Any, *given: Any) -> Any:
            parts = [x.reshape(devices, -1, *x.shape[1:]) for x in given]
            values, slopes = run(weight, *parts)
            np.testing.assert_array_equal(values, values[0])  # on every device
            return values[0], slopes[0]

        return on_all
    axes = ("data", "fsdp") if devices == 8 else "data"
    mesh = jax.make_mesh(
        (2, 4) if devices == 8 else (devices,),
        axes if isinstance(axes, tuple) else (axes,),
        axis_types=(AxisType.Auto,) * (2 if devices == 8 else 1),
        devices=jax.devices()[:devices],
    )
    return jax.jit(
        jax.shard_map(
            functools.partial(local, form, axes),
            mesh=mesh,
            in_specs=(P(), P(axes), P(axes), P(axes)),
            out_specs=P(),
            check_vma="unchecked" not in form,
        )
    )


@functools.cache
def truth() -> tuple[np.ndarray, np.ndarray]:
    value, (slope, _) = measure((ROWS * WEIGHT).sum(1), LABELS, 0.5, WHERE)
    return np.asarray(value), np.asarray(slope, np.float64) @ ROWS


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize("form", FORMS)
def test_is_the_same_on_any_number_of_devices(form: str, devices: int) -> None:
    value, gradient = inside(form, devices)(WEIGHT, ROWS, LABELS, WHERE)
    np.testing.assert_allclose(value, truth()[0], rtol=1e-5)
    np.testing.assert_allclose(gradient, truth()[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["shard_map unchecked", "pmap"])
def test_the_wrong_form_is_wrong(kind: str) -> None:
    """So that the docstring's warning stays true."""
    value, gradient = inside(f"{kind}, grad(pmean)", 2)(WEIGHT, ROWS, LABELS, WHERE)
    np.testing.assert_allclose(value, truth()[0], rtol=1e-5)
    assert (np.abs(gradient / truth()[1] - 1) > 0.1).all()
