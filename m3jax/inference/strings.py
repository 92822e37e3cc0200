"""Texts of a corpus, of which only those that are asked for are read."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.manifest import DAMAGED
from m3jax.inference.rows import map_array, require_offsets


@dataclass(frozen=True, eq=False, repr=False)
class Strings(Sequence[str]):
    """n texts, one after the other in UTF-8.

    Attributes:
        data: uint8 `[bytes]`.
        offsets: int64 `[n + 1]`, text i has the bytes offsets[i] to offsets[i + 1].
        where: what a message calls them.

    Raises:
        InputError: a text that is taken is no UTF-8.

    Example:
        >>> texts = Strings.of(["salt", "", "東京"])
        >>> len(texts), texts[2], list(texts[:2])
        (3, '東京', ['salt', ''])
    """

    data: np.ndarray
    offsets: np.ndarray
    where: str = "texts"

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Strings":
        """Keep some texts."""
        parts = [text.encode() for text in texts]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, rows: int) -> str: ...
    @overload
    def __getitem__(self, rows: slice) -> "Strings": ...
    def __getitem__(self, rows: int | slice) -> "str | Strings":
        """Take one text, or some."""
        if isinstance(rows, slice):
            return Strings.of(self[row] for row in range(*rows.indices(len(self))))
        row = range(len(self))[rows]
        part = self.data[slice(*self.offsets[row : row + 2])].tobytes()
        try:
            return part.decode()
        except UnicodeDecodeError as error:
            found = f"byte 0x{part[error.start]:02x} in text {row:,}"
            raise InputError("UTF-8", found, where=self.where, do=DAMAGED) from None

    def __iter__(self) -> Iterator[str]:
        """One text after the other."""
        return (self[row] for row in range(len(self)))

    def write(self, folder: Path, name: str) -> None:
        """Write the arrays into a folder that is there."""
        np.save(folder / f"{name}.npy", self.data)
        np.save(folder / f"{name}.offsets.npy", self.offsets)

    @classmethod
    def open(cls, folder: Path, name: str) -> "Strings":
        """Map what `write` wrote.

        Raises:
            InputError: a file is missing or damaged, or they do not fit together.

        Example:
            >>> Strings.open(Path("no"), "texts")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/texts.npy: expected texts in UTF-8, \
found none
        """
        paths = folder / f"{name}.npy", folder / f"{name}.offsets.npy"
        arrays: list[Any] = [map_array(path, "texts in UTF-8") for path in paths]
        for path, array, kind in zip(paths, arrays, (np.uint8, np.int64), strict=True):
            if array.dtype != kind or array.ndim != 1:
                found = f"{array.dtype} of shape {array.shape}"
                raise InputError(f"{np.dtype(kind)} [n]", found, where=str(path))
        require_offsets(arrays[1], len(arrays[0]), where=str(paths[1]))
        return cls(arrays[0], np.array(arrays[1]), str(paths[0]))
