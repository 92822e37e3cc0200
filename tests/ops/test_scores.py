"""Scores of all heads: what holds for dense, sparse and multivec alike."""

import functools
import inspect
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.core.types import Multivec, Sparse
from m3jax.ops import scores
from m3jax.ops.scores import tiles
from tests.compare import line, slope
from tests.programs import equations, traced

QUERIES, PASSAGES, QUERY_TOKENS, PASSAGE_TOKENS, WIDTH = 6, 8, 4, 5, 3


# The definitions, in float64, one token after the other; `facts` are ids or masks.


def dense_definition(query, _, passage, __) -> np.ndarray:
    return np.array([[sum(x * y) for y in passage] for x in query])


def sparse_definition(query, query_ids, passage, passage_ids) -> np.ndarray:
    def largest(weights: np.ndarray, ids: np.ndarray) -> dict[int, float]:
        found: dict[int, float] = {}
        for weight, token in zip(weights, ids.tolist(), strict=True):
            found[token] = max(weight, found.get(token, 0.0))
        return found

    score = np.zeros((len(query), len(passage)))
    for q in range(len(query)):
        mine = largest(query[q], query_ids[q])
        for p in range(len(passage)):
            theirs = largest(passage[p], passage_ids[p])
            score[q, p] = sum(w * theirs.get(token, 0) for token, w in mine.items())
    return score


def multivec_definition(query, query_mask, passage, passage_mask) -> np.ndarray:
    score = np.zeros((len(query), len(passage)))
    for q in range(len(query)):
        mine = [x for x, real in zip(query[q], query_mask[q], strict=True) if real]
        for p in range(len(passage)):
            theirs = passage[p][passage_mask[p]]
            if mine and len(theirs):
                score[q, p] = np.mean([max(sum(x * y) for y in theirs) for x in mine])
    return score


class Head(NamedTuple):
    """A kind of score; a text is what has a gradient and what has none."""

    score: Callable[..., jax.Array]
    pairs: Callable[..., jax.Array]
    build: Callable[[Any, Any], Any]
    definition: Callable[..., np.ndarray]


HEADS = {
    "dense": Head(scores.dense, scores.dense_pairs, lambda x, _: x, dense_definition),
    "sparse": Head(
        scores.sparse,
        scores.sparse_pairs,
        lambda x, ids: Sparse(ids, x),
        sparse_definition,
    ),
    "multivec": Head(
        scores.multivec, scores.multivec_pairs, Multivec, multivec_definition
    ),
}


