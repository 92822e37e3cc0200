"""Embeddings and labels as they are given, checked before anything is made of them."""

from collections.abc import Sequence

import numpy as np

from m3jax.core.errors import InputError


def finite(embeddings: np.ndarray, *, where: str) -> np.ndarray:
    """Check that there are embeddings, and that all of them are numbers.

    Args:
        embeddings: `[n e]`.
        where: what they are, for the error message.

    Returns:
        float32 `[n e]`.

    Raises:
        InputError: they are of another shape, none, or some are NaN or infinite.

    Example:
        >>> finite(np.array([[1.0, np.nan]]), where="test")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: test: expected finite embeddings, found NaN or \
infinity in 1 of 1 rows, first in row 0
    """
    found = np.asarray(embeddings, np.float32)
    if found.ndim != 2 or 0 in found.shape:
        expected = "embeddings, a row each"
        raise InputError(expected, f"the shape {found.shape}", where=where)
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(bad):
        told = f"NaN or infinity in {len(bad)} of {len(found)} rows"
        raise InputError(
            "finite embeddings", f"{told}, first in row {bad[0]}", where=where
        )
    return found


def unit(embeddings: np.ndarray, *, where: str) -> np.ndarray:
    """Give every row the length 1, so that inner products are cosines.

    Args:
        embeddings: `[n e]`.
        where: what they are, for the error message.

    Returns:
        float32 `[n e]`.

    Raises:
        InputError: as `finite`, or a row is all zeros and has no direction.

    Example:
        >>> unit(np.array([[3.0, 4.0]]), where="test").round(1).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    found = finite(embeddings, where=where)
    # In float64, where no square is lost, but without a copy of all rows in it.
    lengths = np.sqrt(np.einsum("ne,ne->n", found, found, dtype=np.float64))
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        told = f"{len(zero)} rows of zeros, first row {zero[0]}"
        raise InputError("embeddings with a direction", told, where=where)
    return np.divide(found, lengths[:, None], dtype=np.float32, casting="same_kind")


def finite_numbers(numbers: Sequence[float] | np.ndarray, *, where: str) -> np.ndarray:
    """Check that all of a list are numbers.

    Args:
        numbers: `[n]`.
        where: what they are, for the error message.

    Returns:
        float64 `[n]`.

    Raises:
        InputError: some are NaN or infinite.

    Example:
        >>> finite_numbers([1, 2], where="grades").tolist()
        [1.0, 2.0]
    """
    found = np.asarray(numbers, np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        told = f"NaN or infinity {len(bad)} times, first at {bad[0]}"
        raise InputError("finite numbers", told, where=where)
    return found


def require_one_width(**embeddings: np.ndarray) -> None:
    """Check that embeddings are as wide as each other.

    Args:
        embeddings: name -> `[n e]`.

    Raises:
        InputError: they are not.

    Example:
        >>> require_one_width(train=np.ones((2, 3)), test=np.ones((4, 3)))
    """
    widths = {name: rows.shape[1] for name, rows in embeddings.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{width} ({name})" for name, width in widths.items())
        raise InputError("embeddings of one width", found)


def require_labels(labels: Sequence[str], rows: np.ndarray, *, where: str) -> None:
    """Check that there is a label for each row.

    Args:
        labels: of the rows.
        rows: `[n e]`.
        where: what they are, for the error message.

    Raises:
        InputError: there are more or fewer.

    Example:
        >>> require_labels(["food", "animal"], np.ones((2, 3)), where="test")
    """
    if len(labels) != len(rows):
        expected = f"{len(rows)} labels, one a row"
        raise InputError(expected, f"{len(labels)}", where=where)


def require_two_labels(labels: Sequence[str], *, where: str) -> None:
    """Check that labels tell rows apart.

    Args:
        labels: of the rows.
        where: what they are, for the error message.

    Raises:
        InputError: all are the same.

    Example:
        >>> require_two_labels(["food", "food"], where="train")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: train: expected two labels or more, found \
'food' alone
    """
    if len(set(labels)) < 2:
        expected, found = "two labels or more", f"{labels[0]!r} alone"
        raise InputError(expected, found, where=where)


def require_positive(**numbers: int) -> None:
    """Check that numbers are at least 1.

    Args:
        numbers: name -> number.

    Raises:
        InputError: one is not.

    Example:
        >>> require_positive(k=5)
    """
    for name, number in numbers.items():
        if number < 1:
            raise InputError("a positive number", f"{number}", where=name)
