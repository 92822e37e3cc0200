"""Time of sparse search on an inverted index, and of scoring by token vectors.

    python -m benchmarks.retrieval --only sparse maxsim

Sparse: terms are drawn with repeats, of which the largest weight counts; uniformly with
uniform weights, or by Zipf's law (the r-th term 1/r as often as the first) with
exponential ones. The first call, which lays out columns of common terms, is timed for
itself. Twenty queries are compared with scipy's product of the same matrices.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from benchmarks.retrieval_dense import QUERIES, K, other_places
from benchmarks.table import Row
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.postings import Postings
from m3jax.inference.sparse_rows import SparseRows
from m3jax.inference.token_vectors import TokenVectors
from m3jax.inference.vectors import Storage

VOCABULARY, PASSAGE_TERMS, QUERY_TERMS = 250_002, 60, 12
BLOCK, CHECKED = 100_000, 20
ASKED = {"uniform": 300, "Zipf": 50}
# MaxSim: passages to draw from, and their tokens and width; what a query asks for.
POOL, TOKENS, WIDTH, QUERY_TOKENS, CANDIDATES, REPEATS = 2_000, 256, 128, 32, 200, 100


def sparse(passages: int, rounds: int) -> Iterator[Row]:
    """Queries a second.

    Args:
        passages: how many.
        rounds: calls with all queries; one more, the first, is told beside them.
    """
    for kind, asked in ASKED.items():
        rng = np.random.default_rng(0)
        sizes = [min(BLOCK, passages - i) for i in range(0, passages, BLOCK)]
        parts = [draw(rng, kind, size, PASSAGE_TERMS) for size in sizes]
        corpus = SparseRows.concatenate(parts)
        del parts
        query = draw(rng, kind, QUERIES, QUERY_TERMS)
        begun = time.perf_counter()
        postings = Postings.of(corpus)
        built = time.perf_counter() - begun
        begun = time.perf_counter()
        best = postings.search(query, K)
        first, rest = QUERIES / (time.perf_counter() - begun), []
        for _ in range(rounds):
            begun = time.perf_counter()
            postings.search(query, K)
            rest.append(QUERIES / (time.perf_counter() - begun))
        name = (
            f"sparse, {QUERIES:,} queries x {QUERY_TERMS} terms, {passages:,} x "
            f"{PASSAGE_TERMS}, {kind}, top {K}"
        )
        yield Row(
            f"{name} (built in {built:.0f} s; first call {first:,.0f} queries/s)",
            f"{statistics.median(rest):,.0f} queries/s",
            "",
            f"{min(rest):,.0f} to {max(rest):,.0f}",
            f">= {asked} queries/s",
        )
        product: Any = corpus.matrix @ query.matrix[:CHECKED].T
        yield _exact(name, best.at[:CHECKED], best.scores[:CHECKED], product)


def draw(rng: np.random.Generator, kind: str, texts: int, terms: int) -> SparseRows:
    """Texts of so many terms."""
    size = texts * terms
    if kind == "uniform":
        ids, weights = rng.integers(0, VOCABULARY, size), rng.random(size)
    else:
        share = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        ids = np.searchsorted(share, rng.random(size) * share[-1])
        weights = rng.exponential(size=size)
    return SparseRows.from_flat(
        ids, weights.astype(np.float32), np.arange(texts + 1) * terms, VOCABULARY
    )


def _exact(name: str, at: np.ndarray, scores: np.ndarray, product: Any) -> Row:
    """Whether the best are those of scipy's product, `[p q]`."""
    every = product.toarray().T
    expected = np.argsort(-every, axis=1, kind="stable")[:, : at.shape[1]]
    best = np.take_along_axis(every, expected, axis=1)
    # A passage that shares no term is not found.
    expected, best = np.where(best > 0, expected, -1), np.where(best > 0, best, -np.inf)
    found = np.isfinite(best)
    assert (found == (at >= 0)).all()
    apart = np.abs(scores[found] - best[found]).max() if found.any() else 0.0
    swapped = other_places(at, np.where(found, scores, 0), expected)
    return Row(
        f"{name}, {CHECKED} queries against scipy",
        f"{at.size - swapped:,} of {at.size:,} places the same",
        "",
        f"scores {apart:.0e} apart",
        "exact",
    )


def maxsim(rounds: int) -> Iterator[Row]:
    """Milliseconds of a query, the median of rounds of the mean over 100 queries."""
    rng = np.random.default_rng(0)
    vectors = _unit(rng, POOL * TOKENS)
    rows = MultivecRows(vectors, np.arange(POOL + 1) * TOKENS)
    queries = [_unit(rng, QUERY_TOKENS) for _ in range(REPEATS)]
    chosen = [rng.choice(POOL, CANDIDATES, replace=False) for _ in queries]
    storages: tuple[Storage, ...] = get_args(Storage)
    for storage in storages:
        kept = TokenVectors.of(rows, storage)
        _check(kept, queries[0], chosen[0])
        means = []
        for _ in range(rounds):
            begun = time.perf_counter()
            for query, at in zip(queries, chosen, strict=True):
                kept.score(query, at)
            means.append((time.perf_counter() - begun) * 1e3 / REPEATS)
        yield Row(
            f"MaxSim, {QUERY_TOKENS} tokens against {CANDIDATES} candidates x {TOKENS} "
            f"x {WIDTH}, {storage}",
            f"{statistics.median(means):.1f} ms a query",
            "",
            f"{min(means):.1f} to {max(means):.1f}",
            "<= 20 ms" if storage == "float32" else "",
        )


def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.standard_normal((count, WIDTH), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _check(kept: TokenVectors, query: np.ndarray, at: np.ndarray) -> None:
    """Refuse to time something else than MaxSim."""
    passages = kept.rows()
    expected = [(query @ passages[int(i)].T).max(axis=1).mean() for i in at]
    np.testing.assert_allclose(kept.score(query, at), expected, atol=1e-5)
