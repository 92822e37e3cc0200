"""Exact search by sparse embeddings: for each token the passages that have it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import scipy.sparse

from m3jax.core.errors import InputError
from m3jax.inference.best import Best, best_places
from m3jax.inference.rows import map_array, require_offsets
from m3jax.inference.sparse_rows import SparseRows

_OFFSETS, _PASSAGES = "postings.offsets.npy", "postings.passages.npy"
_WEIGHTS, _SHAPE = "postings.weights.npy", "postings.shape.npy"
POSTINGS_FILES = (_OFFSETS, _PASSAGES, _WEIGHTS, _SHAPE)
_HEAVY = 16  # a token that more than 1 in 16 passages have gets a whole column


@dataclass(frozen=True, eq=False, repr=False)
class Postings:
    """An inverted index of n passages.

    A query touches only the passages that share a token with it. A token that many
    passages have (a stop word) gets a column of n weights when it is first asked for,
    which is added at the speed of the memory; all such columns together are at most as
    large as the postings.

    Attributes:
        offsets: int64 `[v + 1]`, token v has the postings offsets[v] to offsets[v + 1].
        passages: int32 `[t]`, passage numbers, rising for each token.
        weights: float32 `[t]`.
        count: n.

    Raises:
        InputError: the arrays do not fit together.

    Example:
        >>> rows = SparseRows.from_flat([5, 5, 7], [1, 2, 0.5], [0, 1, 3], 10)
        >>> postings = Postings.of(rows)
        >>> postings, postings.search(rows, 1).at.tolist()
        (Postings(2 passages, 3 weights), [[1], [1]])
    """

    offsets: np.ndarray
    passages: np.ndarray
    weights: np.ndarray
    count: int
    _columns: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_offsets(self.offsets, len(self.passages), where="Postings")
        if self.weights.shape != self.passages.shape:
            expected = f"{len(self.passages):,} weights, one a posting"
            raise InputError(expected, f"{len(self.weights):,}", where="Postings")

    @classmethod
    def of(cls, rows: SparseRows) -> "Postings":
        """Turn the rows of passages into the postings of tokens.

        Args:
            rows: of n passages.

        Returns:
            Their postings; weights of 0 are left out.
        """
        columns = scipy.sparse.csc_array(rows.matrix)
        if (columns.data == 0).any():
            columns.eliminate_zeros()
        passages = columns.indices.astype(np.int32, copy=False)
        offsets = columns.indptr.astype(np.int64)
        return cls(offsets, passages, columns.data, len(rows))

    def __len__(self) -> int:
        """Number of passages."""
        return self.count

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        """How large they are, not what they are."""
        return f"Postings({self.count:,} passages, {len(self.weights):,} weights)"

    def search(self, query: SparseRows, k: int) -> Best:
        """Find the k passages with the largest inner products; exact.

        s_qp = sum_v q_v p_v over the tokens v that both have.

        Args:
            query: q queries.
            k: passages of each, at most.

        Returns:
            The best of each query; passages that share no token with it are left out,
            and of equal scores the lower number comes first.

        Raises:
            InputError: k is below 1, or the vocabularies differ.
        """
        if k < 1:
            raise InputError("a positive number", f"{k}", where="k")
        self._require_same(query)
        best = Best.none(len(query), min(k, self.count))
        total = np.zeros(self.count, np.float32)
        for number, (tokens, weights) in enumerate(_rows(query)):
            touched = self._add(total, tokens, weights)
            if touched is None:
                places = best_places(total, k)
            else:
                places = touched[best_places(total[touched], k)]
            best.scores[number, : len(places)] = total[places]
            best.at[number, : len(places)] = places
            total[slice(None) if touched is None else touched] = 0
        return best

    def score(self, query: SparseRows, at: np.ndarray) -> np.ndarray:
        """Score one query with some of the passages.

        Args:
            query: one query.
            at: passage numbers, `[n]`.

        Returns:
            float32 `[n]`; 0 where no token is shared.

        Raises:
            InputError: the vocabularies differ.
        """
        self._require_same(query)
        total = np.zeros(len(at), np.float32)
        for tokens, weights in _rows(query):
            for token, weight in zip(tokens.tolist(), weights, strict=True):
                found, has = self._find(token, at)
                total[has] += weight * self.weights[found[has]]
        return total

    def shared(self, query: SparseRows, at: int) -> dict[int, tuple[float, float]]:
        """Say which tokens one query and one passage share, and their weights.

        Args:
            query: one query.
            at: passage number.

        Returns:
            Token -> weights in the query and in the passage; what adds most to the
            score comes first.
        """
        both = {}
        for tokens, weights in _rows(query):
            for token, weight in zip(tokens.tolist(), weights.tolist(), strict=True):
                found, has = self._find(token, np.array([at]))
                if has[0]:
                    both[token] = weight, float(self.weights[found[0]])
        return dict(sorted(both.items(), key=lambda one: -one[1][0] * one[1][1]))

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there."""
        np.save(folder / _OFFSETS, self.offsets)
        np.save(folder / _PASSAGES, self.passages)
        np.save(folder / _WEIGHTS, self.weights)
        np.save(folder / _SHAPE, np.array([self.count, self.vocab_size]))

    @classmethod
    def open(cls, folder: Path) -> "Postings | None":
        """Map what `write` wrote; passage numbers are read once to check them.

        Args:
            folder: written by `write`.

        Returns:
            Read-only postings; None if there are none.

        Raises:
            InputError: an array is missing or damaged, or they do not fit together.

        Example:
            >>> Postings.open(Path("no")) is None
            True
        """
        paths = [folder / name for name in POSTINGS_FILES]
        if not any(path.exists() for path in paths):
            return None
        arrays = [map_array(path, "postings of tokens") for path in paths]
        offsets, passages, weights, shape = arrays
        kinds = np.int64, np.int32, np.float32, np.int64
        for path, array, kind in zip(paths, arrays, kinds, strict=True):
            if array.ndim != 1 or array.dtype != kind:
                found = f"{array.dtype} of shape {array.shape}"
                raise InputError(f"{np.dtype(kind)} [n]", found, where=str(path))
        if shape.shape != (2,) or len(offsets) != shape[1] + 1:
            found = f"{shape.tolist()} and {len(offsets):,} offsets"
            raise InputError("number of passages and tokens", found, where=str(folder))
        count = int(shape[0])
        if passages.size and not 0 <= passages.min() <= passages.max() < count:
            found = f"{passages.min()} to {passages.max()}"
            expected = f"passage numbers below {count:,}"
            raise InputError(expected, found, where=str(paths[1]))
        try:
            return cls(np.array(offsets), passages, weights, count)
        except InputError as error:
            raise error.at(str(folder)) from None

    def _add(
        self, total: np.ndarray, tokens: np.ndarray, weights: np.ndarray
    ) -> np.ndarray | None:
        """Add a query's scores; returns the passages that got some if they are few."""
        first, last = self.offsets[tokens], self.offsets[tokens + 1]
        few = (last - first).sum() * _HEAVY < self.count
        touched = [np.empty(0, np.int32)]
        edges = np.stack([tokens, first, last], axis=1).tolist()
        for (token, start, end), weight in zip(edges, weights, strict=True):
            column = self._column(token, end - start)
            if column is not None:
                total += weight * column
            elif end > start:
                at = self.passages[start:end]
                total[at] += weight * self.weights[start:end]
                touched.append(at)
        return np.unique(np.concatenate(touched)) if few else None

    def _column(self, token: int, size: int) -> np.ndarray | None:
        """All weights of a token that many passages have."""
        if size * _HEAVY < self.count:
            return None
        column = self._columns.get(token)
        most = 2 * len(self.weights) // max(self.count, 1)
        if column is None and len(self._columns) < most:
            part = slice(*self.offsets[token : token + 2])
            column = np.zeros(self.count, np.float32)
            column[self.passages[part]] = self.weights[part]
            self._columns[token] = column
        return column

    def _find(self, token: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where passages stand among the postings of a token, and whether they do."""
        first, last = self.offsets[token : token + 2]
        own = self.passages[first:last]
        place = np.searchsorted(own, at)
        has = place < len(own)
        has[has] = own[place[has]] == at[has]
        return first + place, has

    def _require_same(self, query: SparseRows) -> None:
        if query.vocab_size != self.vocab_size:
            expected = f"queries over {self.vocab_size:,} tokens, as the passages"
            raise InputError(expected, f"{query.vocab_size:,}", where="sparse search")


def _rows(query: SparseRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens and weights of each query."""
    matrix = query.matrix
    for first, last in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        yield matrix.indices[first:last], matrix.data[first:last]
