"""Numbers that a look at the data of a run finds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m3jax.data.samples import Sample
from m3jax.data.statistics import Negatives, Percentiles, Repeats


@dataclass(frozen=True)
class Side:
    """The queries or the passages of a data set, in tokens.

    Attributes:
        tokens: how long they are, before anything is cut off.
        kept: tokens kept.
        cut: share of the rows that lose some; of passages, of the longest of a row.
    """

    tokens: Percentiles
    kept: int
    cut: float


@dataclass(frozen=True)
class SetFacts:
    """A data set.

    Attributes:
        name: in tables.
        kind: of its records.
        rows: good and bad.
        trained_on: rows that are trained on.
        share: of the steps, as asked for.
        times: how often the run reads it.
        languages: language -> rows, of those that tell one.
        query: its queries.
        passage: the longest passage of each row.
        group: passages of each query.
        in_batch: whether passages of other queries are negatives.
        negatives: that its rows bring.
        repeats: rows that repeat others.
        dropped: why rows are left out -> how many; "remainder" is of each epoch.
        reasons: what is wrong with the first bad rows.
        samples: rows as they reach the model.
    """

    name: str
    kind: str
    rows: int
    trained_on: int
    share: float
    times: float
    languages: Mapping[str, int]
    query: Side
    passage: Side
    group: int
    in_batch: bool
    negatives: Negatives
    repeats: Repeats
    dropped: Mapping[str, int]
    reasons: Sequence[str]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class ShapeFacts:
    """A shape that batches are padded to.

    Attributes:
        query_length: tokens of a query, padding included.
        passage_length: tokens of a passage, padding included.
        size: queries in a batch.
        groups: passages of each query, of the data sets that have such batches.
        batches: while each data set is read once.
        rows: in them.
        share: of the steps.
        query: share of the queries' tokens that is no padding.
        passage: share of the passages' tokens that is no padding.
        efficiency: of both.
    """

    query_length: int
    passage_length: int
    size: int
    groups: Sequence[int]
    batches: int
    rows: int
    share: float
    query: float
    passage: float
    efficiency: float


@dataclass(frozen=True)
class Totals:
    """All batches together.

    Attributes:
        steps: of the run.
        steps_per_epoch: that read each data set once.
        rows_per_epoch: queries in them.
        tokens_per_epoch: tokens of an epoch, padding included.
        programs: forms of batches; each is compiled once.
        query: share of the queries' tokens that is no padding.
        passage: share of the passages' tokens that is no padding.
        efficiency: of both, by the lengths that were measured.
        random_size: rows in a batch of `random_efficiency`.
        random_efficiency: of batches that do not look at lengths.
        counted_batches: batches whose tokens were counted.
        counted_rows: rows that were looked at in them.
        counted_efficiency: of these.
        counted_by_lengths: the same rows by the lengths that were measured; the two
            differ where a row has several prompts, positives or negatives.
    """

    steps: int
    steps_per_epoch: int
    rows_per_epoch: int
    tokens_per_epoch: int
    programs: int
    query: float
    passage: float
    efficiency: float
    random_size: int
    random_efficiency: float
    counted_batches: int
    counted_rows: int
    counted_efficiency: float
    counted_by_lengths: float


@dataclass(frozen=True)
class Inspection:
    """All that the tables tell.

    Attributes:
        devices: that batches are divided among.
        multiple: what sizes of batches are multiples of.
        sets: the data sets.
        shapes: what batches are padded to.
        totals: of all batches.
    """

    devices: int
    multiple: int
    sets: Sequence[SetFacts]
    shapes: Sequence[ShapeFacts]
    totals: Totals
