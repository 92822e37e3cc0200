"""Which rows make which batch: a pure function of the seed, the epoch and the step."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.core.errors import InputError


@dataclass(frozen=True)
class Bucket:
    """Rows that are padded to the same lengths.

    Attributes:
        query_length: tokens of a query, padding included.
        passage_length: tokens of a passage, padding included.
        rows: int64 row numbers.
    """

    query_length: int
    passage_length: int
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that decides the batches; see `batch`.

    Attributes:
        buckets: shortest first.
        batch_size: queries in a batch, over all hosts.
        seed: of every shuffle.
    """

    buckets: tuple[Bucket, ...]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return sum(len(bucket.rows) for bucket in self.buckets) // self.batch_size


@dataclass(frozen=True)
class Planned:
    """One batch, before anything is read.

    Attributes:
        rows: int64 `[b]`.
        epoch: passes over the data before this one.
        query_length: tokens to pad queries to.
        passage_length: tokens to pad passages to.
    """

    rows: np.ndarray
    epoch: int
    query_length: int
    passage_length: int


def make_plan(
    query_lengths: np.ndarray,
    passage_lengths: np.ndarray,
    *,
    edges: Sequence[int],
    batch_size: int,
    seed: int,
) -> Plan:
    """Sort rows into length buckets.

    A row belongs to the shortest bucket that holds its longest passage. Queries of a
    bucket are padded to the smallest edge that holds the longest of them and of all
    shorter buckets, whose remainders move up, and no further than the longest query;
    so a bucket has one shape, and is compiled once.

    Args:
        query_lengths: tokens of each row's query, truncated.
        passage_lengths: tokens of each row's longest passage, truncated.
        edges: lengths to pad to, ascending; a longer row gets an edge of its own.
        batch_size: queries in a batch.
        seed: of every shuffle.

    Returns:
        The plan.

    Raises:
        InputError: fewer rows than one batch.

    Example:
        >>> lengths = np.array([3, 9, 4])
        >>> plan = make_plan(lengths, lengths, edges=(4, 16), batch_size=1, seed=0)
        >>> [bucket.passage_length for bucket in plan.buckets]
        [4, 16]
    """
    if len(passage_lengths) < batch_size:
        raise InputError(
            f"at least one batch of {batch_size} training rows",
            f"{len(passage_lengths)}",
            where="data.train",
            do="Lower --data.batch-size.",
        )
    longest = max(query_lengths.max(), passage_lengths.max())
    ladder = np.unique([*edges, longest] if longest > max(edges) else edges)
    bucket_of = np.searchsorted(ladder, passage_lengths)
    buckets = []
    longest_query = 0
    for number in np.unique(bucket_of):
        rows = np.flatnonzero(bucket_of == number)
        longest_query = max(longest_query, query_lengths[rows].max())
        query_edge = ladder[np.searchsorted(ladder, longest_query)]
        query_edge = min(query_edge, query_lengths.max())
        buckets.append(Bucket(int(query_edge), int(ladder[number]), rows))
    return Plan(tuple(buckets), batch_size, seed)


def batch(plan: Plan, step: int) -> Planned:
    """Tell the rows of one training step.

    Each epoch shuffles every bucket; what a bucket has left over after its last whole
    batch moves up to the next longer one, so only the longest drops rows, fewer than
    one batch. The order of the batches is shuffled too. Nothing depends on the number
    of hosts, workers or devices: position in the data = step.

    Args:
        plan: what `make_plan` returned.
        step: the training step, from 0.

    Returns:
        Rows and padded lengths.

    Example:
        >>> lengths = np.full(6, 3)
        >>> plan = make_plan(lengths, lengths, edges=(4,), batch_size=3, seed=0)
        >>> rows = np.concatenate([batch(plan, step).rows for step in (0, 1)])
        >>> sorted(rows.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    epoch, at = divmod(step, plan.steps_per_epoch)
    return _epoch(plan, epoch)[at]


@functools.lru_cache(maxsize=2)  # batches are asked for in order
def _epoch(plan: Plan, epoch: int) -> tuple[Planned, ...]:
    rng = np.random.default_rng((plan.seed, epoch))
    left = np.empty(0, np.int64)
    batches = []
    for bucket in plan.buckets:
        rows = np.concatenate([left, rng.permutation(bucket.rows)])
        whole = len(rows) // plan.batch_size * plan.batch_size
        batches += [
            Planned(part, epoch, bucket.query_length, bucket.passage_length)
            for part in rows[:whole].reshape(-1, plan.batch_size)
        ]
        left = rows[whole:]
    return tuple(batches[i] for i in rng.permutation(len(batches)))
