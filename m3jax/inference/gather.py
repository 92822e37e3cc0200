"""Encoded batches back to the order of their texts."""

from collections.abc import Iterable

import numpy as np

from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows


def gather(batches: Iterable[tuple[np.ndarray, Encoded]], count: int) -> Encoded:
    """Put the rows of all batches where their texts are.

    Dense rows go to their places as they come; token vectors are moved batch by batch,
    and each batch is let go when it is moved.

    Args:
        batches: numbers of the texts of a batch, and their embeddings; at least one.
        count: how many texts there are.

    Returns:
        One row a text.

    Example:
        >>> rows = np.eye(2, dtype=np.float32)
        >>> gather([(np.array([1, 0]), Encoded(rows))], 2).dense.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    dense = None
    members: list[np.ndarray] = []
    sparse: list[SparseRows] = []
    multivec: list[MultivecRows] = []
    for numbers, part in batches:
        members.append(numbers)
        if part.dense is not None:
            if dense is None:
                dense = np.empty((count, part.dense.shape[1]), np.float32)
            dense[numbers] = part.dense
        if part.sparse is not None:
            sparse.append(part.sparse)
        if part.multivec is not None:
            multivec.append(part.multivec)
    back = np.argsort(np.concatenate(members))
    return Encoded(
        dense,
        SparseRows.concatenate(sparse)[back.tolist()] if sparse else None,
        _vectors(multivec, members, count) if multivec else None,
    )


def _vectors(
    parts: list[MultivecRows], members: list[np.ndarray], count: int
) -> MultivecRows:
    lengths = np.zeros(count, np.int64)
    for numbers, part in zip(members, parts, strict=True):
        lengths[numbers] = np.diff(part.offsets)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    vectors = np.empty((offsets[-1], parts[0].vectors.shape[1]), np.float32)
    for numbers in members:
        part = parts.pop(0)
        for place, number in enumerate(numbers):
            vectors[offsets[number] : offsets[number + 1]] = part[place]
    return MultivecRows(vectors, offsets)