def texts(name: str, seed: int, count: int, tokens: int) -> tuple[np.ndarray, Any]:
    """Texts with repeats, masked tokens and one text without a token."""
    rng = np.random.default_rng(seed)
    if name == "dense":
        return rng.normal(size=(count, WIDTH)), np.zeros((count, 1))
    real = rng.random((count, tokens)) > 0.3
    real[:, 0] = True
    real[count // 2] = False
    if name == "sparse":
        # Rare ids are large, and not in every text.
        ids = np.array([3, 4, 5, 6, 2**31 - 1, 250_001])[rng.integers(0, 6, real.shape)]
        weights = np.where(real, rng.uniform(0.1, 1, real.shape), 0)
        return weights, np.where(real, ids, 1).astype(np.int32)
    return rng.normal(size=(count, tokens, WIDTH)), real


class Case(NamedTuple):
    """Inputs, cotangents, and what is right: value and gradients."""

    head: Head
    arrays: tuple[Any, ...]
    cotangent: np.ndarray
    value: np.ndarray
    slopes: tuple[np.ndarray, np.ndarray]


@functools.cache
def case(name: str) -> Case:
    query, query_facts = texts(name, 0, QUERIES, QUERY_TOKENS)
    passage, passage_facts = texts(name, 1, PASSAGES, PASSAGE_TOKENS)
    head = HEADS[name]
    cotangent = np.random.default_rng(2).normal(size=(QUERIES, PASSAGES))

    def definition(query: np.ndarray, passage: np.ndarray) -> np.ndarray:
        return head.definition(query, query_facts, passage, passage_facts)

    slopes = (
        slope(query, lambda x: (cotangent * definition(x, passage)).sum()),
        slope(passage, lambda x: (cotangent * definition(query, x)).sum()),
    )
    arrays = tuple(map(as_given, (query, query_facts, passage, passage_facts)))
    return Case(head, arrays, cotangent, definition(query, passage), slopes)


@functools.cache
def gradient(head: Head, score: Callable[..., jax.Array]) -> Callable[..., Any]:
    """A program that finds scores and slopes; tests share what they compile."""

    @jax.jit
    def run(arrays: Any, cotangent: jax.Array) -> Any:
        query, query_facts, passage, passage_facts = arrays

        def value(query: jax.Array, passage: jax.Array) -> jax.Array:
            return score(
                head.build(query, query_facts), head.build(passage, passage_facts)
            )

        found, back = jax.vjp(value, query, passage)
        return found, back(cotangent)

    return run


def value_and_slopes(
    head: Head, score: Callable[..., jax.Array], arrays: Any, cotangent: Any
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    given = tuple(map(jnp.asarray, arrays))
    return gradient(head, score)(given, jnp.float32(cotangent))


def assert_right(found: Any, case: Case, tolerance: float = 1e-5) -> None:
    value, slopes = found
    assert value.dtype == jnp.float32
    for one, right in zip((value, *slopes), (case.value, *case.slopes), strict=True):
        one = np.asarray(one, np.float32)
        np.testing.assert_allclose(one, right, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=HEADS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("tile", [None, pytest.param(1, marks=pytest.mark.slow), 5])
def test_value_and_gradient(name: str, tile: int | None) -> None:
    right = case(name)
    score = right.head.score
    if tile is not None:
        score = functools.partial(score, tile=tile)
    found = value_and_slopes(right.head, score, right.arrays, right.cotangent)
    assert_right(found, right)


@pytest.mark.parametrize(
    ("name", "tile", "held"), [("sparse", 6, 80), ("multivec", 2, 26)]
)
def test_long_texts_are_taken_in_parts(
    name: str, tile: int, held: int, monkeypatch: pytest.MonkeyPatch, untraced: None
) -> None:
    """What one tile still makes too large; no part divides what it is a part of."""
    monkeypatch.setattr(sys.modules[f"m3jax.ops.scores.{name}"], "_HELD", held)
    right = case(name)
    score = functools.partial(right.head.score, tile=tile)
    found = value_and_slopes(right.head, score, right.arrays, right.cotangent)
    assert_right(found, right)


@pytest.mark.parametrize("tile", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_one_to_one_is_the_diagonal(name: str, tile: int | None) -> None:
    head, arrays, cotangent, value, _ = case(name)
    cotangent = np.eye(QUERIES, PASSAGES) * cotangent
    _, right = value_and_slopes(head, head.score, arrays, cotangent)
    arrays = tuple(x[:QUERIES] for x in arrays)
    pairs = functools.partial(head.pairs, tile=tile)
    found, slopes = value_and_slopes(head, pairs, arrays, np.diag(cotangent))
    np.testing.assert_allclose(found, np.diag(value), rtol=1e-5, atol=1e-6)
    for one, other in zip(slopes, right, strict=True):
        np.testing.assert_allclose(one, other[:QUERIES], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sharded", "check_vma"),
    [
        ("query", True),
        ("passage", False),
        pytest.param("query", False, marks=pytest.mark.slow),
        pytest.param("passage", True, marks=pytest.mark.slow),
    ],
)
def test_inside_of_shard_map(name: str, sharded: str, check_vma: bool) -> None:
    right = case(name)
    specs = (P("data"), P()) if sharded == "query" else (P(), P("data"))
    score = jax.shard_map(
        functools.partial(right.head.score, tile=3),
        mesh=line(2),
        in_specs=specs,
        out_specs=P("data") if sharded == "query" else P(None, "data"),
        check_vma=check_vma,
    )
    found = value_and_slopes(right.head, score, right.arrays, right.cotangent)
    assert_right(found, right)


def test_under_vmap(name: str) -> None:
    right = case(name)

    def stacked(query: Any, passage: Any) -> jax.Array:
        twice = jax.tree.map(lambda x: jnp.stack([x, x[::-1]]), query)
        return jax.vmap(right.head.score, (0, None))(twice, passage)[0]

    assert_right(
        value_and_slopes(right.head, stacked, right.arrays, right.cotangent), right
    )


def test_bfloat16_is_close(name: str) -> None:
    right = case(name)
    arrays = tuple(
        jnp.asarray(x, jnp.bfloat16) if x.dtype == np.float32 else x
        for x in right.arrays
    )
    found = value_and_slopes(right.head, right.head.score, arrays, right.cotangent)
    assert all(slope.dtype == jnp.bfloat16 for slope in found[1])
    # Against the definition of what bfloat16 holds of the numbers.
    exact = [
        np.asarray(x, np.float64 if i % 2 == 0 else None) for i, x in enumerate(arrays)
    ]
    value = right.head.definition(*exact)
    np.testing.assert_allclose(found[0], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0].mean(), right.value.mean(), rtol=1e-2)


@pytest.mark.parametrize("name", ["sparse", "multivec"])
def test_numbers_of_64_bits(name: str) -> None:
    """They are scored as float32, and have a gradient."""
    right = case(name)
    with jax.enable_x64(True):
        arrays = [
            jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else None)
            for x in right.arrays
        ]
        found = gradient.__wrapped__(right.head, right.head.score)(
            arrays, jnp.float32(right.cotangent)
        )
        assert all(x.dtype == jnp.float64 for x in found[1])
    assert_right(found, right)


@pytest.mark.parametrize("where", ["query", "passage"])
def test_nan_is_not_hidden(name: str, where: str) -> None:
    query, query_facts, passage, passage_facts = map(np.copy, case(name).arrays)
    if where == "query":
        query[1] = np.nan
    else:
        at = (1,) if name == "dense" else (1, 0)
        passage[at] = np.nan
        if name == "sparse":
            passage_facts[at] = 777  # a token that no query has
    found = jitted(name)(query, query_facts, passage, passage_facts)
    lost = np.zeros((QUERIES, PASSAGES), bool)
    lost[(1, slice(None)) if where == "query" else (slice(None), 1)] = True
    if name == "multivec":  # a text without a token has no number that is lost
        lost &= query_facts.any(1, keepdims=True)
        lost &= passage_facts.any(1, keepdims=True).T
    np.testing.assert_array_equal(np.isnan(found), lost)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10))
