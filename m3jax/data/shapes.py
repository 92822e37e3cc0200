"""The shapes that batches are padded to: found from the lengths, or by rule."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Lengths that are tried on each side while shapes are sought.
_LEVELS = 64


@dataclass(frozen=True, order=True)
class Shape:
    """What all rows of a batch are padded to; each shape is compiled once.

    Attributes:
        query_length: tokens of a query, padding included.
        passage_length: tokens of a passage, padding included.
    """

    query_length: int
    passage_length: int

    def tokens(self, group: float) -> float:
        """Tokens of a query with `group` passages."""
        return self.query_length + group * self.passage_length

    def holds(self, other: "Shape") -> bool:
        """Whether rows of another shape fit in this one."""
        return (
            other.query_length <= self.query_length
            and other.passage_length <= self.passage_length
        )


@dataclass(frozen=True, eq=False)
class Lengths:
    """Tokens of the rows of a data set, cut to what is kept.

    Attributes:
        query: int `[n]`.
        passage: int `[n]`, of the longest passage of each row.
        group: passages of each query.
        share: what a row counts, where data sets do not come in proportion.
    """

    query: np.ndarray
    passage: np.ndarray
    group: int = 1
    share: float = 1.0

    def of(self, rows: np.ndarray) -> "Lengths":
        """The lengths of some rows."""
        return Lengths(self.query[rows], self.passage[rows], self.group, self.share)


def find_shapes(
    sets: Sequence[Lengths], count: int, *, multiple: int = 1
) -> tuple[Shape, ...]:
    """Choose the shapes that cost the fewest padded tokens.

    A row goes into the cheapest shape that holds it. Shapes are added one by one, each
    where it saves most; then each is moved, and the least useful one set anew, for as
    long as that saves anything. The result is a local optimum: on MedQuAD it is within
    half a percent of the best that random search found.

    Args:
        sets: lengths of the data sets.
        count: most shapes.
        multiple: lengths are multiples of this.

    Returns:
        At most `count` shapes, cheapest first; the last holds every row.

    Example:
        >>> rows = Lengths(np.array([4, 4, 8]), np.array([10, 10, 99]))
        >>> [(s.query_length, s.passage_length) for s in find_shapes([rows], 2)]
        [(4, 10), (8, 99)]
    """
    cells = _cells(sets, multiple)
    top = Shape(int(cells.query.max()), int(cells.passage.max()))
    levels = [_levels(side, cells.weight) for side in (cells.query, cells.passage)]
    shapes = [top]
    while len(shapes) < count and (added := _added(cells, shapes, levels)):
        shapes.append(added)
    best = _cost(cells, shapes)
    while len(shapes) > 2:
        shapes = _moved(cells, shapes, levels)
        worst = min(shapes[1:], key=lambda shape: _cost(cells, _without(shapes, shape)))
        others = _without(shapes, worst)
        if added := _added(cells, others, levels):
            other = [*others, added]
            if _cost(cells, other) < _cost(cells, shapes):
                shapes = other
        cost = _cost(cells, shapes)
        if cost > best * (1 - 1e-4):
            break
        best = cost
    group = cells.group
    return tuple(sorted(set(shapes), key=lambda shape: (shape.tokens(group), shape)))


def by_longest(sets: Sequence[Lengths], edges: Sequence[int]) -> tuple[Shape, ...]:
    """Shapes for buckets of given lengths: a row goes by its longest text (BGE-M3).

    Args:
        sets: lengths of the data sets.
        edges: lengths to pad passages to, ascending; longer rows get one of their own.

    Returns:
        One shape a bucket that has rows. Queries are padded to the longest of the
        bucket and of all shorter ones, whose remainders move up.

    Example:
        >>> rows = Lengths(np.array([3, 6]), np.array([4, 5]))
        >>> by_longest([rows], (4, 8))
        (Shape(query_length=3, passage_length=4), Shape(query_length=6, \
passage_length=8))
    """
    longest = [np.maximum(one.query, one.passage) for one in sets]
    most = max(int(lengths.max()) for lengths in longest)
    ladder = np.unique([*edges, most] if most > max(edges) else edges)
    queries = np.zeros(len(ladder), np.int64)
    used = np.zeros(len(ladder), bool)
    for one, lengths in zip(sets, longest, strict=True):
        bucket = np.searchsorted(ladder, lengths)
        np.maximum.at(queries, bucket, one.query)
        used[np.unique(bucket)] = True
    queries = np.maximum.accumulate(queries)
    return tuple(Shape(int(queries[i]), int(ladder[i])) for i in np.flatnonzero(used))


def assign(lengths: Lengths, shapes: Sequence[Shape]) -> np.ndarray:
    """The cheapest shape that holds each row.

    Args:
        lengths: of the rows.
        shapes: cheapest first; the last holds every row.

    Returns:
        int16 `[n]`, numbers of shapes.

    Example:
        >>> rows = Lengths(np.array([3, 6]), np.array([4, 5]))
        >>> assign(rows, (Shape(3, 8), Shape(6, 8))).tolist()
        [0, 1]
    """
    queries = np.unique([0, *(shape.query_length for shape in shapes)])
    passages = np.unique([0, *(shape.passage_length for shape in shapes)])
    table = np.full((len(queries), len(passages)), len(shapes) - 1, np.int16)
    for number in reversed(range(len(shapes))):
        holds = queries[:, None] <= shapes[number].query_length
        holds = holds & (passages[None] <= shapes[number].passage_length)
        table[holds] = number
    row = _step_up(queries)[lengths.query]
    column = _step_up(passages)[lengths.passage]
    return table[row, column]


def parents(shapes: Sequence[Shape]) -> tuple[int, ...]:
    """Where the remainder of each shape moves: the next one that holds it.

    Args:
        shapes: cheapest first; the last holds every row.

    Returns:
        One number a shape; -1 for the last, whose remainder is dropped.

    Example:
        >>> parents((Shape(3, 8), Shape(9, 4), Shape(9, 8)))
        (2, 2, -1)
    """
    return tuple(
        next((i for i in range(number + 1, len(shapes)) if shapes[i].holds(shape)), -1)
        for number, shape in enumerate(shapes)
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    """Rows of equal lengths, taken together."""

    query: np.ndarray
    passage: np.ndarray
    weight: np.ndarray
    group: float


def _cells(sets: Sequence[Lengths], multiple: int) -> _Cells:
    high = max(int(one.passage.max()) for one in sets) + 1
    wide = max(int(one.query.max()) for one in sets) + 1
    counts = np.zeros(wide * high)
    for one in sets:
        found = one.query.astype(np.int64) * high + one.passage
        counts += one.share * np.bincount(found, minlength=wide * high)
    at = np.flatnonzero(counts)
    query, passage = np.divmod(at, high)
    query, passage = (-(-side // multiple) * multiple for side in (query, passage))
    weight = counts[at]
    # On a coarser grid: lengths are rounded up to a level.
    query = _up(query, _levels(query, weight))
    passage = _up(passage, _levels(passage, weight))
    code, where = np.unique(query * (passage.max() + 1) + passage, return_inverse=True)
    query, passage = np.divmod(code, passage.max() + 1)
    rows = sum(one.share * len(one.query) for one in sets)
    group = sum(one.share * len(one.query) * one.group for one in sets) / rows
    return _Cells(query, passage, np.bincount(where, weights=weight), group)


def _levels(lengths: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """At most `_LEVELS` lengths to choose from, close where most tokens are."""
    values, where = np.unique(lengths, return_inverse=True)
    if len(values) <= _LEVELS:
        return values
    below = np.cumsum(np.bincount(where, weights=weight * lengths))
    ends = np.linspace(below[-1] / _LEVELS, below[-1] * (1 - 1e-9), _LEVELS)
    return np.unique([*values[np.searchsorted(below, ends)], values[-1]])


def _up(lengths: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return levels[np.searchsorted(levels, lengths)]


def _each(cells: _Cells, shapes: Sequence[Shape]) -> np.ndarray:
    """What a row of each cell costs."""
    best = np.full(len(cells.weight), np.inf)
    for shape in shapes:
        best = np.where(
            (cells.query <= shape.query_length)
            & (cells.passage <= shape.passage_length),
            np.minimum(best, shape.tokens(cells.group)),
            best,
        )
    return best


def _cost(cells: _Cells, shapes: Sequence[Shape]) -> float:
    return float(cells.weight @ _each(cells, shapes))


def _saved(
    cells: _Cells, each: np.ndarray, queries: np.ndarray, passages: np.ndarray
) -> np.ndarray:
    """What one more shape would save, for each pair of lengths of two lists."""
    tokens = queries + cells.group * passages
    gain = cells.weight * np.maximum(each - tokens[:, None], 0)
    gain *= cells.query <= queries[:, None]
    gain *= cells.passage <= passages[:, None]
    return gain.sum(1)


def _added(
    cells: _Cells, shapes: Sequence[Shape], levels: Sequence[np.ndarray]
) -> Shape | None:
    """The shape that saves most beside the others, on a coarser grid."""
    coarse = [
        np.unique([*side[:: max(1, len(side) // 20)], side[-1]]) for side in levels
    ]
    pairs = np.array(list(itertools.product(*coarse)))
    saved = _saved(cells, _each(cells, shapes), pairs[:, 0], pairs[:, 1])
    best = int(saved.argmax())
    return Shape(*map(int, pairs[best])) if saved[best] > 0 else None


def _moved(
    cells: _Cells, shapes: Sequence[Shape], levels: Sequence[np.ndarray]
) -> list[Shape]:
    """Each shape but the first, which holds all, at its best lengths in turn."""
    queries, passages = levels
    moved = list(shapes)
    for number in range(1, len(moved)):
        each = _each(cells, moved[:number] + moved[number + 1 :])
        shape = moved[number]
        for _ in range(2):
            fixed = np.full(len(passages), shape.query_length)
            best = _saved(cells, each, fixed, passages).argmax()
            shape = Shape(shape.query_length, int(passages[best]))
            fixed = np.full(len(queries), shape.passage_length)
            best = _saved(cells, each, queries, fixed).argmax()
            shape = Shape(int(queries[best]), shape.passage_length)
        moved[number] = shape
    return moved


def _without(shapes: Sequence[Shape], shape: Shape) -> list[Shape]:
    at = list(shapes).index(shape)
    return [*shapes[:at], *shapes[at + 1 :]]


def _step_up(levels: np.ndarray) -> np.ndarray:
    """Length -> number of the first level that holds it, up to the last level."""
    return np.searchsorted(levels, np.arange(levels[-1] + 1)).astype(np.int16)
