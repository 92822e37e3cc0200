"""Which passages stand beside a query: drawn anew in every epoch, by row."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from m3jax.data.config import Dataset
from m3jax.data.permutation import mixed
from m3jax.data.records import Labelled, Pairs, Record, Scored, content_hash
from m3jax.data.scan import Scan
from m3jax.data.sources.base import Source
from m3jax.data.tokenised import TokenText, digest

# How often a random row is drawn again that is a positive, or taken already.
_TRIES = 32

AnyText = str | TokenText


class Passage(NamedTuple):
    """A passage of a batch.

    Attributes:
        text: what is read.
        id: 8 bytes; a passage with the id of the positive is never a negative.
        score: a teacher's.
    """

    text: AnyText
    id: bytes
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a data set that are trained on, to draw from.

    Attributes:
        config: how they are read.
        source: the good rows.
        scan: hashes of all good rows.
        lengths: tokens of the longest passage of each good row, cut.
        negatives: hard negatives of each query.
        kept: numbers of the rows that are trained on; None = all.
    """

    config: Dataset
    source: Source
    scan: Scan
    lengths: np.ndarray
    negatives: int
    kept: np.ndarray | None

    @property
    def count(self) -> int:
        """Rows that are trained on."""
        return len(self.lengths) if self.kept is None else len(self.kept)

    @functools.cached_property
    def by_length(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows with the shortest passages first, and their lengths."""
        kept = np.arange(len(self.lengths)) if self.kept is None else self.kept
        order = np.argsort(self.lengths[kept], kind="stable")
        return kept[order].astype(np.int32), self.lengths[kept[order]]

    @functools.cached_property
    def by_label(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """Hash of a label -> its rows, the shortest first, and their lengths."""
        rows, lengths = self.by_length
        label = self.scan.partner[rows]
        order = np.argsort(label, kind="stable")
        found, first = np.unique(label[order], return_index=True)
        groups = np.split(rows[order], first[1:])
        sizes = np.split(lengths[order], first[1:])
        pairs = zip(groups, sizes, strict=True)
        return dict(zip(found.tolist(), pairs, strict=True))

    @functools.cached_property
    def repeated(self) -> dict[int, np.ndarray]:
        """Hash of a query that several rows have -> these rows, of all good ones."""
        query = np.asarray(self.scan.query)
        order = np.argsort(query, kind="stable")
        found, first, count = np.unique(
            query[order], return_index=True, return_counts=True
        )
        several = np.flatnonzero(count > 1)
        return {int(found[i]): order[first[i] : first[i] + count[i]] for i in several}

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """The text of every label, in the order of their hashes."""
        found = (self.source[int(rows.min())] for rows, _ in self.by_label.values())
        return tuple(one.label for one in found if isinstance(one, Labelled))

    @functools.cached_property
    def number_of(self) -> dict[str, int]:
        """Label -> its number among `labels`."""
        return {label: number for number, label in enumerate(self.labels)}


class Dice:
    """Random numbers from a few integers; to begin costs nothing.

    Example:
        >>> dice = Dice(0, 1)
        >>> sorted(dice.sample(5, 5))
        [0, 1, 2, 3, 4]
    """

    def __init__(self, *key: int) -> None:
        self._key = key
        self._state: int | None = None  # most rows need no number

    def _next(self) -> int:
        if self._state is None:
            state = 0
            for part in self._key:
                state = state * 0xD1342543DE82EF95 + part + 1
            # Far apart: rows that are neighbours would draw one another's numbers.
            self._state = mixed(state)
        self._state += 1
        return mixed(self._state)

    def below(self, count: int) -> int:
        """A number from 0 to below `count`."""
        return self._next() % count

    def share(self) -> float:
        """A number from 0 to below 1."""
        return (self._next() >> 11) / 2**53

    def sample(self, count: int, most: int) -> list[int]:
        """Different numbers from 0 to below `count`: `most`, or all there are."""
        moved: dict[int, int] = {}
        found = []
        for i in range(min(most, count)):
            j = i + self.below(count - i)
            found.append(moved.get(j, j))
            moved[j] = moved.get(i, i)
        return found


def draw(
    rows: Rows, row: int, record: Record, dice: Dice, *, longest: int
) -> tuple[Passage | None, ...]:
    """Choose the passages of a query: the positive, then hard negatives.

    No negative is a positive of the same query: not by its text, and at random neither
    by the query.

    Args:
        rows: the data set.
        row: number of the row.
        record: the row.
        dice: decides which of several.
        longest: tokens that passages of this batch are padded to; what is drawn from
            other rows has no more.

    Returns:
        1 + negatives passages; None stands for each that there is not.
    """
    if isinstance(record, Pairs):
        return _of_pairs(rows, row, record, dice, longest)
    if isinstance(record, Scored):
        return _filled([Passage(record.second, digest(record.second))], rows)
    if isinstance(record, Labelled):
        if rows.config.labels == "text":
            return _of_label(rows, record, dice)
        return _of_same_label(rows, row, record, dice, longest)
    return _filled([Passage(record.text, digest(record.text))], rows)


def _filled(found: Iterable[Passage | None], rows: Rows) -> tuple[Passage | None, ...]:
    whole = list(found)[: 1 + rows.negatives]
    return (*whole, *[None] * (1 + rows.negatives - len(whole)))


def _of_pairs(
    rows: Rows, row: int, record: Pairs, dice: Dice, longest: int
) -> tuple[Passage | None, ...]:
    config, count = rows.config, rows.negatives
    several = len(record.pos) > 1 and config.positive == "random"
    chosen = dice.below(len(record.pos)) if several else 0
    score = record.pos_scores[chosen] if record.pos_scores else 0.0
    positive = Passage(record.pos[chosen], digest(record.pos[chosen]), score)
    if not count:
        return (positive,)
    query = int(rows.scan.query[row])
    known = {digest(text) for text in record.pos} | _positives(rows, query)
    scores = record.neg_scores or (0.0,) * len(record.neg)
    own = [
        Passage(text, digest(text), score)
        for text, score in zip(record.neg, scores, strict=True)
    ]
    own = [one for one in own if one.id not in known]
    found = [own[i] for i in dice.sample(len(own), count)]
    if config.fill == "repeat" and found:
        found = [found[i % len(found)] for i in range(count)]
    elif config.fill == "random" and len(found) < count:
        known |= {one.id for one in found}
        found += _random(rows, dice, longest, known, count - len(found), query=query)
    return _filled([positive, *found], rows)


def _positives(rows: Rows, query: int) -> set[bytes]:
    """What other rows of the same query are answered by."""
    others = (rows.source[int(other)] for other in rows.repeated.get(query, ()))
    return {
        digest(text) for one in others if isinstance(one, Pairs) for text in one.pos
    }


def _random(
    rows: Rows, dice: Dice, longest: int, known: set[bytes], count: int, *, query: int
) -> list[Passage]:
    """Positives of other queries of the data set, no longer than the batch is wide."""
    numbers, lengths = rows.by_length
    fit = int(np.searchsorted(lengths, longest, side="right"))
    found: list[Passage] = []
    for _ in range(_TRIES * count):
        other = int(numbers[dice.below(fit)])
        if int(rows.scan.query[other]) == query:
            continue
        record = rows.source[other]
        assert isinstance(record, Pairs)
        one = Passage(record.pos[0], digest(record.pos[0]))
        if one.id not in known:
            known.add(one.id)
            found.append(one)
            if len(found) == count:
                break
    return found


def _of_label(rows: Rows, record: Labelled, dice: Dice) -> tuple[Passage | None, ...]:
    positive = Passage(record.label, content_hash(record.label))
    own = rows.number_of[record.label]
    chosen = dice.sample(len(rows.labels) - 1, rows.negatives)
    others = [rows.labels[i + (i >= own)] for i in chosen]
    negatives = [Passage(label, content_hash(label)) for label in others]
    return _filled([positive, *negatives], rows)


def _of_same_label(
    rows: Rows, row: int, record: Labelled, dice: Dice, longest: int
) -> tuple[Passage | None, ...]:
    """Texts are told apart by their labels, so a label's hash is their id."""
    label = int(rows.scan.partner[row])
    group, sizes = rows.by_label[label]
    fit = int(np.searchsorted(sizes, longest, side="right"))
    other = dice.below(fit - 1)
    if int(group[other]) == row:  # any but the row itself
        other = fit - 1
    positive = rows.source[int(group[other])]
    assert isinstance(positive, Labelled)
    found = [Passage(positive.text, content_hash(record.label))]
    numbers, lengths = rows.by_length
    fit = int(np.searchsorted(lengths, longest, side="right"))
    taken: set[int] = set()
    for _ in range(_TRIES * rows.negatives):
        if len(found) > rows.negatives:
            break
        other = int(numbers[dice.below(fit)])
        if other in taken or int(rows.scan.partner[other]) == label:
            continue
        taken.add(other)
        negative = rows.source[other]
        assert isinstance(negative, Labelled)
        found.append(Passage(negative.text, content_hash(negative.label)))
    return _filled(found, rows)


def shuffled(text: AnyText, dice: Dice, ratio: float) -> AnyText:
    """Cut some long passages in three pieces and shuffle them.

    Args:
        text: a text; one of at most 100 characters, or of tokens, stays as it is.
        dice: decides whether, and the order.
        ratio: share of the texts.

    Returns:
        The text.

    Source: BGE-M3's training code (`shuffle_ratio`).

    Example:
        >>> len(shuffled("abc" * 50, Dice(1), ratio=1.0))
        152
    """
    if not ratio or not isinstance(text, str) or len(text) <= 100:
        return text
    if dice.share() >= ratio:
        return text
    third = len(text) // 3 + 1
    pieces = [text[i : i + third] for i in range(0, len(text), third)]
    return " ".join(pieces[i] for i in dice.sample(len(pieces), len(pieces)))
