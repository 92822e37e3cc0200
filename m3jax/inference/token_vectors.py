"""Exact search by token vectors: MaxSim, over candidates or a whole corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference import scores
from m3jax.inference.best import Best
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.rows import map_array, require_offsets
from m3jax.inference.vectors import Storage, Vectors

_NAME, _OFFSETS = "multivec", "multivec.offsets.npy"
_TILE = 65_536  # token vectors of passages that are scored with all queries at once


@dataclass(frozen=True, eq=False, repr=False)
class TokenVectors:
    """Vectors of the tokens of n passages, in the bytes that an index spends on them.

    Attributes:
        vectors: `[t e]`.
        offsets: int64 `[n + 1]`, passage i has the vectors from offsets[i] up to
            offsets[i + 1].

    Raises:
        InputError: the offsets do not fit.

    Example:
        >>> rows = MultivecRows(np.eye(3, dtype=np.float32), np.array([0, 1, 3]))
        >>> TokenVectors.of(rows).score(rows[1], np.array([0, 1])).tolist()
        [0.0, 1.0]
    """

    vectors: Vectors
    offsets: np.ndarray

    def __post_init__(self) -> None:
        require_offsets(self.offsets, len(self.vectors), where="TokenVectors: offsets")

    @classmethod
    def of(cls, rows: MultivecRows, storage: Storage = "float32") -> "TokenVectors":
        """Keep the token vectors of texts in another form.

        Args:
            rows: of n texts.
            storage: "float32", "bfloat16" or "int8".
        """
        return cls(Vectors.of(rows.vectors, storage), rows.offsets)

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.offsets) - 1

    def rows(self, first: int = 0, last: int | None = None) -> MultivecRows:
        """The float32 vectors of the passages from `first` up to `last`."""
        offsets = self.offsets[first : len(self) + 1 if last is None else last + 1]
        vectors = self.vectors[offsets[0] : offsets[-1]].float32()
        return MultivecRows(vectors, offsets - offsets[0])

    def score(self, query: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Score one query with some of the passages.

        s_p = 1/I sum_i max_j <q_i, p_j>.

        Args:
            query: its vectors, float32 `[i e]`.
            at: passage numbers, `[n]`.

        Returns:
            float32 `[n]`; 0 where a side has no vector.

        Raises:
            InputError: the widths differ.
        """
        if query.shape[1] != self.vectors.width:
            expected = f"queries of width {self.vectors.width}, as the passages"
            raise InputError(expected, f"{query.shape[1]}", where="MaxSim")
        best = np.zeros((len(at), max(len(query), 1)), np.float32)
        columns = np.ascontiguousarray(query.T)
        # One passage after the other: of a mapped file nothing is copied.
        for number, passage in enumerate(at.tolist()):
            first, last = self.offsets[passage : passage + 2].tolist()
            if last > first and len(query):
                products = self.vectors[first:last].float32() @ columns
                products.max(axis=0, out=best[number])
        return best.mean(axis=1)

    def search(self, query: MultivecRows, k: int) -> Best:
        """Score every query with every passage, and keep the k best.

        Args:
            query: q queries.
            k: passages of each, at most.

        Returns:
            Of equal scores the lower number comes first.

        Raises:
            InputError: k is below 1, or the widths differ.
        """
        if k < 1:
            raise InputError("a positive number", f"{k}", where="k")
        best = Best.none(len(query), min(k, len(self)))
        first = 0
        while first < len(self):
            # As many whole passages as fit, and at least one.
            end = self.offsets[first] + _TILE
            last = int(np.searchsorted(self.offsets, end, side="right")) - 1
            last = max(last, first + 1)
            passages = Encoded(multivec=self.rows(first, last))
            found = scores.multivec(Encoded(multivec=query), passages)
            at = np.broadcast_to(np.arange(first, last), found.shape)
            best = best.merge(found, at)
            first = last
        return best

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there."""
        self.vectors.write(folder, _NAME)
        np.save(folder / _OFFSETS, self.offsets)

    @classmethod
    def open(cls, folder: Path) -> "TokenVectors | None":
        """Map what `write` wrote: vectors are read from the disk when they are used.

        Args:
            folder: written by `write`.

        Returns:
            Read-only vectors; None if there are none.

        Raises:
            InputError: an array is missing or damaged, or they do not fit together.

        Example:
            >>> TokenVectors.open(Path("no")) is None
            True
        """
        vectors, path = Vectors.open(folder, _NAME), folder / _OFFSETS
        if vectors is None and not path.exists():
            return None
        if vectors is None:
            raise InputError("vectors of tokens", "none", where=str(folder))
        offsets: Any = map_array(path, "offsets of token vectors")
        if offsets.dtype != np.int64:
            raise InputError("int64", f"{offsets.dtype}", where=str(path))
        require_offsets(offsets, len(vectors), where=str(path))
        return cls(vectors, np.array(offsets))
