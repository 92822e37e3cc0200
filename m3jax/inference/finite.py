"""Embeddings that are numbers: a search would lose all others, or find nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows


def require_finite(encoded: Encoded, ids: Sequence[str], *, where: str) -> None:
    """Refuse embeddings with NaN or infinity in them.

    Args:
        encoded: of n texts.
        ids: what the message calls each of them.
        where: what they are, for the message.

    Raises:
        InputError: names the head, the first text, and how many there are.

    Example:
        >>> dense = np.array([[1.0, 0.0], [np.nan, 0.0]], np.float32)
        >>> require_finite(Encoded(dense), ["a", "b"], where="passages")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: passages: expected finite dense embeddings, \
found NaN or infinity in 1 of 2 texts, first in 'b'
    """
    parts = {
        "dense": encoded.dense,
        "sparse": encoded.sparse,
        "multivec": encoded.multivec,
    }
    for head, part in parts.items():
        rows = np.empty(0) if part is None else _wrong(part)
        if rows.size:
            found = f"NaN or infinity in {rows.size:,} of {len(encoded):,} texts"
            raise InputError(
                f"finite {head} embeddings",
                f"{found}, first in {ids[rows[0]]!r}",
                where=where,
            )


def _wrong(part: Any) -> np.ndarray:
    """Numbers of the texts that have a number that is none."""
    if isinstance(part, SparseRows):
        return _texts(np.isfinite(part.matrix.data), part.matrix.indptr)
    vectors = part.vectors if isinstance(part, MultivecRows) else part
    # Both keep NaN, and need no memory for every number.
    least, most = vectors.min(axis=1, initial=0), vectors.max(axis=1, initial=0)
    finite = np.isfinite(least) & np.isfinite(most)
    if isinstance(part, MultivecRows):
        return _texts(finite, part.offsets)
    return np.flatnonzero(~finite)


def _texts(finite: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Of rows that lie one text after the other: the texts of those that are not."""
    return np.unique(np.searchsorted(offsets, np.flatnonzero(~finite), "right") - 1)
