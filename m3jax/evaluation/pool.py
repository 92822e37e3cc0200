"""Pairs of a query and a passage that all heads of a model have scored."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from m3jax.evaluation.best import Best
from m3jax.inference import scores
from m3jax.inference.encoded import Encoded

_SCORE = {"dense": scores.dense, "sparse": scores.sparse, "multivec": scores.multivec}


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of all queries, while a corpus goes by.

    Attributes:
        names: of the heads.
        passages: how many the corpus has.
        keys: query number * passages + passage number, int64 `[n]`, rising.
        scores: float32 `[heads n]`.

    Example:
        >>> both = Encoded(np.eye(2, dtype=np.float32))
        >>> pool = Pool.none(("dense",), 2).replace(np.array([0, 1, 3]), both, both, 0)
        >>> pool.best({"dense": 1.0}, 2, 2).at.tolist()
        [[0, 1], [1, -1]]
    """

    names: tuple[str, ...]
    passages: int
    keys: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, names: tuple[str, ...], passages: int) -> "Pool":
        """Without a pair yet."""
        scores = np.empty((len(names), 0), np.float32)
        return cls(names, passages, np.empty(0, np.int64), scores)

    def replace(
        self, keys: np.ndarray, query: Encoded, passage: Encoded, start: int
    ) -> "Pool":
        """Keep the pairs that are still wanted, and score those that are new.

        Args:
            keys: all that is wanted; of passages before `start` only such as are here.
            query: all queries.
            passage: passages from number `start` on.
            start: of the block.

        Returns:
            The pairs of these keys.
        """
        keys = np.unique(keys)
        row, at = np.divmod(keys, self.passages)
        new = at >= start
        found = np.empty((len(self.names), len(keys)), np.float32)
        found[:, ~new] = self.scores[:, np.isin(self.keys, keys)]
        found[:, new] = self._scored(row[new], at[new] - start, query, passage)
        return Pool(self.names, self.passages, keys, found)

    def best(
        self,
        share: Mapping[str, float],
        queries: int,
        k: int,
        *,
        only: np.ndarray | None = None,
    ) -> Best:
        """The best pairs of each query by a weighted sum of the scores.

        Args:
            share: head -> weight; 0 where it has none.
            queries: how many there are.
            k: passages of each, at most.
            only: keys of the pairs to choose from; None = all.

        Returns:
            Of equal scores the lower passage number comes first.
        """
        total = np.zeros(len(self.keys), np.float32)
        for name, part in zip(self.names, self.scores, strict=True):
            total += np.float32(share.get(name, 0)) * part
        chosen = slice(None) if only is None else np.isin(self.keys, only)
        total = total[chosen]
        row, at = np.divmod(self.keys[chosen], self.passages)
        edges = np.searchsorted(row, np.arange(queries + 1)).tolist()
        best = Best.none(queries, k)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            order = first + np.argsort(-total[first:last], kind="stable")[:k]
            best.scores[number, : len(order)] = total[order]
            best.at[number, : len(order)] = at[order]
        return best

    def _scored(
        self, row: np.ndarray, at: np.ndarray, query: Encoded, passage: Encoded
    ) -> np.ndarray:
        found = np.empty((len(self.names), len(row)), np.float32)
        edges = [*np.flatnonzero(np.diff(row, prepend=-1)).tolist(), len(row)]
        for first, last in itertools.pairwise(edges):
            number = int(row[first])
            one, some = query[number : number + 1], passage[at[first:last]]
            for i, name in enumerate(self.names):
                found[i, first:last] = _SCORE[name](one, some)[0]
        return found
