"""InfoNCE: value, gradient, masks, and the same on any number of devices."""

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
from m3jax.core.mesh import BATCH_AXES, make_mesh
from m3jax.core.mesh_config import MeshConfig
from tests.compare import assert_same, line
from tests.losses.definitions import unit

B, G, E = 8, 3, 16
OPTIONS = ("where", "query_ids", "passage_ids")


@pytest.fixture
def inputs() -> dict[str, jax.Array]:
    """Embeddings with absent passages, equal queries and equal passages."""
    rng = np.random.default_rng(0)
    query, passage = (
        np.float32(unit(rng.normal(size=size))) for size in ((B, E), (B, G, E))
    )
    where = rng.random((B, G)) > 0.3
    where[:, 0] = True
    query_ids = np.stack([np.arange(B), np.full(B, 7)], -1).astype(np.uint32)
    query_ids[5] = query_ids[1]
    passage_ids = np.arange(B * G * 2, dtype=np.uint32).reshape(B, G, 2)
    passage_ids[2, 1] = passage_ids[6, 0]  # a hard negative that is 6's positive
    passage_ids[3, 2] = passage_ids[3, 0]  # a hard negative that is its own positive
    passage_ids[4, 0, 0] = passage_ids[7, 0, 0]  # equal in one word of two: different
    arrays = {
        "query": query,
        "passage": passage,
        "where": where,
        "query_ids": query_ids,
        "passage_ids": passage_ids,
    }
    return jax.tree.map(jnp.asarray, arrays)


def test_ids_matter_where_they_should(inputs: dict) -> None:
    loss = jax.jit(functools.partial(losses.info_nce, temperature=0.1))
    arrays = inputs["query"], inputs["passage"]
    plain = loss(*arrays)
    for name, changed in (("query_ids", {1, 5}), ("passage_ids", {6, 3})):
        masked = loss(*arrays, **{name: inputs[name]})
        rows = np.flatnonzero(np.abs(masked - plain) > 1e-6)
        assert set(rows.tolist()) == changed


@pytest.mark.parametrize("negatives", [("own", "passages"), ("own",)])
def test_without_a_positive_there_is_no_loss(
    inputs: dict, negatives: tuple[str, ...]
) -> None:
    where = jnp.ones((B, G), bool).at[3].set(False)

    def loss(query: jax.Array) -> jax.Array:
        return losses.info_nce(
            query,
            inputs["passage"],
            temperature=0.02,
            where=where,
            negatives=negatives,
        )

    @jax.jit
    def run(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        value, back = jax.vjp(loss, query)
        return value, back(jnp.ones(B))[0]

    value, gradient = run(inputs["query"])
    assert value[3] == 0 and (np.delete(value, 3) > 0).any()
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[3], 0)
    where = jnp.zeros((B, G), bool)
    nothing = jax.jit(loss)(inputs["query"])
    np.testing.assert_array_equal(nothing, 0)


def test_scores_are_full_precision(inputs: dict) -> None:
    """The default on TPU and GPU would round: 2e-3 in a cosine is 0.2 in a logit."""
    for negatives in (("own", "passages"), ("own",)):
        loss = functools.partial(losses.info_nce, temperature=0.01, negatives=negatives)
        text = jax.jit(loss).lower(inputs["query"], inputs["passage"]).as_text()
        products = [line for line in text.splitlines() if "dot_general" in line]
        assert products and all("HIGHEST" in line for line in products)


def test_contrast_counts(inputs: dict) -> None:
    query = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    passage = jnp.array([[[0.5, 0.0], [0.8, 0.0]], [[0.7, 0.0], [0.1, 0.0]]])
    where = jnp.array([[True, True], [True, False]])
    loss, contrast = (
        jax.jit(functools.partial(f, temperature=1.0))
        for f in (losses.info_nce, losses.contrast)
    )
    found = contrast(query, passage, where=where)
    np.testing.assert_allclose(found.positive, [0.5, 0.7])
    np.testing.assert_allclose(found.negative_mean, [0.75, 0.65], rtol=1e-6)
    # What is not there is not masked.
    np.testing.assert_array_equal(found.masked_share, 0)
    assert found.rank.tolist() == [2, 1]
    np.testing.assert_array_equal(found.loss, loss(query, passage, where=where))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 0.0}, "temperature: expected a temperature above 0, found 0"),
        ({"temperature": -0.1}, "found -0.1"),
        ({"temperature": float("nan")}, "found nan"),
        ({"negatives": ("own", "others")}, "found others"),
        ({"negatives": ()}, "found none"),
        ({"where": jnp.ones((B, G + 1), bool)}, "where: expected shape (8, 3)"),
        ({"query_ids": jnp.ones((B + 1, 2), jnp.uint32)}, "query_ids: expected shape"),
        (
            {"passage_ids": jnp.ones((B, 1, 2), jnp.uint32)},
            "passage_ids: expected shape",
        ),
    ],
)
def test_arguments_that_do_not_fit(inputs: dict, change: dict, said: str) -> None:
    # Without the suite's own shape checks, which users do not have.
    contrast = inspect.unwrap(losses.contrast)
    arguments: dict[str, Any] = {"temperature": 1.0} | change
    with pytest.raises(InputError) as error:
        contrast(inputs["query"], inputs["passage"], **arguments)
    assert said in str(error.value)


