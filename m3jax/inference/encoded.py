"""Embeddings on the host: what encoding returns, scoring reads and a disk keeps."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core import files
from m3jax.core.errors import InputError

DENSE = "dense.npy"


@dataclass(frozen=True, eq=False)
class Encoded:
    """Embeddings of n texts; an output that was not asked for is None.

    Attributes:
        dense: float32 `[n e]`, rows of length 1.

    Example:
        >>> encoded = Encoded(np.eye(3, dtype=np.float32))
        >>> len(encoded[1:]), encoded[[2, 0]].dense.tolist()
        (2, [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """

    dense: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of texts."""
        return 0 if self.dense is None else len(self.dense)

    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> "Encoded":
        """Take a slice, an array of row numbers or a bool mask; never a single row.

        Raises:
            InputError: `rows` is one number.
        """
        if np.ndim(rows) == 0 and not isinstance(rows, slice):  # type: ignore[arg-type]
            raise InputError(
                "a slice, or a list of row numbers",
                f"{rows!r}",
                where="encoded[...]",
                do="encoded[3:4] keeps row 3 as a table of one row.",
            )
        return Encoded(None if self.dense is None else self.dense[rows])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `Encoded.open` maps; it is either whole or not there.

        Args:
            folder: a new folder, or one that was written by this function.

        Raises:
            InputError: the folder holds other things.
            OSError: the folder cannot be written to, or the disk is full.
        """
        folder = Path(folder)
        require_own(folder, [DENSE])
        with files.new_folder(folder) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there, among what else it holds."""
        if self.dense is not None:
            np.save(folder / DENSE, self.dense)

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> "Encoded":
        """Map what `save` wrote: rows are read from the disk when they are used.

        Args:
            folder: written by `save`.

        Returns:
            Read-only embeddings.

        Raises:
            InputError: the folder or an array is missing or damaged.

        Example:
            >>> Encoded.open("no")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/dense.npy: expected an array of \
embeddings, found none
        """
        path = Path(folder) / DENSE
        try:
            dense: Any = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise InputError(
                "an array of embeddings", "none", where=str(path)
            ) from None
        except (ValueError, EOFError) as error:
            raise InputError(
                "an array of embeddings", str(error), where=str(path)
            ) from None
        if dense.ndim != 2 or dense.dtype != np.float32:
            found = f"{dense.dtype} of shape {dense.shape}"
            raise InputError("float32 of shape [n e]", found, where=str(path))
        return Encoded(dense)


def concatenate(parts: Sequence[Encoded]) -> Encoded:
    """Put embeddings one below the other.

    Args:
        parts: at least one; all with the same outputs and widths.

    Returns:
        As many rows as the parts have together.

    Raises:
        InputError: there is no part, or outputs or widths differ.

    Example:
        >>> part = Encoded(np.ones((2, 4), np.float32))
        >>> len(concatenate([part, part[:1]]))
        3
    """
    shapes = sorted(
        {"none" if p.dense is None else f"{p.dense.shape[1]}" for p in parts}
    )
    if len(shapes) != 1:
        raise InputError(
            "embeddings of one width",
            " and ".join(shapes) or "no embeddings",
            where="concatenate",
        )
    dense = [part.dense for part in parts if part.dense is not None]
    return Encoded(np.concatenate(dense) if dense else None)


def require_own(folder: Path, names: Collection[str]) -> None:
    """Refuse to replace a folder that holds more than the files of a former save.

    Args:
        folder: what would be replaced; need not exist.
        names: the files that a save writes.

    Raises:
        InputError: the path is a file, or the folder holds something else.
    """
    if not folder.exists():
        return
    found = (
        next((p.name for p in sorted(folder.iterdir()) if p.name not in names), None)
        if folder.is_dir()
        else "a file"
    )
    if found is not None:
        raise InputError(
            "a new folder, or one that was saved before",
            found if found == "a file" else f"{found!r} in it",
            where=str(folder),
            do="Name another folder.",
        )
