"""Scores between encoded queries and passages, on the host; public as m3jax.scores."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded

HEADS = ("dense", "sparse", "multivec")
_TILE = 2_048  # token vectors of each side at once: 16 MiB of products
_SPARSE_TILE = 4_096, 1_024  # passages and queries whose matches exist at once


def dense(query: Encoded, passage: Encoded) -> np.ndarray:
    """Inner products of all pairs: s_qp = <q, p>, cosines of the embeddings.

    Args:
        query: q encoded queries.
        passage: p encoded passages.

    Returns:
        float32 `[q p]`.

    Raises:
        InputError: one side has no dense embeddings, or the widths differ.

    Example:
        >>> both = Encoded(np.eye(2, dtype=np.float32))
        >>> dense(both, both[:1]).tolist()
        [[1.0], [0.0]]
    """
    left, right = _both(query, passage, "dense", where="scores.dense")
    return np.asarray(left @ right.T, np.float32)


def sparse(query: Encoded, passage: Encoded) -> np.ndarray:
    """Inner products of the token weights: s_qp = sum_v q_v p_v, over shared tokens.

    Args:
        query: q encoded queries.
        passage: p encoded passages.

    Returns:
        float32 `[q p]`.

    Raises:
        InputError: one side has no sparse embeddings, or the vocabularies differ.

    Example:
        >>> from m3jax.inference.sparse_rows import SparseRows
        >>> ids, weights = np.array([[5, 2], [5, 3]]), np.array([[1, 2], [4, 0.5]])
        >>> both = Encoded(sparse=SparseRows.from_tokens(ids, weights, 10))
        >>> sparse(both, both[1:]).tolist()
        [[4.0], [16.25]]
    """
    left, right = _both(query, passage, "sparse", where="scores.sparse")
    scores = np.empty((len(left), len(right)), np.float32)
    wide, high = _SPARSE_TILE
    for p in range(0, len(right), wide):
        columns = right.matrix[p : p + wide].T.tocsr()
        for q in range(0, len(left), high):
            part = left.matrix[q : q + high] @ columns
            scores[q : q + high, p : p + wide] = part.toarray()
    return scores


def multivec(query: Encoded, passage: Encoded) -> np.ndarray:
    """Late interaction of all pairs: s_qp = 1/I sum_i max_j <q_i, p_j>.

    I is the number of vectors of the query. Both sides are scored in tiles of whole
    texts, so no more products exist at once than a tile or one long pair has. A text
    without vectors scores 0 with every other.

    Args:
        query: q encoded queries.
        passage: p encoded passages.

    Returns:
        float32 `[q p]`.

    Raises:
        InputError: one side has no multivec embeddings, or the widths differ.

    Example:
        >>> from m3jax.inference.multivec_rows import MultivecRows
        >>> rows = MultivecRows(np.eye(3, dtype=np.float32), np.array([0, 2, 3, 3]))
        >>> both = Encoded(multivec=rows)
        >>> multivec(both, both).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    left, right = _both(query, passage, "multivec", where="scores.multivec")
    scores = np.zeros((len(left), len(right)), np.float32)
    for passages, vectors, begin in _tiles(right):
        for queries, others, start in _tiles(left):
            # [i j] -> [i p] -> [q p]; over the last axis the maximum is fastest
            best = np.maximum.reduceat(others @ vectors.T, begin, axis=1)
            total = np.add.reduceat(best, start, axis=0, dtype=np.float64)
            count = np.diff(start, append=len(others))
            scores[np.ix_(queries, passages)] = total / count[:, None]
    return scores


