"""What the tables of embeddings share: row numbers, and arrays mapped from a file."""

import operator
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np

from m3jax.core.errors import InputError

Rows = slice | Sequence[int] | np.ndarray


def select(rows: SupportsIndex | Rows, count: int) -> int | slice | np.ndarray:
    """Check row numbers once, so that every part of a table takes the same rows.

    Args:
        rows: a number, a slice, numbers or a bool mask; negative numbers count from
            the end.
        count: rows of the table.

    Returns:
        The number or int64 numbers from 0 to count - 1; a slice as it is.

    Raises:
        IndexError: a number is out of range, the mask has another length, or it is
            none of these.

    Example:
        >>> select(-1, 3), select([0, -1], 3).tolist()
        (2, [0, 2])
    """
    if isinstance(rows, slice):
        return rows
    if np.ndim(rows) == 0:  # type: ignore[arg-type]
        row = operator.index(rows)  # type: ignore[arg-type]
        if not -count <= row < count:
            raise IndexError(f"row {row} of {count}")
        return row % count
    at = np.asarray(rows)
    if at.ndim == 1 and not at.size and at.dtype != bool:
        at = at.astype(np.int64)  # an empty list has no integers
    if at.ndim != 1 or at.dtype.kind not in "iub":
        raise IndexError("rows are taken by a slice, row numbers or a bool mask")
    if at.dtype == bool:
        if len(at) != count:
            raise IndexError(f"a mask of {len(at)} for {count} rows")
        return np.flatnonzero(at)
    wrong = at[(at < -count) | (at >= count)]
    if wrong.size:
        raise IndexError(f"row {wrong[0]} of {count}")
    return np.where(at < 0, at + count, at).astype(np.int64)


def map_array(path: Path, what: str) -> np.ndarray:
    """Map a .npy file; nothing but its header is read, and no pickle.

    Args:
        path: of the file.
        what: what should be there, for the message.

    Returns:
        A read-only array.

    Raises:
        InputError: the file is missing, cut, or no array of numbers.

    Example:
        >>> map_array(Path("no.npy"), "an array of embeddings")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.npy: expected an array of embeddings, \
found none
    """
    # What numpy raises for a header that is no header, or one of absurd numbers.
    damaged = (ValueError, EOFError, OverflowError, SyntaxError, tokenize.TokenError)
    try:
        # np.load would open an archive of arrays too, and return that.
        array: Any = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(what, "none", where=str(path)) from None
    except IsADirectoryError:
        raise InputError(what, "a folder", where=str(path)) from None
    except damaged as error:
        raise InputError(what, str(error), where=str(path)) from None
    return array


def require_offsets(offsets: np.ndarray, end: int, *, where: str) -> None:
    """Check where the rows of a flat array begin and end.

    Args:
        offsets: `[n + 1]`, row i is offsets[i] to offsets[i + 1].
        end: length of the flat array.
        where: what the message calls the offsets.

    Raises:
        InputError: they do not start at 0, fall, or end elsewhere than at `end`.

    Example:
        >>> require_offsets(np.array([0, 2, 1]), 1, where="offsets")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: offsets: expected numbers that never fall, \
found 1 after 2
    """
    if offsets.ndim != 1 or offsets.dtype.kind != "i" or not offsets.size:
        found = f"{offsets.dtype} of shape {offsets.shape}"
        raise InputError("integers of shape [n + 1]", found, where=where)
    fall = np.flatnonzero(offsets[1:] < offsets[:-1])
    if fall.size:
        at = int(fall[0])
        found = f"{offsets[at + 1]} after {offsets[at]}"
        raise InputError("numbers that never fall", found, where=where)
    if offsets[0] != 0 or offsets[-1] != end:
        found = f"{offsets[0]} to {offsets[-1]}"
        raise InputError(f"numbers from 0 to {end}", found, where=where)
