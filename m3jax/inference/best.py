"""The best passages of each query, kept while a corpus goes by."""

from dataclasses import dataclass

import numpy as np

from m3jax.core.errors import InputError

_GROUP = 64  # scores of which only the largest is looked at first
_FEW = 16_384  # of which a sort costs nothing


@dataclass(frozen=True, eq=False)
class Best:
    """The k best passages that each query has met so far.

    Attributes:
        scores: float32 `[q k]`, the largest first; -inf where there are fewer.
        at: passage numbers, int64 `[q k]`; -1 where there are fewer.

    Example:
        >>> best = Best.none(1, 2).merge(np.array([[1, 3]]), np.array([[0, 1]]))
        >>> best.merge(np.array([[2]]), np.array([[2]])).at.tolist()
        [[1, 2]]
    """

    scores: np.ndarray
    at: np.ndarray

    @classmethod
    def none(cls, queries: int, k: int) -> "Best":
        """Of queries that have met no passage yet."""
        shape = queries, k
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64))

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.at)

    def first(self, k: int) -> "Best":
        """The k best of these."""
        return Best(self.scores[:, :k], self.at[:, :k])

    def merge(self, scores: np.ndarray, at: np.ndarray) -> "Best":
        """Keep the best of these and of more.

        Args:
            scores: float `[q n]` of passages that come later in the corpus; those of
                one query that are equal in the order of the corpus.
            at: their numbers, int `[q n]`.

        Returns:
            As many as before; of equal scores the lower number stays.

        Raises:
            InputError: a score is not a number.
        """
        if np.isnan(scores).any():
            raise InputError("scores that are numbers", "NaN", where="search")
        k = self.scores.shape[1]
        scores = np.concatenate([self.scores, scores.astype(np.float32)], axis=1)
        at = np.concatenate([self.at, at], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Best(
            np.take_along_axis(scores, order, axis=1),
            np.take_along_axis(at, order, axis=1),
        )

    def keys(self, most: int, passages: int) -> np.ndarray:
        """Number the first `most` passages of each query, no two of them alike.

        Args:
            most: passages of each query.
            passages: how many the corpus has.

        Returns:
            int64: query number * passages + passage number.
        """
        at = self.at[:, :most]
        row = np.arange(len(at))[:, None]
        return (row * passages + at)[at >= 0]


def best_places(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k best scores above 0; of equal ones the first.

    Args:
        scores: `[n]`.
        k: at least 1.

    Returns:
        At most k places, that of the best score first.

    Example:
        >>> best_places(np.array([1.0, 0.0, 3.0, 1.0]), 2).tolist()
        [2, 0]
    """
    least = max(_least(scores, k), np.finfo(np.float32).smallest_subnormal)
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")[:k]]


def _least(scores: np.ndarray, k: int) -> float:
    """A number that at least k scores reach, and few more."""
    groups = len(scores) // _GROUP
    if len(scores) > _FEW and k <= groups:
        # k groups have a largest score of at least the k-th of these.
        scores = scores[: groups * _GROUP].reshape(_GROUP, groups).max(axis=0)
    return np.partition(scores, -k)[-k] if k < len(scores) else 0
