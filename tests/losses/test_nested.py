"""Matryoshka: prefixes, weights, and whatever loss is inside."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings
from m3jax.losses.contrastive import info_nce
from m3jax.losses.nested import check_dims, matryoshka
from tests.compare import line
from tests.losses import definitions

B, G, E = 4, 2, 6
RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=(B, E)).astype(np.float32)
PASSAGE = RNG.normal(size=(B, G, E)).astype(np.float32)
WHERE = np.array([[True, True], [True, False], [True, True], [False, True]])
DIMS, WEIGHTS = (2, 6), (0.3, 1.0)


@functools.partial(jax.jit, static_argnames=("dims", "weights"))
def run(
    query: Any, passage: Any, where: Any, dims: Any, weights: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def loss(query: Any, passage: Any) -> Any:
        nested = matryoshka(info_nce, dims, weights)
        found = nested(query, passage, temperature=0.5, where=where)
        return found.sum(), found

    slopes, found = jax.grad(loss, (0, 1), has_aux=True)(query, passage)
    return found, slopes


def measure(
    query: Any = QUERY,
    passage: Any = PASSAGE,
    where: Any = WHERE,
    dims: Any = DIMS,
    weights: Any = WEIGHTS,
) -> Any:
    return run(query, passage, where, dims, weights)


def test_rows_of_zeros_and_masked_rows_have_no_gradient() -> None:
    query, passage = QUERY.copy(), PASSAGE.copy()
    query[0] = 0  # all of it
    passage[2, 1, :2] = 0  # the first prefix
    found, (by_query, by_passage) = measure(query, passage)
    defined = definitions.matryoshka(definitions.info_nce, DIMS, WEIGHTS)
    exact = (np.float64(x) for x in (query, passage))
    expected = defined(*exact, temperature=0.5, where=WHERE)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(by_query).all() and np.isfinite(by_passage).all()
    np.testing.assert_array_equal(by_query[0], 0)
    np.testing.assert_array_equal(np.asarray(by_passage)[~WHERE], 0)
    for x in jax.tree.leaves(measure(where=np.zeros_like(WHERE))):
        np.testing.assert_array_equal(x, 0)


def test_what_is_not_there_may_be_nan() -> None:
    passage = np.where(WHERE[..., None], PASSAGE, np.nan)
    query = np.where(WHERE[:, :1], QUERY, np.nan)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        measure(query, passage),
        measure(),
    )


def test_nan_is_not_hidden() -> None:
    query = QUERY.copy()
    query[1, E - 1] = np.nan  # in the last prefix only
    found, _ = measure(query)
    assert np.isnan(found).tolist() == [False, True, False, False]


@pytest.mark.slow
def test_is_the_same_on_two_devices() -> None:
    @functools.partial(
        jax.shard_map, mesh=line(2), in_specs=P("data"), out_specs=P("data")
    )
    def local(query: Any, passage: Any, where: Any) -> jax.Array:
        nested = matryoshka(info_nce, DIMS, WEIGHTS)
        rest: Any = {"axis_name": "data", "where": where, "tile": 1}
        return nested(query, passage, temperature=0.5, **rest)

    def loss(query: Any, passage: Any) -> Any:
        found = local(query, passage, WHERE)
        return found.sum(), found

    slopes, found = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(QUERY, PASSAGE)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
        (found, slopes),
        measure(),
    )


def test_embeddings_of_several_heads_are_passed_on_once() -> None:
    seen: list[Any] = []

    def loss(query: Any, passage: Any, **options: Any) -> str:
        seen.append((query, passage, options))
        return "anything"

    query, passage = Embeddings(QUERY), Embeddings(PASSAGE)
    assert matryoshka(loss, DIMS, WEIGHTS)(query, passage, distill=1) == "anything"
    assert matryoshka(loss, [2, 3])(query, passage) == "anything"
    expected = {"dims": DIMS, "dim_weights": WEIGHTS, "distill": 1}
    assert seen[0][0] is query and seen[0][1] is passage and seen[0][2] == expected
    assert seen[1][2] == {"dims": (2, 3), "dim_weights": (1.0, 1.0)} and len(seen) == 2


@pytest.mark.parametrize(
    ("dims", "weights", "said"),
    [
        ((), None, "dims: expected positive integers, ascending, found ()"),
        ((0, 2), None, "found (0, 2)"),
        ((-1,), None, "found (-1,)"),
        ((4, 2), None, "found (4, 2)"),
        ((2, 2), None, "found (2, 2)"),
        ((2.0, 3.0), None, "found (2.0, 3.0)"),
        (64, None, "found 64"),
        ((2, 4), (1.0,), "weights: expected 2 weights, one for each dim, found 1"),
        ((2, 4), (1.0, 1.0, 1.0), "found 3"),
        ((2, 4), (1.0, float("nan")), "weights: expected a plain number, found nan"),
        ((2, 4), (1.0, "1"), "weights: expected a plain number, found '1'"),
        ((2, 4), 1.0, "weights: expected a sequence of weights, found 1.0"),
        ((True, 2), None, "dims: expected positive integers, ascending"),
    ],
)
def test_dims_and_weights_that_do_not_fit(dims: Any, weights: Any, said: str) -> None:
    # Without the suite's own checks of types, which users do not have.
    with pytest.raises(InputError) as error:
        inspect.unwrap(check_dims)(dims, weights)
    assert said in str(error.value)


def test_is_refused_before_it_is_called() -> None:
    with pytest.raises(InputError, match=r"dims: .* found \(4, 2\)"):
        matryoshka(info_nce, (4, 2))
    with pytest.raises(InputError, match="weights: expected 2 weights"):
        matryoshka(info_nce, (2, 4), (1.0,))


def test_embeddings_and_losses_that_do_not_fit() -> None:
    query, passage = jnp.asarray(QUERY), jnp.asarray(PASSAGE)
    with pytest.raises(InputError, match="dims: expected at most the width 6, found 7"):
        matryoshka(info_nce, (7,))(query, passage, temperature=0.5)
    with pytest.raises(InputError, match="loss: expected a function that gives an arr"):
        matryoshka(lambda q, p: (q, p), DIMS)(query, passage)
    with pytest.raises(InputError, match="query: expected an array, found list"):
        matryoshka(info_nce, DIMS)(QUERY.tolist(), passage, temperature=0.5)
    with pytest.raises(InputError, match="query: expected arrays, or m3 as the loss"):
        matryoshka(info_nce, DIMS)(Embeddings(query), Embeddings(passage))
    # What the loss itself refuses is refused.
    with pytest.raises(InputError, match="temperature"):
        matryoshka(info_nce, DIMS)(query, passage, temperature=-1.0)
