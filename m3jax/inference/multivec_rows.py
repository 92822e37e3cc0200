"""Token vectors of texts, on the host: one flat array, and where each text begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.rows import Rows, map_array, require_offsets, select

_VECTORS, _OFFSETS = "multivec.vectors.npy", "multivec.offsets.npy"
MULTIVEC_FILES = (_VECTORS, _OFFSETS)


@dataclass(frozen=True, eq=False, repr=False)
class MultivecRows:
    """A vector for every token of n texts; a number takes one text, a slice a table.

    Attributes:
        vectors: float32 `[t e]`, of length 1.
        offsets: int64 `[n + 1]`, text i has the vectors offsets[i] to offsets[i + 1].

    Raises:
        InputError: types or shapes are others, or the offsets do not fit.

    Example:
        >>> vectors = np.eye(3, dtype=np.float32)
        >>> rows = MultivecRows(vectors, np.array([0, 1, 3]))
        >>> rows, rows[1].tolist()
        (MultivecRows(3 vectors of 3), [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """

    vectors: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        _require(self.vectors, self.offsets, ["MultivecRows: vectors", "offsets"])

    @classmethod
    def from_padded(cls, vectors: np.ndarray, mask: np.ndarray) -> "MultivecRows":
        """Keep the vectors of the real tokens.

        Args:
            vectors: float `[n l e]`.
            mask: bool `[n l]`, True for the vectors that stay.

        Returns:
            n texts.

        Raises:
            InputError: the shapes do not fit, or the mask is not bool.

        Example:
            >>> mask = np.array([[True, False], [True, True]])
            >>> MultivecRows.from_padded(np.ones((2, 2, 4)), mask).offsets.tolist()
            [0, 1, 3]
        """
        vectors, mask = np.asarray(vectors), np.asarray(mask)
        if vectors.ndim != 3 or mask.shape != vectors.shape[:2] or mask.dtype != bool:
            raise InputError(
                "vectors [n l e] and a bool mask [n l]",
                f"{vectors.shape} and {mask.dtype} {mask.shape}",
                where="MultivecRows",
            )
        kept = vectors[mask].astype(np.float32, copy=False)
        return cls(kept, _offsets(mask.sum(axis=1)))

    @classmethod
    def concatenate(cls, parts: Sequence["MultivecRows"]) -> "MultivecRows":
        """Put tables of one width one below the other.

        Args:
            parts: at least one.

        Returns:
            As many texts as the parts have together.

        Example:
            >>> text = MultivecRows(np.ones((2, 4), np.float32), np.array([0, 2]))
            >>> MultivecRows.concatenate([text, text]).offsets.tolist()
            [0, 2, 4]
        """
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.vectors for part in parts]), _offsets(counts))

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[np.ndarray]:
        """One text after the other."""
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, rows: SupportsIndex) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: Rows) -> "MultivecRows": ...
    def __getitem__(self, rows: SupportsIndex | Rows) -> Any:
        """Take the vectors `[tokens e]` of one text, or a table.

        Raises:
            IndexError: there is no such row.
        """
        picked = select(rows, len(self))
        if isinstance(picked, int):
            return self.vectors[slice(*self.offsets[picked : picked + 2])]
        if isinstance(picked, slice):
            first, last, step = picked.indices(len(self))
            last = max(first, last)
            if step == 1:  # a view: of a mapped file nothing is read
                offsets = self.offsets[first : last + 1]
                vectors = self.vectors[slice(offsets[0], offsets[-1])]
                return MultivecRows(vectors, offsets - offsets[0])
            picked = np.arange(len(self))[picked]
        counts = np.diff(self.offsets)[picked]
        offsets = _offsets(counts)
        shift = np.repeat(self.offsets[picked] - offsets[:-1], counts)
        return MultivecRows(self.vectors[shift + np.arange(offsets[-1])], offsets)

    def __repr__(self) -> str:
        """How large it is, not what is in it."""
        return f"MultivecRows({self.size})"

    @property
    def size(self) -> str:
        """Vectors and width, in words."""
        t, e = self.vectors.shape
        return f"{t:,} vector{'s' * (t != 1)} of {e:,}"

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there."""
        np.save(folder / _VECTORS, self.vectors)
        np.save(folder / _OFFSETS, self.offsets)

    @classmethod
    def open(cls, folder: Path) -> "MultivecRows":
        """Map what `write` wrote: vectors are read from the disk when they are used.

        Args:
            folder: written by `write`.

        Returns:
            Read-only rows.

        Raises:
            InputError: an array is missing or damaged, or they do not fit together.

        Example:
            >>> MultivecRows.open(Path("no"))
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/multivec.vectors.npy: expected vectors of \
tokens, found none
        """
        paths = [folder / name for name in MULTIVEC_FILES]
        vectors, offsets = (map_array(path, "vectors of tokens") for path in paths)
        _require(vectors, offsets, [str(path) for path in paths])
        return cls(vectors, np.array(offsets))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _require(vectors: np.ndarray, offsets: np.ndarray, where: Sequence[str]) -> None:
    """Refuse arrays that do not fit, without reading a vector."""
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        found = f"{vectors.dtype} of shape {vectors.shape}"
        raise InputError("float32 of shape [t e]", found, where=where[0])
    if offsets.dtype != np.int64:
        raise InputError("int64", f"{offsets.dtype}", where=where[1])
    require_offsets(offsets, len(vectors), where=where[1])
