"""What one pass learns of some rows."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text, content_hash
from m3jax.data.sources.base import Source, records
from m3jax.data.tokenised import texts_of

OnBadRow = Literal["stop", "skip"]
Kind = Literal["pairs", "text", "scored", "labelled"]

_MOST = np.iinfo(np.uint16).max
_NONE = bytes(8)


@dataclass
class Part:
    """What one process has found in some rows.

    Attributes:
        query: content hash of each good row's query, text or first text.
        partner: of its first positive, label or second text; 0 for Text.
        negatives: how many it has; 65535 stands for that many or more.
        row: its number.
        bad: numbers of the bad rows.
        kinds: kind -> the first row of it.
        languages: language -> rows, of the rows that tell one.
        content: digest of all that the good rows say.
    """

    query: np.ndarray
    partner: np.ndarray
    negatives: np.ndarray
    row: np.ndarray
    bad: list[int] = field(default_factory=list)
    kinds: dict[Kind, int] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    content: bytes = b""


def scanner(source: Source, on_bad_row: OnBadRow) -> Callable[[tuple[int, int]], Part]:
    """Make the function that reads some rows.

    Args:
        source: the rows.
        on_bad_row: whether to go on after a bad one.

    Returns:
        (first row, row after the last) -> what is found in them.
    """
    return partial(_scan, source, on_bad_row)


def _scan(source: Source, on_bad_row: OnBadRow, task: tuple[int, int]) -> Part:
    start, stop = task
    queries, partners, negatives = [], [], []
    bad: list[int] = []
    kinds: dict[Kind, int] = {}
    languages: Counter[str] = Counter()
    content = blake2b(digest_size=16)
    for row, record in enumerate(records(source, start, stop), start=start):
        if isinstance(record, InputError):
            bad.append(row)
            if on_bad_row == "stop":
                break
            continue
        kind, query, partner, count = _content(record)
        if kind not in kinds:
            kinds[kind] = row
        queries.append(_hash(query))
        partners.append(_NONE if partner is None else _hash(partner))
        negatives.append(min(count, _MOST))
        if isinstance(query, str):
            content.update(_said(record).encode())
        else:  # made into tokens: each text has kept its hash
            content.update(b"".join(text.digest for text in texts_of(record)))
        if record.language is not None:
            languages[record.language] += 1
    return Part(
        np.frombuffer(b"".join(queries), np.uint64),
        np.frombuffer(b"".join(partners), np.uint64),
        np.array(negatives, np.uint16),
        np.delete(np.arange(start, stop), np.array(bad, np.int64) - start),
        bad,
        kinds,
        languages,
        content.digest(),
    )


def _content(record: Record) -> tuple[Kind, Any, Any, int]:
    """Kind of a record, its query, what answers it, and how many negatives it has."""
    if isinstance(record, Pairs):
        return "pairs", record.query, record.pos[0], len(record.neg)
    if isinstance(record, Text):
        return "text", record.text, None, 0
    if isinstance(record, Scored):
        return "scored", record.first, record.second, 0
    assert isinstance(record, Labelled)
    return "labelled", record.text, record.label, 0


def _said(record: Record) -> str:
    """All that a record says, in a form that tells where each text ends."""
    if not isinstance(record, Pairs):
        return repr(record)
    said = "\0".join((record.query, *record.pos, "\1", *record.neg))
    rest = record.pos_scores, record.neg_scores, record.prompt
    return said if rest == (None, None, None) else f"{said}\2{rest}"


def _hash(text: Any) -> bytes:
    """Of a text, or of one that was made into tokens and has kept its hash."""
    return content_hash(text) if isinstance(text, str) else text.digest
