"""Exact search by dense embeddings on the cores of this machine: BLAS and a sieve."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from m3jax.core.cores import cores
from m3jax.core.errors import InputError
from m3jax.inference.vectors import Vectors

_QUERIES = 1_024  # scored at once; their numbers fit into int16, which sorts fast
_SCORES = 2**24  # kept of the first tile, before it is known what counts: 64 MiB
_CACHED = 2**21  # scores that a core makes before it looks at them, in its cache
_GROUP = 32  # passages of which only the best is looked at first
_SPARE = 8  # candidates for each place, before those that fell behind are left out
_HELD = 2**23  # places of results for which candidates are held at once
_TURN = threading.Lock()

# Query number, score and passage number of each candidate, in the order of passages.
_Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]


def host_top_k(
    query: np.ndarray, passage: Vectors, k: int, *, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k passages with the largest inner products; see `dense_search.top_k`.

    Each core scores some passages and looks at the best of each 32 while they are in
    its cache. k groups with a best score of at least x mean that k passages have one,
    so only groups that reach this x are looked into.

    Args:
        query: float32 `[q e]`, q at least 1.
        passage: p vectors of the same width, p at least 1.
        k: from 1 to p.
        tile: passages between which all cores wait for each other; None takes more of
            them as x rises less.

    Returns:
        Scores float32 `[q k]`, the largest first, and passage numbers int64 `[q k]`;
        of equal scores the lower number comes first.

    Raises:
        InputError: a score is not a number.

    Example:
        >>> passage = Vectors(np.eye(3, dtype=np.float32))
        >>> host_top_k(passage.values[1:2], passage, 2)[1].tolist()
        [[1, 0]]
    """
    size = min(len(query), _QUERIES)
    together = max(_HELD // (size * k), 1) * size
    with _workers() as work:
        parts = [
            _search(query[first : first + together], size, passage, k, tile, work)
            for first in range(0, len(query), together)
        ]
    scores, at = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(at)


@dataclass(frozen=True)
class _Workers:
    """A thread for each core, with memory of its own."""

    pool: ThreadPoolExecutor
    count: int
    local: threading.local = field(default_factory=threading.local)

    def each(self, run: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function for each tuple of arguments."""
        return list(self.pool.map(run, *arguments))

    def scratch(self, size: int) -> np.ndarray:
        """Memory for so many scores, the same at each call of a thread."""
        if getattr(self.local, "scores", np.empty(0)).size < size:
            self.local.scores = np.empty(size, np.float32)
        return self.local.scores[:size]


@contextmanager
def _workers() -> Iterator[_Workers]:
    count = cores()
    # Each thread has products of its own: BLAS must not divide these once more. That
    # holds for the whole process, so searches wait for each other.
    with _TURN, threadpool_limits(1, "blas"), ThreadPoolExecutor(count) as pool:
        yield _Workers(pool, count)


def _search(
    query: np.ndarray,
    size: int,
    passage: Vectors,
    k: int,
    tile: int | None,
    work: _Workers,
) -> tuple[np.ndarray, np.ndarray]:
    """Read the corpus once, for some queries."""
    firsts = range(0, len(query), size)
    sieves = [_Sieve(query[first : first + size], k, work) for first in firsts]
    least = max(_SCORES // size, _GROUP)
    first = 0
    while first < len(passage):
        rows = tile or min(max(least, first // 2), 8 * least)
        part = passage[first : first + rows]
        for sieve in sieves:
            sieve.add(part, first)
        first += rows
    scores, at = zip(*(sieve.best() for sieve in sieves), strict=True)
    return np.concatenate(scores), np.concatenate(at)


class _Sieve:
    """The passages that may be among the k best of some queries."""

    def __init__(self, query: np.ndarray, k: int, work: _Workers) -> None:
        self.query, self.k, self.work = query, k, work
        # The k best peaks of each query, of disjoint groups, and the least of these.
        self.peaks = np.full((len(query), k), -np.inf, np.float32)
        self.least = self.peaks[:, 0].copy()
        self.found: list[_Candidates] = []
        self.kept = 0
        step = -(-len(query) // work.count)
        ends = range(0, len(query), step)
        self.parts = [slice(one, min(one + step, len(query))) for one in ends]

    def add(self, passage: Vectors, first: int) -> None:
        """Look at some passages, of which the first has the number `first`."""
        count, queries, work = len(passage), len(self.query), self.work
        # Groups only help where there are far more than k of them.
        group = _GROUP if count >= 2 * _GROUP * self.k else 1
        groups = -(-count // group)
        peaks = np.empty((groups, queries), np.float32)
        step = min(_CACHED // (group * queries), -(-groups // work.count)) or 1
        starts = range(0, groups, step)

        def score(start: int, scores: np.ndarray) -> None:
            rows = scores.reshape(-1, queries)
            one = passage[start * group : start * group + len(rows)].float32()
            np.matmul(one, self.query.T, out=rows[: len(one)])
            # The last group may not be full; k others keep what fills it out.
            rows[len(one) :] = -np.inf
            some = scores.max(axis=1, out=peaks[start : start + step])
            if np.isnan(some).any():
                raise InputError("scores that are numbers", "NaN", where="top_k")

        def sift(start: int, scores: np.ndarray) -> _Candidates:
            hits = np.flatnonzero(peaks[start : start + step] >= self.least)
            where, who = hits // queries, hits % queries
            some = scores[where, :, who]
            hits = np.flatnonzero(some >= self.least[who, None])
            row = hits // group
            at = (start + where[row]) * group + hits % group
            found = who[row].astype(np.int16), some.ravel()[hits], at + first
            # Passages that are all alike would else fill the memory.
            return found if len(hits) <= self.k * queries else _best(*found, self.k)

        def both(start: int) -> _Candidates:
            size = min(step, groups - start) * group * queries
            scores = work.scratch(size).reshape(-1, group, queries)
            score(start, scores)
            return sift(start, scores)

        if self.found:
            self.found += work.each(both, starts)
            self._raise(peaks)
        else:
            # The scores wait until it is known what a passage must reach.
            kept = np.empty((groups, group, queries), np.float32)
            parts = [kept[start : start + step] for start in starts]
            work.each(score, starts, parts)
            self._raise(peaks)
            self.found += work.each(sift, starts, parts)
        self.kept = sum(len(one[0]) for one in self.found)
        if self.kept > _SPARE * self.k * queries:
            self._shrink()

    def _raise(self, peaks: np.ndarray) -> None:
        """Learn from more peaks, `[g q]`, what a passage must reach."""
        k = self.k

        def one(part: slice) -> None:
            both = np.concatenate([self.peaks[part], peaks[:, part].T], axis=1)
            both.partition(both.shape[1] - k, axis=1)
            self.peaks[part] = both[:, -k:]
            self.least[part] = both[:, -k]

        self.work.each(one, self.parts)

    def _shrink(self) -> None:
        """Keep the k best candidates of each query alone."""
        who, scores, at = (np.concatenate(x) for x in zip(*self.found, strict=True))

        def best(part: slice) -> _Candidates:
            mine = (who >= part.start) & (who < part.stop)
            here = np.flatnonzero(mine & (scores >= self.least[who]))
            return _best(who[here], scores[here], at[here], self.k)

        self.found = self.work.each(best, self.parts)
        self.kept = sum(len(one[0]) for one in self.found)

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The k best passages of each query."""
        self._shrink()
        shape = len(self.query), self.k
        _, scores, at = (np.concatenate(x) for x in zip(*self.found, strict=True))
        return scores.reshape(shape), at.reshape(shape)


def _best(who: np.ndarray, scores: np.ndarray, at: np.ndarray, k: int) -> _Candidates:
    """The k best candidates of each query, query by query."""
    order = np.argsort(-scores, kind="stable")
    order = order[np.argsort(who[order], kind="stable")]
    sizes = np.bincount(who)
    begins = np.cumsum(sizes) - sizes
    order = order[np.arange(len(order)) - begins[who[order]] < k]
    return who[order], scores[order], at[order]
