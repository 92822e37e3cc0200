"""RetroMAE: both sides by what counts of them, on one device and on two."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.losses import language
from tests.compare import assert_same, line, slope
from tests.losses import definitions

B, L, D, V = 2, 5, 4, 7
RNG = np.random.default_rng(0)
HIDDEN, DECODER = RNG.normal(size=(B, L, D)), RNG.normal(size=(B, L + 1, D))
TABLE, BIAS = RNG.normal(size=(V, D)), RNG.normal(size=V)
LABELS = np.array([[-1, 3, -1, 0, 6], [-1, -1, 2, -1, -1]])
DECODER_LABELS = np.array([[-1, 1, 1, 4, 5, -1], [-1, 2, 6, -1, -1, -1]])
COUNTS = LABELS >= 0
LAYER = np.eye(D) + 0.1

SIDES = {
    "encoder_hidden": jnp.float32(HIDDEN),
    "decoder_hidden": jnp.float32(DECODER),
    "encoder_labels": jnp.asarray(LABELS),
    "decoder_labels": jnp.asarray(DECODER_LABELS),
}


def test_weighs_each_side_by_what_counts() -> None:
    """4 tokens of the encoder, 6 of the decoder; fewer, or none of either or both."""

    @jax.jit
    def run(given: Any) -> Any:
        def loss(table: jax.Array, bias: jax.Array, given: Any) -> jax.Array:
            return losses.retromae(table=table, bias=bias, tile=4, **given)

        arrays = jnp.float32(TABLE), jnp.float32(BIAS)
        return jax.value_and_grad(loss, (0, 1))(*arrays, given)

    def check(encoder: np.ndarray, decoder: np.ndarray) -> None:
        where = {"encoder_where": encoder, "decoder_where": decoder}
        labels = LABELS, DECODER_LABELS

        def known(table: np.ndarray, bias: np.ndarray) -> float:
            given = HIDDEN, DECODER, table, *labels
            return definitions.retromae(*given, bias=bias, **where)

        value, slopes = run(SIDES | jax.tree.map(jnp.asarray, where))
        np.testing.assert_allclose(value, known(TABLE, BIAS), rtol=2e-6)
        of_table = slope(TABLE, lambda x: known(x, BIAS))
        assert_same(slopes, (of_table, slope(BIAS, lambda x: known(TABLE, x))))

    both = COUNTS, DECODER_LABELS >= 0
    fewer = LABELS > 0, DECODER_LABELS > 1
    none = tuple(np.zeros_like(x) for x in both)
    for side in (both, fewer, (none[0], both[1]), (both[0], none[1]), none):
        check(*side)


@functools.cache
def alone() -> Any:
    """Value, and gradients by a layer and by the table, of both texts."""

    def loss(layer: np.ndarray, table: np.ndarray) -> float:
        both = HIDDEN @ layer, DECODER @ layer
        return definitions.retromae(*both, table, LABELS, DECODER_LABELS)

    of_layer = slope(LAYER, lambda x: loss(x, TABLE))
    return loss(LAYER, TABLE), (of_layer, slope(TABLE, lambda x: loss(LAYER, x)))


@pytest.mark.parametrize(
    "form",
    [
        "shard_map, grad(pmean)",
        "pmap, pmean(grad)",
        pytest.param("shard_map unchecked, pmean(grad)", marks=pytest.mark.slow),
        pytest.param("shard_map, grad", marks=pytest.mark.slow),
    ],
)
def test_is_right_inside_of_another_step(form: str) -> None:
    """The second device has one token of the encoder, and the first three."""
    arrays = jnp.float32(LAYER), jnp.float32(TABLE)

    def inside(layer: jax.Array, table: jax.Array, given: Any) -> Any:
        def loss(layer: jax.Array, table: jax.Array) -> jax.Array:
            both = {x: y @ layer for x, y in given.items() if "hidden" in x}
            rest: Any = given | both | {"axis_name": "data", "tile": 3}
            found = losses.retromae(table=table, **rest)
            return jax.lax.pmean(found, "data") if "grad(pmean)" in form else found

        found = jax.value_and_grad(loss, (0, 1))(layer, table)
        return jax.lax.pmean(found, "data") if "pmean(grad)" in form else found

    if "pmap" in form:
        devices = jax.devices()[:2]
        mapped = jax.pmap(inside, "data", in_axes=(None, None, 0), devices=devices)
        found = mapped(*arrays, jax.tree.map(lambda x: x[:, None], SIDES))
        found = jax.tree.map(lambda x: x[0], found)
    else:
        run = jax.shard_map(
            inside,
            mesh=line(2),
            in_specs=(P(), P(), P("data")),
            out_specs=P(),
            check_vma="unchecked" not in form,
        )
        found = jax.jit(run)(*arrays, SIDES)
    assert_same(found, alone())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder_hidden": (B, L)}, "encoder_hidden: expected [b l d]"),
        ({"decoder_hidden": (B, L)}, "decoder_hidden: expected [b l d]"),
        (
            {"decoder_hidden": (B, L, 3)},
            "decoder_hidden: expected width 4, as table, found 3",
        ),
        ({"encoder_labels": (B, 4)}, "encoder_labels: expected shape (2, 5)"),
        ({"decoder_labels": (B, 4)}, "decoder_labels: expected shape (2, 5)"),
        ({"encoder_where": (B, 4)}, "encoder_where: expected shape (2, 5)"),
        ({"decoder_where": (B, 4)}, "decoder_where: expected shape (2, 5)"),
        ({"bias": (6,)}, "bias: expected shape (7,), found (6,)"),
        ({"tile": 0}, "tile: expected a positive integer or None, found 0"),
        ({"axis_name": "data"}, "axis_name: expected a mapped axis"),
    ],
)
def test_arguments_that_do_not_fit(
    change: dict, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the suite's own checks, which users do not have.
    for name in ("_tokens", "by_rows", "retromae"):
        monkeypatch.setattr(language, name, inspect.unwrap(getattr(language, name)))
    given: dict[str, Any] = {"table": (V, D)}
    for side in ("encoder", "decoder"):
        given |= {f"{side}_hidden": (B, L, D), f"{side}_labels": (B, L)}
    given |= change
    for name, value in given.items():
        if isinstance(value, tuple):
            kind = {"labels": jnp.int32, "where": jnp.bool_}.get(name[8:], jnp.float32)
            given[name] = jnp.ones(value, kind)
    with pytest.raises(InputError) as error:
        jax.eval_shape(lambda: language.retromae(**given))
    assert str(error.value).startswith(said)
