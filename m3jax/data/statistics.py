"""Numbers about data sets and about the batches that a plan makes of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.data.examples import TrainingSet
from m3jax.data.plan import Plan, rows_at
from m3jax.data.scan import Scan

# Rows that are looked at together.
_BLOCK = 2**20
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Percentiles:
    """How long the texts of a data set are."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True)
class Repeats:
    """Rows that say again what rows before them said.

    Attributes:
        query: rows whose query came before.
        row: rows whose query and first positive (label, second text) came before.
        itself: rows whose query is their own first positive.
    """

    query: int
    row: int
    itself: int


@dataclass(frozen=True)
class Negatives:
    """Negatives that the rows of a data set bring."""

    mean: float
    min: int


@dataclass(frozen=True)
class Filled:
    """How full some batches are.

    Attributes:
        batches: how many; a share where data sets come by weight.
        rows: queries in them.
        query: tokens of queries.
        passage: tokens of passages, each taken to be as long as its row's longest.
        query_space: tokens of queries, padding included.
        passage_space: tokens of passages, padding included.

    Example:
        >>> one = Filled(1, 8, 60, 300, 80, 400)
        >>> one.efficiency, (one + one.times(2)).rows
        (0.75, 24)
    """

    batches: float = 0.0
    rows: float = 0.0
    query: float = 0.0
    passage: float = 0.0
    query_space: float = 0.0
    passage_space: float = 0.0

    @property
    def tokens(self) -> float:
        """Tokens without padding."""
        return self.query + self.passage

    @property
    def space(self) -> float:
        """Tokens with padding: what the model computes."""
        return self.query_space + self.passage_space

    @property
    def efficiency(self) -> float:
        """Share of the computed tokens that is no padding; 1 of nothing."""
        return self.tokens / self.space if self.space else 1.0

    def times(self, factor: float) -> "Filled":
        """As much of everything, so many times."""
        return Filled(*(factor * value for value in self._values()))

    def __add__(self, other: "Filled") -> "Filled":
        """Both together."""
        pairs = zip(self._values(), other._values(), strict=True)
        return Filled(*(one + two for one, two in pairs))

    def _values(self) -> tuple[float, ...]:
        tokens = (self.query, self.passage, self.query_space, self.passage_space)
        return (self.batches, self.rows, *tokens)


def percentiles(lengths: np.ndarray) -> Percentiles:
    """Lengths that half, 90 % and 99 % of the texts do not exceed, and the longest.

    Args:
        lengths: int `[n]`, n > 0.

    Returns:
        Lengths that occur.

    Example:
        >>> percentiles(np.arange(1, 201))
        Percentiles(p50=100, p90=180, p99=198, max=200)
    """
    found = np.percentile(lengths, (50, 90, 99, 100), method="inverted_cdf")
    return Percentiles(*(int(value) for value in found))


def repeats(scan: Scan, rows: np.ndarray | None = None) -> Repeats:
    """Count the rows that repeat others, by the hashes of their texts.

    Args:
        scan: of the data set.
        rows: which of them; None = all.

    Returns:
        The counts.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from m3jax.data.records import Pairs
        >>> from m3jax.data.scan import scan
        >>> from m3jax.data.sources.listed import listed
        >>> source = listed("a", [Pairs("2 + 2?", (text,)) for text in ("4", "four")])
        >>> repeats(scan(source, root=Path(tempfile.mkdtemp())))
        Repeats(query=1, row=0, itself=0)
    """
    query, partner = _of(scan.query, rows), _of(scan.partner, rows)
    pair = query ^ partner * _ODD  # wraps; 64 bits of two hashes are a hash again
    return Repeats(
        query=_seen_before(query),
        row=_seen_before(pair),
        itself=int((query == partner).sum()),
    )


def negatives(scan: Scan, rows: np.ndarray | None = None) -> Negatives:
    """Count the negatives that rows bring, before any is drawn or filled up.

    Args:
        scan: of the data set.
        rows: which of them; None = all.

    Returns:
        Mean and least.
    """
    found = _of(scan.negatives, rows)
    return Negatives(float(found.mean()), int(found.min()))


def shares(plan: Plan) -> tuple[float, ...]:
    """Share of the steps that each data set is to have.

    Args:
        plan: the plan.

    Returns:
        One number a data set; 1 together.

    Example:
        >>> from m3jax.data.plan import make_plan
        >>> from m3jax.data.shapes import Lengths, Shape
        >>> sets = [Lengths(np.ones(n, int), np.ones(n, int)) for n in (30, 10)]
        >>> shares(make_plan(sets, shapes=[Shape(1, 1)], sizes=[2], seed=0))
        (0.75, 0.25)
    """
    given = plan.weights or [sum(part.batches) for part in plan.parts]
    return tuple(float(one / sum(given)) for one in given)


def present(one: TrainingSet) -> np.ndarray:
    """Passages that each good row comes with; the rest of its group is padding.

    Args:
        one: the data set.

    Returns:
        int64 `[n]`, from 1 to its group.
    """
    rows, config = one.rows, one.rows.config
    own = np.minimum(np.asarray(rows.scan.negatives, np.int64), rows.negatives)
    if rows.scan.kind == "pairs" and config.fill == "repeat":
        own = np.where(own > 0, rows.negatives, 0)
    elif rows.scan.kind == "pairs" and config.fill == "random":
        own[:] = rows.negatives
    elif rows.scan.kind == "labelled":
        others = len(rows.by_label) - 1
        if config.labels == "same" and others:
            others = rows.negatives  # texts of any other label
        own[:] = min(rows.negatives, others)
    return 1 + own