@pytest.mark.parametrize("law", HEADS)
def test_laws(law: str, seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    query, query_facts = texts(law, seed, QUERIES, QUERY_TOKENS)
    passage, passage_facts = texts(law, seed + 1, PASSAGES, PASSAGE_TOKENS)

    def score(*arrays: np.ndarray) -> np.ndarray:
        return np.asarray(jitted(law)(*map(as_given, arrays)))

    plain = score(query, query_facts, passage, passage_facts)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    scaled = score(factor * query, query_facts, passage, passage_facts)
    close(scaled, factor * plain, atol=1e-4 * factor)
    one, two = rng.permutation(QUERIES), rng.permutation(PASSAGES)
    moved = score(query[one], query_facts[one], passage[two], passage_facts[two])
    close(moved, plain[one][:, two])
    if law != "dense":  # the order of tokens does not matter
        i, j = rng.permutation(QUERY_TOKENS), rng.permutation(PASSAGE_TOKENS)
        mixed = score(
            query[:, i], query_facts[:, i], passage[:, j], passage_facts[:, j]
        )
        close(mixed, plain)


def as_given(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype == np.float64 else array


@functools.cache
def jitted(name: str) -> Callable[..., jax.Array]:
    head = HEADS[name]
    return jax.jit(lambda *x: head.score(head.build(*x[:2]), head.build(*x[2:])))


def test_of_equal_tokens_the_first_one_has_the_gradient() -> None:
    tokens = jnp.array([[4, 5, 5, 5]])

    def shared(weights: jax.Array) -> jax.Array:
        query = Sparse(jnp.array([[5]]), jnp.array([[2.0]]))
        return scores.sparse(query, Sparse(tokens, weights)).sum()

    slope = jax.jit(jax.grad(shared))(jnp.array([[1.0, 0.5, 3.0, 3.0]]))
    assert slope.tolist() == [[0, 0, 2, 0]]

    def nearest(vectors: jax.Array) -> jax.Array:
        query = Multivec(jnp.ones((1, 1, 1)), jnp.ones((1, 1), bool))
        passage = Multivec(vectors, jnp.ones((1, 4), bool))
        return scores.multivec(query, passage).sum()

    slope = jax.jit(jax.grad(nearest))(jnp.array([[[1.0], [3.0], [0.5], [3.0]]]))
    assert slope[..., 0].tolist() == [[0, 1, 0, 0]]


def test_padding_may_be_a_vector_of_zeros() -> None:
    """As if it were there, but for its gradient."""
    case_ = case("multivec")
    query, real, passage, there = map(jnp.asarray, case_.arrays)
    there = there.at[PASSAGES // 2, 0].set(True)

    def padded(passage: jax.Array) -> Any:
        ours, theirs = Multivec(query, real), Multivec(passage, there)
        found = scores.multivec(ours, theirs, padding_is_zero=True, tile=3)
        return (found * case_.cotangent).sum(), found

    def zeros(passage: jax.Array) -> Any:
        passage = jnp.where(there[..., None], passage, 0)
        ours, theirs = Multivec(query, real), Multivec(passage, there | True)
        found = scores.multivec(ours, theirs)
        return (found * case_.cotangent).sum(), found

    for x, y in zip(
        *(jax.jit(jax.grad(f, has_aux=True))(passage) for f in (padded, zeros)),
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    plain = scores.multivec(Multivec(query, real), Multivec(passage, there))
    assert np.abs(padded(passage)[1] - plain).max() > 0.01


@pytest.mark.parametrize(("queries", "passages"), [(0, 3), (2, 0), (0, 0)])
def test_no_texts(name: str, queries: int, passages: int) -> None:
    head, arrays, *_ = case(name)
    query = head.build(*(jnp.asarray(x[:queries]) for x in arrays[:2]))
    passage = head.build(*(jnp.asarray(x[:passages]) for x in arrays[2:]))
    for tile in (None, 2):
        score = functools.partial(head.score, tile=tile)
        shape = jax.eval_shape(score, query, passage).shape
        assert shape == (queries, passages)
        if queries == passages:
            pairs = functools.partial(head.pairs, tile=tile)
            assert jax.eval_shape(pairs, query, passage).shape == (0,)


LARGE = {
    # queries, tokens, passages, tokens, width
    "sparse": [(64, 32, 512, 512, 0), (4096, 64, 16, 8192, 0), (2, 8192, 2, 8192, 0)],
    "multivec": [
        (64, 32, 512, 256, 128),
        (64, 32, 515, 256, 1024),
        (1152, 64, 2, 8192, 1024),
        (4096, 64, 64, 16, 64),
        (2, 8192, 2, 8192, 64),
    ],
}


@pytest.mark.parametrize(
    ("name", "sizes"), [(name, sizes) for name in LARGE for sizes in LARGE[name]]
)
def test_nothing_is_large(name: str, sizes: tuple[int, ...]) -> None:
    """No array of the program is larger than 8 MiB, the inputs or the scores.

    For the gradient of MaxSim, 2 bytes are kept for each query token and passage.
    """
    q, i, p, j, e = sizes
    head, shape = HEADS[name], jax.ShapeDtypeStruct
    values, facts = ((i,), jnp.int32) if name == "sparse" else ((i, e), jnp.bool_)

    def loss(
        query: Any, query_facts: Any, passage: Any, passage_facts: Any
    ) -> jax.Array:
        return head.score(
            head.build(query, query_facts), head.build(passage, passage_facts)
        ).sum()

    arguments = (
        shape((q, *values), jnp.float32),
        shape((q, i), facts),
        shape((p, j, *values[1:]), jnp.float32),
        shape((p, j), facts),
    )
    program = traced(jax.value_and_grad(loss, (0, 2)), *arguments)
    given = max(math.prod(x.shape) for x in arguments)
    found = [var.aval for eqn in equations(program) for var in eqn.outvars]
    kept = [x for x in found if getattr(x, "dtype", None) == jnp.int16]
    assert all(math.prod(x.shape) <= q * i * p for x in kept)
    assert len(kept) > 0 or name == "sparse"
    rest = [math.prod(x.shape) for x in found if x not in kept]
    assert max(rest) <= max(given, q * p, 2**21)


def test_scores_are_full_precision(name: str) -> None:
    """The default on TPU and GPU would round: 2e-3 in a cosine is 0.2 in a logit."""
    head, arrays, *_ = case(name)
    query, query_facts, passage, passage_facts = map(jnp.asarray, arrays)

    def loss(query: jax.Array, passage: jax.Array) -> jax.Array:
        return head.score(
            head.build(query, query_facts), head.build(passage, passage_facts), tile=2
        ).sum()

    program = traced(jax.value_and_grad(loss, (0, 1)), query, passage)
    found = [
        equation.params["precision"]
        for equation in equations(program)
        if equation.primitive.name == "dot_general"
    ]
    assert found
    assert all(x == (jax.lax.Precision.HIGHEST,) * 2 for x in found)


@pytest.mark.parametrize("tile", [0, -3, True])
def test_a_tile_is_a_positive_number(name: str, tile: Any) -> None:
    head, arrays, *_ = case(name)
    query, passage = (
        head.build(*map(jnp.asarray, x)) for x in (arrays[:2], arrays[2:])
    )
    for score in (head.score, head.pairs):
        with pytest.raises(InputError, match="tile: expected a positive integer"):
            inspect.unwrap(score)(
                query, jax.tree.map(lambda x: x[:QUERIES], passage), tile=tile
            )


def test_a_tile_is_no_fraction() -> None:
    # Without the suite's own type checks, which users do not have.
    with pytest.raises(InputError, match="tile: expected a positive integer"):
        inspect.unwrap(tiles.check_tile)(1.5)  # pyright: ignore[reportArgumentType]


ONE = jnp.ones((1, 2))
BAD: dict[str, tuple[str, Any, str]] = {
    "list": ("dense", [[1.0, 1.0]], "query: expected an array, found list"),
    "integers": ("dense", jnp.ones((1, 2), int), "query: expected floats, found int32"),
    "no width": ("dense", jnp.ones((1, 0)), "query: expected [texts e], e at least 1"),
    "no sparse": ("sparse", ONE, "query: expected Sparse, found ArrayImpl"),
    "float ids": ("sparse", Sparse(ONE, ONE), "query.ids: expected integers, found fl"),
    "long ids": (
        "sparse",
        Sparse(np.array([[2**32 + 5]]), ONE[:, :1]),
        "query.ids: expected ids of at most 31 bits, found 4294967301",
    ),
    "weights": (
        "sparse",
        Sparse(jnp.ones((1, 3), int), ONE),
        "query.weights: expected shape (1, 3), found (1, 2)",
    ),
    "no multivec": ("multivec", ONE, "query: expected Multivec, found ArrayImpl"),
    "float mask": (
        "multivec",
        Multivec(ONE[None], ONE),
        "query.mask: expected booleans, found float32",
    ),
    "mask": (
        "multivec",
        Multivec(ONE[None], jnp.ones((1, 2), bool)),
        "query.mask: expected shape (1, 1), found (1, 2)",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_texts_that_do_not_fit(bad: str) -> None:
    name, query, said = BAD[bad]
    head, arrays, *_ = case(name)
    passage = head.build(*map(jnp.asarray, arrays[2:]))
    with pytest.raises(InputError) as error:
        inspect.unwrap(head.score)(query, passage)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("name", ["sparse", "multivec"])
def test_texts_without_tokens(name: str) -> None:
    head, arrays, *_ = case(name)
    empty = head.build(*(jnp.asarray(x[:QUERIES, :0]) for x in arrays[:2]))
    for tile in (None, 1):
        np.testing.assert_array_equal(head.pairs(empty, empty, tile=tile), 0)


def test_one_to_one_needs_as_many(name: str) -> None:
    head, arrays, *_ = case(name)
    query, passage = (
        head.build(*map(jnp.asarray, x)) for x in (arrays[:2], arrays[2:])
    )
    said = "passage: expected 6 texts, one for each query, found 8"
    with pytest.raises(InputError, match=said):
        inspect.unwrap(head.pairs)(query, passage)


@pytest.mark.parametrize("tile", [1, 2, 3, 7, 9])
def test_walks_along_rows(tile: int) -> None:
    rows = jnp.arange(7.0)
    carry, twice = tiles.scan_tiles(lambda c, x: (c + x.sum(), 2 * x), 0.0, rows, tile)
    assert carry == 21
    np.testing.assert_array_equal(twice, 2 * rows)
    mapped = tiles.map_tiles(lambda x: (2 * x[0], x[1]), (rows, rows[:, None]), tile)
    np.testing.assert_array_equal(mapped[0], 2 * rows)
    np.testing.assert_array_equal(mapped[1], rows[:, None])

    def add(carry: jax.Array, start: Any, size: int) -> jax.Array:
        part = jax.lax.dynamic_slice_in_dim(rows, start, size)
        return carry + jnp.array([part.sum(), size])

    np.testing.assert_array_equal(tiles.add_tiles(add, jnp.zeros(2), 7, tile), [21, 7])
