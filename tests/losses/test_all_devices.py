"""Every loss on one device, on two and on eight, in every form."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.compare import line
from tests.losses.enrolled import ENROLLED, B, Given, on_device, usual

WEIGHTS = np.linspace(0.2, 1.5, B, dtype=np.float32)
FORMS = ("shard_map", "shard_map, unchecked", "pmap")
SCALARS = ("cosent", "retromae")


def weighted(found: Any, weights: Any) -> Any:
    """A sum of the losses of texts, or the loss of the batch."""
    if not found.ndim:
        return found
    return (found * jnp.reshape(weights, (-1, *[1] * (found.ndim - 1)))).sum()


@functools.cache
def truth(name: str) -> tuple[Any, Given]:
    loss, given = ENROLLED[name], on_device(usual(name))
    arrays = {k: given.pop(k) for k in loss.arrays}

    def total(arrays: Given) -> Any:
        found = loss.call(**arrays, **given)
        return weighted(found, WEIGHTS), found

    gradient, found = jax.jit(jax.grad(total, has_aux=True, allow_int=True))(arrays)
    return found, gradient


def over_devices(name: str, devices: int, form: str) -> tuple[Any, Given]:
    """As `truth`."""
    loss, given = ENROLLED[name], on_device(usual(name))
    if "axis_name" in given or name == "matryoshka":
        given["axis_name"] = "data"
    mapped = {k: given.pop(k) for k in loss.rows}
    whole = {k: given.pop(k) for k in loss.arrays if k not in mapped}

    def local(mapped: Given, whole: Given) -> Any:
        return loss.call(**mapped, **whole, **given)

    def gradient_of(value: Callable[[Given, Given], Any]) -> Callable[..., Any]:
        """By the arrays; `value` takes what is mapped, and what is not."""

        def total(arrays: Given, mapped: Given, whole: Given, *rest: Any) -> Any:
            now = ({k: arrays.get(k, x) for k, x in x.items()} for x in (mapped, whole))
            found = value(*now)
            return weighted(found, *rest), found

        def run(mapped: Given, whole: Given, *rest: Any) -> Any:
            arrays = {k: (mapped | whole)[k] for k in loss.arrays}
            slope = jax.grad(total, has_aux=True, allow_int=True)
            return slope(arrays, mapped, whole, *rest)

        return run

    some = jax.devices()[:devices]
    if form == "pmap":
        return over_pmap(gradient_of(local), mapped, whole, some)
    spread = jax.shard_map(
        local,
        mesh=line(devices),
        in_specs=(P("data"), P()),
        out_specs=P() if name in SCALARS else P("data"),
        check_vma=form == "shard_map",
    )
    gradient, found = jax.jit(gradient_of(spread))(mapped, whole, WEIGHTS)
    return found, gradient


def over_pmap(
    run: Callable[..., Any], mapped: Given, whole: Given, devices: list[Any]
) -> tuple[Any, Given]:
    """The form for it: the mean over devices of the gradients, taken inside."""
    count = len(devices)

    def step(mapped: Given, both: tuple[Given, Any], weights: Any) -> Any:
        # The mean of this over the devices is the sum over all rows.
        gradient, found = run(mapped, both[0], weights * count)

        def finish(name: str, x: Any) -> Any:
            if x.dtype != jnp.float32:
                return jnp.zeros(x.shape)
            return x / count if name in mapped else jax.lax.pmean(x, "data")

        return {
            k: jax.tree.map(functools.partial(finish, k), x)
            for k, x in gradient.items()
        }, found

    def parted(x: Any) -> Any:
        return jnp.reshape(x, (count, -1, *x.shape[1:]))

    # With an empty dict in this place, jax 0.10 takes the next axis for it.
    both = whole, jnp.zeros(())
    gradient, found = jax.pmap(step, "data", in_axes=(0, None, 0), devices=devices)(
        jax.tree.map(parted, mapped), both, parted(WEIGHTS)
    )

    def joined(x: Any) -> Any:
        return x.reshape(-1, *x.shape[2:])

    found = joined(found) if found.ndim > 1 else found[0]
    return found, {
        k: jax.tree.map(joined if k in mapped else lambda x: x[0], x)
        for k, x in gradient.items()
    }


def places() -> list[Any]:
    """Names, devices and forms; those that meet other devices quickly in one place."""
    found = []
    for i, name in enumerate(ENROLLED):
        for j, (devices, form) in enumerate(itertools.product((2, 8), FORMS)):
            meets = name in ("info_nce", "cosent", "retromae", "masked_lm", "m3")
            quick = meets and (i + j) % 6 == 0
            marks = [] if quick else [pytest.mark.slow]
            found.append(pytest.param(name, devices, form, marks=marks))
    return found


@pytest.mark.parametrize(("name", "devices", "form"), places())
def test_devices_change_nothing(name: str, devices: int, form: str) -> None:
    found, expected = over_devices(name, devices, form), truth(name)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for x, y in pairs:
        if y.dtype == jnp.float32:
            limit = 2e-5 * max(1e-3, float(np.abs(y).max()))
            np.testing.assert_allclose(x, y, rtol=0, atol=limit)