def padding(
    plan: Plan, sets: Sequence[TrainingSet], epoch: int = 0
) -> tuple[tuple[Filled, ...], ...]:
    """Count the tokens of all batches while each data set is read once.

    Queries count as measured: exact unless a data set has several prompts, of which the
    longest was measured. A passage counts as the longest that its row may bring: exact
    where a row has one positive and no negatives, else the most it can be. Where
    batches are mixed, all are taken to have the largest group, and rows to stay within
    their epoch.

    Args:
        plan: the plan.
        sets: its data sets.
        epoch: which epoch of each.

    Returns:
        For each data set, its batches of each shape.
    """
    found = []
    for number, one in enumerate(sets):
        passages = present(one)
        cells = []
        for shape, count in enumerate(plan.parts[number].batches):
            rows = count * plan.sizes[shape]
            query = passage = 0
            for at in _blocks(rows):
                which = rows_at(plan, number, epoch, shape, at)
                query += int(one.lengths[which].sum(dtype=np.int64))
                passage += int((one.rows.lengths[which] * passages[which]).sum())
            width = plan.shapes[shape]
            space = rows * group_of(plan, sets, number, shape) * width.passage_length
            in_query = rows * width.query_length
            cells.append(Filled(count, rows, query, passage, in_query, space))
        found.append(tuple(cells))
    return tuple(found)


def weighed(plan: Plan, found: Sequence[Sequence[Filled]]) -> tuple[Filled, ...]:
    """What `padding` counted, of all data sets together, by shape.

    Args:
        plan: the plan.
        found: what `padding` returned for it.

    Returns:
        One a shape: of an epoch; or where data sets come by weight, of as many steps
        as an epoch would have, divided among them by weight.
    """
    factors = _factors(plan)
    by_shape = zip(*found, strict=True)
    return tuple(
        sum(map(Filled.times, cells, factors), start=Filled()) for cells in by_shape
    )


def efficiency(plan: Plan, sets: Sequence[TrainingSet], epoch: int = 0) -> float:
    """Real tokens among all tokens of an epoch's batches, queries and passages.

    Args:
        plan: the plan.
        sets: its data sets.
        epoch: which.

    Returns:
        A share; how exact it is, `padding` says.
    """
    return sum(weighed(plan, padding(plan, sets, epoch)), start=Filled()).efficiency


def random_efficiency(
    plan: Plan, sets: Sequence[TrainingSet], size: int, seed: int = 0
) -> float:
    """What `efficiency` would be of batches that do not look at lengths.

    Rows are shuffled and cut into batches of one size, each padded to its longest query
    and its longest passage, as sentence-transformers does it.

    Args:
        plan: tells whether batches hold one data set, and their weights.
        sets: its data sets.
        size: queries in a batch.
        seed: of the shuffle.

    Returns:
        A share.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for one in sets:
        rows = one.rows.kept
        passage, count = _of(one.rows.lengths, rows), _of(present(one), rows)
        columns.append((_of(one.lengths, rows), passage, count))
    if plan.homogeneity == 1:
        groups = [one.group for one in sets]
        factors = _factors(plan)
    else:
        columns = [tuple(np.concatenate(part) for part in zip(*columns, strict=True))]
        groups, factors = [max(one.group for one in sets)], [1.0]
    found = Filled()
    for (query, passage, count), group, factor in zip(
        columns, groups, factors, strict=True
    ):
        order = rng.permutation(len(query))
        query, passage, count = query[order], passage[order], count[order]
        starts = np.arange(0, len(query), size)
        sizes = np.diff(np.append(starts, len(query)))
        found += Filled(
            batches=len(starts),
            rows=len(query),
            query=int(query.sum(dtype=np.int64)),
            passage=int((passage * count).sum()),
            query_space=int(sizes @ np.maximum.reduceat(query, starts)),
            passage_space=int(group * sizes @ np.maximum.reduceat(passage, starts)),
        ).times(factor)
    return found.efficiency


def programs(plan: Plan, sets: Sequence[TrainingSet]) -> int:
    """How often the training step is compiled: once for each form that a batch has.

    Args:
        plan: the plan.
        sets: its data sets.

    Returns:
        How many forms there are: shape, size, group, and which other arrays come along.
    """
    return len(
        {
            (
                shape,
                group_of(plan, sets, number, shape),
                one.rows.config.teacher_scores,
                one.rows.scan.kind == "scored",
            )
            for number, one in enumerate(sets)
            for shape, count in enumerate(plan.parts[number].batches)
            if count
        }
    )


def group_of(plan: Plan, sets: Sequence[TrainingSet], number: int, shape: int) -> int:
    """Passages of each query in the batches of a data set.

    Args:
        plan: the plan.
        sets: its data sets.
        number: which data set.
        shape: which shape.

    Returns:
        Its own group; of batches that are mixed, the largest of all.
    """
    size = plan.sizes[shape]
    having = sum(part.batches[shape] > 0 for part in plan.parts)
    is_mixed = round(plan.homogeneity * size) < size and having > 1
    return max(one.group for one in sets) if is_mixed else sets[number].group


def _factors(plan: Plan) -> list[float]:
    """How often each data set is read while the steps of an epoch pass."""
    counts = [sum(part.batches) for part in plan.parts]
    return [
        share * sum(counts) / count
        for share, count in zip(shares(plan), counts, strict=True)
    ]


def _seen_before(hashes: np.ndarray) -> int:
    ordered = np.sort(hashes)  # a tenth of what np.unique takes
    return int((ordered[1:] == ordered[:-1]).sum())


def _of(column: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
    return column if rows is None else column[rows]


def _blocks(count: int) -> Iterator[np.ndarray]:
    for start in range(0, count, _BLOCK):
        yield np.arange(start, min(start + _BLOCK, count))