def hybrid(
    query: Encoded, passage: Encoded, *, weights: Sequence[float] = (1, 0.3, 1)
) -> np.ndarray:
    """Weighted mean of the three scores: s = sum_k w_k s_k / sum_k w_k.

    Args:
        query: q encoded queries.
        passage: p encoded passages.
        weights: of dense, sparse and multivec; an output of weight 0 is not needed.

    Returns:
        float32 `[q p]`.

    Raises:
        InputError: weights are not three numbers from 0 up, one of them above 0; a side
            lacks an output, or widths differ.

    Example:
        >>> both = Encoded(np.eye(2, dtype=np.float32))
        >>> hybrid(both, both, weights=(2, 0, 0)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    share = shares(weights, where="scores.hybrid")
    needed = [name for name in HEADS if share[name] > 0]
    for name in needed:
        _both(query, passage, name, where="scores.hybrid")
    score = {"dense": dense, "sparse": sparse, "multivec": multivec}
    scores = np.zeros((len(query), len(passage)), np.float32)
    for name in needed:
        scores += np.float32(share[name]) * score[name](query, passage)
    return scores


def pairs(
    query: Encoded, passage: Encoded, *, weights: Sequence[float] = (1, 0.3, 1)
) -> dict[str, np.ndarray]:
    """Score each query with the passage of the same row, in the five ways of BGE-M3.

    "dense+sparse" is (w_d s_d + w_s s_s) / (w_d + w_s); "all" is `hybrid`.

    Args:
        query: n encoded queries, with all three outputs.
        passage: n encoded passages, likewise.
        weights: of dense, sparse and multivec; not both of the first two may be 0.

    Returns:
        float32 `[n]` under "dense", "sparse", "multivec", "dense+sparse" and "all".

    Raises:
        InputError: the sides have different lengths or lack an output, widths differ,
            or the weights do not fit.

    Example:
        >>> from m3jax.inference.multivec_rows import MultivecRows
        >>> from m3jax.inference.sparse_rows import SparseRows
        >>> eye = np.eye(2, dtype=np.float32)
        >>> both = Encoded(
        ...     eye,
        ...     SparseRows.from_tokens(np.array([[5], [6]]), np.array([[2], [0]]), 10),
        ...     MultivecRows(eye, np.array([0, 1, 2])),
        ... )
        >>> pairs(both, both, weights=(1, 1, 2))["all"].tolist()
        [1.75, 0.75]
    """
    where = "scores.pairs"
    share = shares(weights, where=where)
    d, s, m = (share[name] for name in HEADS)
    if d + s == 0:
        raise InputError(
            "a weight above 0 for dense or sparse", "none", where=f"{where}: weights"
        )
    left, right = _both(query, passage, "dense", where=where)
    left_rows, right_rows = _both(query, passage, "sparse", where=where)
    vectors, others = _both(query, passage, "multivec", where=where)
    if len(query) != len(passage):
        expected = f"{len(query)} passages, one a query"
        raise InputError(expected, f"{len(passage)}", where=where)
    one = np.einsum("ne,ne->n", left, right).astype(np.float32)
    two = left_rows.matrix.multiply(right_rows.matrix).sum(axis=1, dtype=np.float32)
    best = (
        (q @ p.T).max(axis=1).mean() if len(q) and len(p) else 0.0
        for q, p in zip(vectors, others, strict=True)
    )
    three = np.fromiter(best, np.float32, len(query))
    mean = (d * one + s * two) / (d + s), d * one + s * two + m * three
    return {
        "dense": one,
        "sparse": two,
        "multivec": three,
        "dense+sparse": mean[0].astype(np.float32),
        "all": mean[1].astype(np.float32),
    }


def shares(weights: Sequence[float], *, where: str = "shares") -> dict[str, float]:
    """Divide the weights of the heads by their sum.

    Args:
        weights: of dense, sparse and multivec.
        where: what a message calls them.

    Returns:
        Head -> weight; they add up to 1.

    Raises:
        InputError: they are not three numbers from 0 up, one of them above 0.

    Example:
        >>> shares((1, 1, 2))
        {'dense': 0.25, 'sparse': 0.25, 'multivec': 0.5}
    """
    array = np.asarray(weights, np.float64)
    good = array.shape == (3,) and np.isfinite(array).all() and (array >= 0).all()
    if not good or not array.any():
        raise InputError(
            "three weights from 0 up, for dense, sparse and multivec, not all 0",
            f"{weights}",
            where=f"{where}: weights",
        )
    return dict(zip(HEADS, (array / array.sum()).tolist(), strict=True))


def _both(query: Encoded, passage: Encoded, output: str, *, where: str) -> Any:
    """One output of both sides, present and of one width."""
    sides = {"query": getattr(query, output), "passage": getattr(passage, output)}
    for side, part in sides.items():
        if part is None:
            raise InputError(
                f"{output} embeddings",
                "none",
                where=f"{where}: {side}",
                do=f"Encode with outputs={HEADS}.".replace("'", '"'),
            )
    left, right = (_width(part) for part in sides.values())
    if left != right:
        expected = f"{output} passages of width {left}, as the queries"
        raise InputError(expected, f"{right}", where=where)
    return sides.values()


def _width(part: Any) -> int:
    array = getattr(part, "matrix", getattr(part, "vectors", part))
    return array.shape[1]


def _tiles(rows: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Texts that have vectors, some at a time: row numbers, vectors, first vectors."""
    offsets, first = rows.offsets, 0
    while first < len(rows):
        # As many whole texts as fit, and at least one.
        last = int(np.searchsorted(offsets, offsets[first] + _TILE, side="right")) - 1
        last = max(last, first + 1)
        texts = first + np.flatnonzero(np.diff(offsets[first : last + 1]))
        vectors = rows.vectors[slice(offsets[first], offsets[last])]
        yield texts, vectors, offsets[texts] - offsets[first]
        first = last
