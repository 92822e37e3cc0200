"""Vectors in fewer bytes, on the host: what an index keeps of an encoded corpus."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import ml_dtypes
import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.rows import Rows, map_array

Storage = Literal["float32", "bfloat16", "int8"]
_STORAGES = get_args(Storage)
# numpy's files know no bfloat16, so its bits are kept.
_IN_FILE = {"float32": np.float32, "bfloat16": np.uint16, "int8": np.int8}


def check_storage(storage: Storage) -> Storage:
    """Refuse any other word.

    Raises:
        InputError: it is not one of the three.

    Example:
        >>> check_storage("int4")  # type: ignore[arg-type]
        Traceback (most recent call last):
        m3jax.core.errors.InputError: storage: expected one of float32, bfloat16, \
int8, found 'int4'
    """
    if storage not in _STORAGES:
        expected = f"one of {', '.join(_STORAGES)}"
        raise InputError(expected, repr(storage), where="storage")
    return storage


@dataclass(frozen=True, eq=False, repr=False)
class Vectors:
    """n vectors, as float32, bfloat16, or int8 with a scale for each.

    int8 keeps round(127 x / max |x|) of each vector x and its max |x| / 127.

    Attributes:
        values: `[n e]`, float32, bfloat16 or int8.
        scales: float32 `[n]` of int8 values, else None.

    Example:
        >>> kept = Vectors.of(np.array([[0.6, -0.8]], np.float32), "int8")
        >>> kept, kept.values.tolist()
        (Vectors([1 2] int8), [[95, -127]])
        >>> kept.float32().round(2).tolist()
        [[0.6000000238418579, -0.800000011920929]]
    """

    values: np.ndarray
    scales: np.ndarray | None = None

    @classmethod
    def of(cls, vectors: np.ndarray, storage: Storage = "float32") -> "Vectors":
        """Keep float32 vectors in another form.

        Args:
            vectors: float32 `[n e]`.
            storage: "float32", "bfloat16" or "int8".

        Returns:
            The vectors; float32 ones are not copied.

        Raises:
            InputError: storage is another word.
        """
        if check_storage(storage) == "float32":
            return cls(vectors)
        if storage == "bfloat16":
            return cls(vectors.astype(ml_dtypes.bfloat16))
        peak = np.abs(vectors).max(axis=1, initial=0)
        scales = (peak / 127).astype(np.float32)
        # A vector of zeros stays one.
        divisor = np.where(scales > 0, scales, 1)[:, None]
        return cls(np.rint(vectors / divisor).astype(np.int8), scales)

    def __len__(self) -> int:
        """Number of vectors."""
        return len(self.values)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.values.shape[1]

    @property
    def storage(self) -> Storage:
        """Name of the form."""
        name: Any = str(self.values.dtype)
        return name

    def __getitem__(self, rows: Rows) -> "Vectors":
        """Take some vectors; of a slice nothing is copied."""
        scales = None if self.scales is None else self.scales[rows]
        return Vectors(self.values[rows], scales)

    def __repr__(self) -> str:
        """How large they are, not what they are."""
        n, e = self.values.shape
        return f"Vectors([{n:,} {e:,}] {self.storage})"

    def float32(self) -> np.ndarray:
        """The vectors as they are scored, float32 `[n e]`."""
        values = self.values.astype(np.float32, copy=False)
        return values if self.scales is None else values * self.scales[:, None]

    def write(self, folder: Path, name: str) -> None:
        """Write the arrays into a folder that is there; each file has the name."""
        storage = self.storage
        values = np.ascontiguousarray(self.values).view(_IN_FILE[storage])
        np.save(folder / f"{name}.{storage}.npy", values)
        if self.scales is not None:
            np.save(folder / f"{name}.scales.npy", self.scales)

    @classmethod
    def open(cls, folder: Path, name: str) -> "Vectors | None":
        """Map what `write` wrote: vectors are read from the disk when they are used.

        Args:
            folder: where they were written.
            name: as they were written.

        Returns:
            Read-only vectors; None if there are none of this name.

        Raises:
            InputError: a file is damaged, or two do not fit together.

        Example:
            >>> Vectors.open(Path("no"), "dense") is None
            True
        """
        paths = {storage: folder / f"{name}.{storage}.npy" for storage in _STORAGES}
        storage = next((one for one, path in paths.items() if path.exists()), None)
        if storage is None:
            return None
        path, kind = paths[storage], _IN_FILE[storage]
        values = map_array(path, "vectors")
        if values.ndim != 2 or values.dtype != kind:
            found = f"{values.dtype} of shape {values.shape}"
            raise InputError(f"{np.dtype(kind)} [n e]", found, where=str(path))
        if storage == "bfloat16":
            values = values.view(ml_dtypes.bfloat16)
        if storage != "int8":
            return cls(values)
        path = folder / f"{name}.scales.npy"
        scales = map_array(path, "a scale for each vector")
        if scales.shape != values.shape[:1] or scales.dtype != np.float32:
            found = f"{scales.dtype} of shape {scales.shape}"
            raise InputError(f"float32 [{len(values)}]", found, where=str(path))
        return cls(values, np.array(scales))