# Devices. One device is the truth; every right form has to agree with it.


def mean_loss(rest: dict[str, Any], query: jax.Array, passage: jax.Array) -> jax.Array:
    return losses.info_nce(query, passage, temperature=0.05, **rest).mean()


def truth(inputs: dict) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    rest: dict[str, Any] = {name: inputs[name] for name in OPTIONS}
    loss = functools.partial(mean_loss, rest)
    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return run(inputs["query"], inputs["passage"])


@pytest.mark.parametrize(
    "shape",
    [
        (2, 2, 2),
        pytest.param((8, 1, 1), marks=pytest.mark.slow),
        pytest.param((1, 1, 1), marks=pytest.mark.slow),
        pytest.param((1, 4, 1), marks=pytest.mark.slow),
    ],
)
def test_outside_of_shard_map(inputs: dict, shape: tuple[int, int, int]) -> None:
    """The form of the training step: correct on any mesh."""
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    rest: dict[str, Any] = {name: inputs[name] for name in OPTIONS}

    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P(BATCH_AXES), out_specs=P(BATCH_AXES)
    )
    def local(query: jax.Array, passage: jax.Array, rest: dict) -> jax.Array:
        return losses.info_nce(
            query, passage, temperature=0.05, axis_name=BATCH_AXES, **rest
        )

    @jax.jit
    def loss(query: jax.Array, passage: jax.Array) -> jax.Array:
        return local(query, passage, rest).mean()

    found = jax.value_and_grad(loss, (0, 1))(inputs["query"], inputs["passage"])
    assert_same(found, truth(inputs))


def inside(devices: int, form: str, options: dict[str, Any]):
    """Gradient of a weight that is the same on every device, taken inside."""

    def local(weight: jax.Array, query: jax.Array, passage: jax.Array, rest: dict):
        def loss(weight: jax.Array) -> jax.Array:
            mean = losses.info_nce(
                query @ weight,
                passage @ weight,
                temperature=0.5,
                axis_name="data",
                **rest,
                **options,
            ).mean()
            return jax.lax.pmean(mean, "data") if "grad(pmean)" in form else mean

        gradient = jax.grad(loss)(weight)
        return jax.lax.pmean(gradient, "data") if "pmean(grad)" in form else gradient

    if "pmap" in form:

        def run(weight, *rows):
            rows = jax.tree.map(
                lambda x: jnp.asarray(x).reshape(devices, -1, *x.shape[1:]), rows
            )
            mapped = jax.pmap(
                local, "data", in_axes=(None, 0, 0, 0), devices=jax.devices()[:devices]
            )
            return mapped(weight, *rows)[0]

        return run
    return jax.jit(
        jax.shard_map(
            local,
            mesh=line(devices),
            in_specs=(P(), P("data"), P("data"), P("data")),
            out_specs=P(),
            check_vma="unchecked" not in form,
        )
    )


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 3},
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in ({}, {"transport": "ring"}, {"transport": "ring", "tile": 3})
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "devices", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8)), 2]
)
@pytest.mark.parametrize(
    ("form", "factor"),
    [
        ("shard_map, grad(pmean)", 1),
        ("shard_map unchecked, pmean(grad)", 1),
        ("pmap, pmean(grad)", 1),
        # The wrong forms, so that the docstring's warning stays true.
        *(
            pytest.param(form, "devices", marks=pytest.mark.slow)
            for form in (
                "shard_map, pmean(grad)",
                "shard_map unchecked, grad(pmean)",
                "pmap, grad(pmean)",
            )
        ),
    ],
)
def test_inside_of_another_step(
    inputs: dict, devices: int, form: str, factor: int | str, options: dict[str, Any]
) -> None:
    rest: dict[str, Any] = {name: inputs[name] for name in OPTIONS}
    weight = jnp.eye(E) + 0.1

    def loss(weight: jax.Array) -> jax.Array:
        return losses.info_nce(
            inputs["query"] @ weight,
            inputs["passage"] @ weight,
            temperature=0.5,
            **rest,
        ).mean()

    expected = jax.jit(jax.grad(loss))(weight)
    run = inside(devices, form, options)
    found = run(weight, inputs["query"], inputs["passage"], rest)
    if factor == 1:
        assert_same(found, expected)
    elif devices > 1:
        with pytest.raises(AssertionError):
            assert_same(found, expected, tolerance=1e-2)


def test_axis_outside_of_a_mapped_context(inputs: dict) -> None:
    with pytest.raises(InputError, match="data"):
        losses.info_nce(
            inputs["query"], inputs["passage"], temperature=1.0, axis_name="data"
        )
