"""Scores on the host, against loops over tokens in float64."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import m3jax
from m3jax.core.errors import InputError
from m3jax.inference import scores
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows

VOCAB = 12  # few tokens, so that texts share some
THREE = 'Encode with outputs=\\("dense", "sparse", "multivec"\\)'


def encoded(rng: np.random.Generator, lengths: list[int], *, width: int = 3) -> Encoded:
    """Random texts of the given lengths; values of both signs, repeated tokens."""
    n, total = len(lengths), sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Encoded(
        rng.normal(size=(n, width)).astype(np.float32),
        SparseRows.from_flat(
            rng.integers(0, VOCAB, total), rng.uniform(-1, 2, total), offsets, VOCAB
        ),
        MultivecRows(rng.normal(size=(total, width)).astype(np.float32), offsets),
    )


def inner(left: Any, right: Any) -> float:
    return math.fsum(float(a) * float(b) for a, b in zip(left, right, strict=True))


def slow(query: Encoded, passage: Encoded, i: int, j: int) -> dict[str, float]:
    """The three scores of one pair."""
    assert query.dense is not None and passage.dense is not None
    assert query.sparse is not None and passage.sparse is not None
    assert query.multivec is not None and passage.multivec is not None
    one, other = query.sparse[i], passage.sparse[j]
    vectors, others = query.multivec[i], passage.multivec[j]
    best = [max((inner(v, o) for o in others), default=0.0) for v in vectors]
    return {
        "dense": inner(query.dense[i], passage.dense[j]),
        "sparse": math.fsum(w * other[t] for t, w in one.items() if t in other),
        "multivec": math.fsum(best) / len(best) if best else 0.0,
    }


def table(query: Encoded, passage: Encoded, name: str) -> np.ndarray:
    out = np.zeros((len(query), len(passage)))
    for i, j in np.ndindex(out.shape):
        out[i, j] = slow(query, passage, i, j)[name]
    return out


LENGTHS = st.lists(st.integers(0, 5), max_size=6)


@pytest.mark.parametrize("name", ["dense", "sparse", "multivec"])
@settings(max_examples=30, deadline=None)
@given(
    queries=LENGTHS, passages=LENGTHS, seed=st.integers(0, 99), tile=st.integers(1, 9)
)
def test_all_pairs_are_those_of_loops(
    queries: list[int], passages: list[int], seed: int, tile: int, name: str
) -> None:
    rng = np.random.default_rng(seed)
    query, passage = encoded(rng, queries), encoded(rng, passages)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_TILE", tile)
        patch.setattr(scores, "_SPARSE_TILE", (tile, 1 + tile // 2))
        found = getattr(m3jax.scores, name)(query, passage)
    assert (found.dtype, found.shape) == (np.float32, (len(queries), len(passages)))
    np.testing.assert_allclose(found, table(query, passage, name), atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 99),
    weights=st.tuples(*[st.sampled_from([0, 0.3, 1, 2.5])] * 3).filter(any),
)
def test_hybrid_is_the_weighted_mean(
    lengths: list[int], seed: int, weights: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    query, passage = encoded(rng, lengths), encoded(rng, [3, 0, 2])
    names = ("dense", "sparse", "multivec")
    expected = sum(
        weight * table(query, passage, name)
        for weight, name in zip(weights, names, strict=True)
    ) / sum(weights)
    found = scores.hybrid(query, passage, weights=weights)
    assert (found.dtype, found.shape) == (np.float32, (len(lengths), 3))
    np.testing.assert_allclose(found, expected, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6),
    seed=st.integers(0, 99),
    weights=st.sampled_from([(1, 0.3, 1), (0.4, 0.2, 0.4), (0, 1, 0), (1, 0, 2)]),
)
def test_pairs_are_the_five_scores(
    lengths: list[tuple[int, int]], seed: int, weights: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(seed)
    query = encoded(rng, [q for q, _ in lengths])
    passage = encoded(rng, [p for _, p in lengths])
    found = scores.pairs(query, passage, weights=weights)
    assert list(found) == ["dense", "sparse", "multivec", "dense+sparse", "all"]
    d, s, m = weights
    for score in found.values():
        assert (score.dtype, score.shape) == (np.float32, (len(lengths),))
    for i in range(len(lengths)):
        row = slow(query, passage, i, i)
        both = d * row["dense"] + s * row["sparse"]
        row["dense+sparse"] = both / (d + s)
        row["all"] = (both + m * row["multivec"]) / (d + s + m)
        for name, value in row.items():
            assert found[name][i] == pytest.approx(value, abs=2e-5), name


def test_default_weights_are_those_of_the_paper() -> None:
    both = encoded(np.random.default_rng(0), [2, 3])
    explicit = scores.hybrid(both, both, weights=(1, 0.3, 1))
    np.testing.assert_array_equal(scores.hybrid(both, both), explicit)
    found = scores.pairs(both, both)["all"]
    np.testing.assert_allclose(found, np.diag(explicit), atol=1e-6)


def test_the_published_mean_of_the_five_scores() -> None:
    """BGE-M3's card, in float16: 0.4825 and 0.6014 for weights 0.4, 0.2, 0.4."""
    one = np.ones((1, 1), np.float32)

    def side(dense: float, sparse: float, multivec: float) -> Encoded:
        return Encoded(
            one * np.float32(dense),
            SparseRows.from_flat([3], [sparse], [0, 1], VOCAB),
            MultivecRows(one * np.float32(multivec), np.array([0, 1])),
        )

    query, passage = side(0.6265, 0.1955, 0.7797), side(1, 1, 1)
    found = scores.pairs(query, passage, weights=(0.4, 0.2, 0.4))
    assert found["dense+sparse"][0] == pytest.approx(0.4825, abs=5e-4)
    assert found["all"][0] == pytest.approx(0.6014, abs=5e-4)


