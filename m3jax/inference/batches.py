"""Rows of tokens in batches of few shapes, and the flow of these through a device."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, batch_shards
from m3jax.core.types import Tokens
from m3jax.data import tokenize

# 16, 32, 48, 64, 96, 128, 192, ...: from 64 on, less than a third is padding.
RUNGS = (16, *(rung << i for i in range(12) for rung in (32, 48)))


@dataclass(frozen=True)
class EncodeBatch:
    """One call of the compiled function.

    Attributes:
        length: tokens of each row, padding included.
        rows: rows, padding included; equal in all batches of one length.
        members: numbers of the texts, at most `rows`.
    """

    length: int
    rows: int
    members: np.ndarray


def plan(
    lengths: np.ndarray, *, max_length: int, batch_tokens: int, shards: int
) -> list[EncodeBatch]:
    """Sort texts into batches, the longest first.

    A batch has batch_tokens // length rows, rounded down to a multiple of the shards;
    a bucket with fewer texts takes the next power of two instead.

    Args:
        lengths: int `[n]`, tokens of each text; none above `max_length`.
        max_length: the last bucket.
        batch_tokens: tokens in a batch, padding included.
        shards: divides the rows of every batch.

    Returns:
        Batches that hold every text once.

    Raises:
        InputError: `batch_tokens` is below 1.

    Example:
        >>> lengths = np.array([3, 40, 5, 4])
        >>> for batch in plan(lengths, max_length=64, batch_tokens=32, shards=1):
        ...     print(batch.length, batch.rows, batch.members)
        48 1 [1]
        16 2 [2 3]
        16 2 [0]
    """
    if batch_tokens < 1:
        raise InputError("a positive number", f"{batch_tokens}", where="batch_tokens")
    edges = np.array([*(rung for rung in RUNGS if rung < max_length), max_length])
    order = np.argsort(-lengths, kind="stable")
    buckets = np.searchsorted(edges, lengths[order])
    batches = []
    for bucket in np.unique(buckets)[::-1]:
        length = int(edges[bucket])
        members = order[buckets == bucket]
        power = 1 << (len(members) - 1).bit_length()
        most = max(shards, batch_tokens // length // shards * shards)
        rows = min(most, -(-power // shards) * shards)
        batches += [
            EncodeBatch(length, rows, members[first : first + rows])
            for first in range(0, len(members), rows)
        ]
    return batches


def shards(mesh: Mesh | None) -> int:
    """Parts in which the rows of a batch are divided."""
    return 1 if mesh is None else batch_shards(mesh)


def ambient(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Make a mesh the ambient one, by which layers and kernels divide their work."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def default_tokens(mesh: Mesh | None) -> int:
    """Tokens in a batch that are fast: 16,384 a share of the rows, 1,024 on a CPU."""
    # On a CPU the states of 1,024 tokens stay in its caches (benchmarks/README.md).
    return shards(mesh) * (1_024 if jax.default_backend() == "cpu" else 16_384)


def tokens(
    batch: EncodeBatch,
    rows: Sequence[np.ndarray],
    pad_id: int,
    mesh: Mesh | None,
    types: Sequence[np.ndarray] | None = None,
) -> Tokens:
    """Padded arrays of a batch; rows without a text are all padding.

    Args:
        batch: which rows, and to which shape.
        rows: ids of every text.
        pad_id: what fills.
        mesh: devices that share the rows.
        types: of every text's tokens; None = all 0.

    Returns:
        ids, mask and types of the batch.
    """

    def padded(parts: Sequence[np.ndarray], fill: int) -> tuple[np.ndarray, np.ndarray]:
        absent = [np.empty(0, np.int32)] * (batch.rows - len(batch.members))
        present = [parts[i] for i in batch.members]
        return tokenize.pad(present + absent, batch.length, fill)

    found = Tokens(
        *padded(rows, pad_id), types=None if types is None else padded(types, 0)[0]
    )
    if mesh is None:
        return found
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            array.shape, sharding, array.__getitem__
        ),
        found,
    )


def results(
    start: Callable[[EncodeBatch], Any], batches: Sequence[EncodeBatch]
) -> Iterator[tuple[EncodeBatch, Any]]:
    """Yield what each batch gives, one behind: the devices never wait for the host."""
    flying = None
    for batch in batches:
        now = batch, start(batch)
        if flying is not None:
            yield flying
        flying = now
    if flying is not None:
        yield flying
