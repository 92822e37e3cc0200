"""The rows of one data set, sorted by shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.data.shapes import Lengths, Shape, assign


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one data set, by shape.

    Attributes:
        rows: row numbers, int32, those of the first shape first.
        own: how many rows each shape has of its own.
        batches: whole batches of each shape in an epoch.
        left: rows that each shape hands on; those of the last are dropped.
    """

    rows: np.ndarray
    own: tuple[int, ...]
    batches: tuple[int, ...]
    left: tuple[int, ...]

    @property
    def dropped(self) -> int:
        """Rows of an epoch that fill no batch, of the longest shape."""
        return self.left[-1]


def make_part(
    lengths: Lengths,
    shapes: Sequence[Shape],
    sizes: Sequence[int],
    up: Sequence[int],
    keep: np.ndarray | None,
) -> Part:
    """Sort the rows of a data set by shape, and count its batches.

    Args:
        lengths: of all rows.
        shapes: cheapest first; the last holds every row.
        sizes: queries in a batch of each shape.
        up: where each shape's remainder moves; -1 = it is dropped.
        keep: numbers of the rows that are trained on; None = all.

    Returns:
        The rows.

    Example:
        >>> lengths = Lengths(np.array([3, 9, 4]), np.array([3, 9, 4]))
        >>> make_part(lengths, (Shape(4, 4), Shape(9, 9)), (1, 1), (1, -1), None).own
        (2, 1)
    """
    if keep is not None:
        lengths = lengths.of(keep)
    shape_of = assign(lengths, shapes)
    rows = np.argsort(shape_of, kind="stable").astype(np.int32)
    own = np.bincount(shape_of, minlength=len(shapes))
    total = own.copy()
    batches, left = [], []
    for number, size in enumerate(sizes):
        whole, rest = divmod(int(total[number]), size)
        batches.append(whole)
        left.append(rest)
        if up[number] >= 0:
            total[up[number]] += rest
    if keep is not None:
        rows = keep[rows].astype(np.int32)
    return Part(rows, tuple(own.tolist()), tuple(batches), tuple(left))