def test_a_negative_maximum_is_not_zero() -> None:
    query = Encoded(multivec=MultivecRows(np.ones((1, 1), np.float32), np.arange(2)))
    low = np.array([[-3], [-2]], np.float32)
    passage = Encoded(multivec=MultivecRows(low, np.array([0, 0, 2])))
    assert scores.multivec(query, passage).tolist() == [[0.0, -2.0]]


def test_products_of_all_tokens_never_exist_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "_TILE", 8)
    largest = 0

    class Watched(np.ndarray):
        def __matmul__(self, other: Any) -> Any:
            nonlocal largest
            product = np.asarray(self) @ np.asarray(other)
            largest = max(largest, product.size)
            return product

    query = encoded(np.random.default_rng(0), [3] * 20)
    passage = encoded(np.random.default_rng(1), [1, 20, 0, 2, 2, 5] * 5)
    assert query.multivec is not None
    rows = query.multivec
    watched = Encoded(multivec=MultivecRows(rows.vectors.view(Watched), rows.offsets))
    found = scores.multivec(watched, passage)
    np.testing.assert_allclose(found, table(query, passage, "multivec"), atol=2e-5)
    assert largest == 6 * 20  # two queries of 3, and the passage that fills no tile


def test_long_texts_are_summed_exactly_enough() -> None:
    vectors = np.full((8_192, 1), 0.1, np.float32)
    query = Encoded(multivec=MultivecRows(vectors, np.array([0, 8_192])))
    passage = Encoded(multivec=MultivecRows(np.ones((1, 1), np.float32), np.arange(2)))
    assert scores.multivec(query, passage)[0, 0] == np.float32(0.1)
    found = scores.pairs(
        Encoded(np.ones((1, 1), np.float32), SPARSE, query.multivec),
        Encoded(np.ones((1, 1), np.float32), SPARSE, passage.multivec),
    )
    assert found["multivec"][0] == pytest.approx(0.1, abs=1e-7)


SPARSE = SparseRows.from_flat([3], [1], [0, 1], VOCAB)
FULL = encoded(np.random.default_rng(0), [2, 1])
OTHER = Encoded(
    np.ones((2, 4), np.float32),
    SparseRows.from_flat([3], [1], [0, 1, 1], VOCAB + 1),
    MultivecRows(np.ones((2, 4), np.float32), np.arange(3)),
)


@pytest.mark.parametrize("name", ["dense", "sparse", "multivec"])
@pytest.mark.parametrize("side", ["query", "passage"])
@pytest.mark.parametrize("function", ["own", "hybrid", "pairs"])
def test_a_missing_output_is_named(function: str, side: str, name: str) -> None:
    function = name if function == "own" else function
    parts = {"dense": FULL.dense, "sparse": FULL.sparse, "multivec": FULL.multivec}
    lacking = Encoded(**{**parts, name: None})  # type: ignore[arg-type]
    sides = (lacking, FULL) if side == "query" else (FULL, lacking)
    message = f"^scores.{function}: {side}: expected {name} embeddings, found none. "
    with pytest.raises(InputError, match=message + THREE):
        getattr(scores, function)(*sides)


@pytest.mark.parametrize("name", ["dense", "sparse", "multivec", "hybrid", "pairs"])
def test_widths_must_agree(name: str) -> None:
    with pytest.raises(InputError, match=f"^scores.{name}: expected .* of width"):
        getattr(scores, name)(FULL, OTHER)


@pytest.mark.parametrize(
    ("weights", "name"), [((1, 0, 0), "dense"), ((0, 2, 0), "sparse")]
)
def test_outputs_of_weight_zero_are_not_needed(
    weights: tuple[float, ...], name: str
) -> None:
    alone = Encoded(**{name: getattr(FULL, name)})
    found = scores.hybrid(alone, FULL, weights=weights)
    np.testing.assert_array_equal(found, getattr(scores, name)(FULL, FULL))


@pytest.mark.parametrize("name", ["hybrid", "pairs"])
@pytest.mark.parametrize(
    "weights",
    [
        (0, 0, 0),
        (1, -0.1, 1),
        (1, 1),
        (1, 1, 1, 1),
        (1, math.nan, 1),
        (1, 1, math.inf),
        1,
    ],
)
def test_weights_are_checked(name: str, weights: Any) -> None:
    with pytest.raises(InputError, match=f"scores.{name}: weights: expected three"):
        getattr(scores, name)(FULL, FULL, weights=weights)


def test_pairs_need_a_mean_of_dense_and_sparse() -> None:
    with pytest.raises(InputError, match="a weight above 0 for dense or sparse"):
        scores.pairs(FULL, FULL, weights=(0, 0, 1))


def test_pairs_need_equal_sides() -> None:
    with pytest.raises(InputError, match="expected 2 passages, one a query, found 1"):
        scores.pairs(FULL, FULL[:1])
