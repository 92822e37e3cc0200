"""More rows for a table of learned positions."""

from typing import Literal

import numpy as np

from m3jax.core.errors import InputError

PositionInit = Literal["tile", "interpolate"]


def extend(
    table: np.ndarray, rows: int, *, first: int, how: PositionInit
) -> np.ndarray:
    """Lengthen a table of positions, e.g. XLM-R's from 514 rows to 8,194.

    The first rows, of which no text makes use, stay. tile repeats the others in their
    order. interpolate stretches them: row i of n new ones lies at i (m - 1) / (n - 1)
    between the m old ones. How BGE-M3 got its 8,194 rows is not published; after either
    a model has to be trained on long texts.

    Args:
        table: float `[rows d]`.
        rows: wanted.
        first: row of a text's first token.
        how: where the new rows come from.

    Returns:
        The table `[rows d]`, in the dtype of the old one.

    Raises:
        InputError: fewer rows than before, or another way.

    Example:
        >>> extend(np.array([[0.0], [1.0], [4.0]]), 4, first=1, how="interpolate")[:, 0]
        array([0. , 1. , 2.5, 4. ])
    """
    if rows < len(table):
        raise InputError(
            f"at least the {len(table)} rows that there are",
            f"{rows}",
            where="max_positions",
        )
    old, count = table[first:], rows - first
    if how == "tile":
        new = old[np.arange(count) % len(old)]
    elif how == "interpolate":
        at = np.linspace(0, len(old) - 1, count)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, len(old) - 1)
        part = (at - low)[:, None].astype(np.float32)
        new = old[low] * (1 - part) + old[high] * part
    else:
        raise InputError("tile or interpolate", repr(how), where="position_init")
    return np.concatenate([table[:first], new]).astype(table.dtype)
