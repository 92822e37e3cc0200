"""Scores between encoded queries and passages, on the host; public as m3jax.scores."""

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded


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
    if query.dense is None or passage.dense is None:
        side = "query" if query.dense is None else "passage"
        raise InputError("dense embeddings", "none", where=f"scores.dense: {side}")
    if query.dense.shape[1] != passage.dense.shape[1]:
        raise InputError(
            f"passages of width {query.dense.shape[1]}, as the queries",
            f"{passage.dense.shape[1]}",
            where="scores.dense",
        )
    return query.dense @ passage.dense.T
