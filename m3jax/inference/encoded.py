"""Embeddings on the host: what encoding returns, scoring reads and a disk keeps."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.inference.multivec_rows import MULTIVEC_FILES, MultivecRows
from m3jax.inference.rows import Rows, map_array, select
from m3jax.inference.sparse_rows import SPARSE_FILES, SparseRows

DENSE = "dense.npy"
ENCODED_FILES = (DENSE, *SPARSE_FILES, *MULTIVEC_FILES)


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """Embeddings of n texts; an output that was not asked for is None.

    Attributes:
        dense: float32 `[n e]`, rows of length 1.
        sparse: weights of the tokens; `sparse[i]` is {token id: weight}.
        multivec: vectors of the tokens; `multivec[i]` is `[tokens e]`.

    Raises:
        InputError: the outputs have different numbers of texts.

    Example:
        >>> encoded = Encoded(np.eye(3, dtype=np.float32))
        >>> encoded, encoded[[2, 0]].dense.tolist()
        (Encoded(3 texts: dense [3 3]), [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    """

    dense: np.ndarray | None = None
    sparse: SparseRows | None = None
    multivec: MultivecRows | None = None

    def __post_init__(self) -> None:
        _require_one_length(self._parts(), where="Encoded")

    def _parts(self) -> dict[str, Any]:
        parts = {
            "dense": self.dense,
            "sparse": self.sparse,
            "multivec": self.multivec,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def __len__(self) -> int:
        """Number of texts."""
        return next((len(part) for part in self._parts().values()), 0)

    def __repr__(self) -> str:
        """How large each output is, not what is in it."""
        sizes = [
            f"{name} " + (_shape(part) if name == "dense" else part.size)
            for name, part in self._parts().items()
        ]
        texts = f"{len(self):,} text{'s' * (len(self) != 1)}"
        return f"Encoded({texts}: {', '.join(sizes) or 'no output'})"

    def __getitem__(self, rows: Rows) -> "Encoded":
        """Take a slice, a list of row numbers or a bool mask; never a single row.

        Raises:
            InputError: `rows` is one number.
            IndexError: there is no such row.
        """
        if np.ndim(rows) == 0 and not isinstance(rows, slice):  # type: ignore[arg-type]
            raise InputError(
                "a slice, or a list of row numbers",
                f"{rows!r}",
                where="encoded[...]",
                do="encoded[3:4] keeps row 3 as a table of one row.",
            )
        picked = select(rows, len(self))
        return Encoded(**{name: part[picked] for name, part in self._parts().items()})

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `Encoded.open` maps; it is either whole or not there.

        Args:
            folder: a new folder, or one that was written by this function.

        Raises:
            InputError: the folder holds other things.
            OSError: the folder cannot be written to, or the disk is full.
        """
        folder = Path(folder)
        require_own(folder, ENCODED_FILES)
        with files.new_folder(folder) as new:
            self.write(new)

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there, among what else it holds."""
        if self.dense is not None:
            np.save(folder / DENSE, self.dense)
        for part in (self.sparse, self.multivec):
            if part is not None:
                part.write(folder)

    @staticmethod
    def open(folder: str | os.PathLike[str]) -> "Encoded":
        """Map what `save` wrote: rows are read from the disk when they are used.

        Args:
            folder: written by `save`.

        Returns:
            Read-only embeddings.

        Raises:
            InputError: the folder or an array is missing or damaged, or the arrays do
                not fit together.

        Example:
            >>> Encoded.open("no")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/dense.npy: expected an array of \
embeddings, found none
        """
        folder = Path(folder)
        outputs: dict[str, tuple[Collection[str], Callable[[Path], Any]]] = {
            "dense": ((DENSE,), _open_dense),
            "sparse": (SPARSE_FILES, SparseRows.open),
            "multivec": (MULTIVEC_FILES, MultivecRows.open),
        }
        parts = {
            name: read(folder)
            for name, (names, read) in outputs.items()
            if any((folder / file).exists() for file in names)
        }
        if not parts:
            _open_dense(folder)  # says what is missing
        _require_one_length(parts, where=str(folder))
        return Encoded(**parts)


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
    widths = sorted({_widths(part) for part in parts})
    if len(widths) != 1:
        raise InputError(
            "embeddings of one width",
            " and ".join(widths) or "no embeddings",
            where="concatenate",
        )
    dense = [part.dense for part in parts if part.dense is not None]
    sparse = [part.sparse for part in parts if part.sparse is not None]
    multivec = [part.multivec for part in parts if part.multivec is not None]
    return Encoded(
        np.concatenate(dense) if dense else None,
        SparseRows.concatenate(sparse) if sparse else None,
        MultivecRows.concatenate(multivec) if multivec else None,
    )


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


def _open_dense(folder: Path) -> np.ndarray:
    path = folder / DENSE
    dense = map_array(path, "an array of embeddings")
    if dense.ndim != 2 or dense.dtype != np.float32:
        found = f"{dense.dtype} of shape {dense.shape}"
        raise InputError("float32 of shape [n e]", found, where=str(path))
    return dense


def _require_one_length(parts: dict[str, Any], *, where: str) -> None:
    lengths = {name: len(part) for name, part in parts.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {count:,}" for name, count in lengths.items())
        raise InputError("one number of texts in all outputs", found, where=where)


def _widths(encoded: Encoded) -> str:
    """Outputs and how wide they are, in words."""
    dense, sparse, multivec = encoded.dense, encoded.sparse, encoded.multivec
    said = [
        None if dense is None else f"dense {dense.shape[1]}",
        None if sparse is None else f"sparse {sparse.vocab_size}",
        None if multivec is None else f"multivec {multivec.vectors.shape[1]}",
    ]
    return " with ".join(word for word in said if word is not None) or "none"


def _shape(array: np.ndarray) -> str:
    return f"[{' '.join(f'{size:,}' for size in array.shape)}]"
