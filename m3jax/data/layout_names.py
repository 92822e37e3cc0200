"""Which columns of a row are which, by their names."""

import re
from collections.abc import Mapping
from functools import lru_cache

from m3jax.core.errors import InputError
from m3jax.data import layout_columns
from m3jax.data.records import Record

QUERY = ("query", "question", "anchor")
POSITIVE = ("positive", "positives", "pos", "answer", "passage", "document", "response")
COUPLES = (
    ("sentence1", "sentence2"),
    ("sentence_A", "sentence_B"),
    ("sentence", "paraphrase"),
)
SCORE = ("score", "label", "similarity_score", "relatedness_score")
TEXT = ("text", "sentence")
LABEL = ("label_text", "label")
NLI = (("premise", "hypothesis", "label"), ("sentence1", "sentence2", "gold_label"))
# What may stand beside a text without changing what the row means.
BESIDE = frozenset(
    "id _id idx index guid docid query_id url source dataset subset split task type "
    "genre domain date year timestamp created added meta metadata language lang".split()
)
_NEGATIVE = re.compile(r"(?:(?:hard_)?neg(?:ative)?s?|rejected_response)(?:_?(\d+))?")
_READERS = {
    "pairs": layout_columns.pairs,
    "scored": layout_columns.scored,
    "labelled": layout_columns.labelled,
    "text": layout_columns.text,
}


def fits(layout: str, row: Mapping[str, object]) -> bool:
    """Whether the columns of a row are surely of a layout.

    A text, a labelled text, and two sentences without a score must stand alone: beside
    a column that nobody knows, they may be part of something else.

    Args:
        layout: pairs, scored, labelled, text or nli.
        row: the row.

    Returns:
        Whether they are.

    Example:
        >>> fits("text", {"id": 7, "text": "salt"})
        True
        >>> fits("text", {"text": "sel", "english": "salt"})
        False
    """
    names = tuple(row)
    found = columns(layout, names)
    if found is None:
        return False
    if layout in ("scored", "nli") or (layout == "pairs" and found[0] in QUERY):
        return True
    beside = BESIDE.union(LABEL) if layout == "labelled" else BESIDE
    return all(name in found or name in beside for name in names)


@lru_cache(maxsize=1024)
def columns(layout: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Find the columns that a layout reads.

    Args:
        layout: pairs, scored, labelled, text or nli.
        names: of the columns of a row.

    Returns:
        The columns in the order in which `layout_columns` reads them; None where one
        is missing.

    Example:
        >>> columns("pairs", ("id", "negative_2", "negative_1", "answer", "question"))
        ('question', 'answer', 'negative_1', 'negative_2')
    """
    if layout == "nli":
        return next((trio for trio in NLI if set(trio) <= set(names)), None)
    if layout == "text":
        return _first(TEXT, names)
    if layout == "labelled":
        text, label = _first(TEXT, names), _first(LABEL, names)
        return text + label if text and label else None
    couple = _couple(names)
    if couple is None:
        return None
    negatives = [name for name in names if _NEGATIVE.fullmatch(name)]
    if layout == "scored":
        score = _first(SCORE, names)
        # Beside negatives, a score is a teacher's and no grade of the pair.
        return couple + score if score and not negatives else None
    negatives.sort(key=_number)
    scores = _first((layout_columns.SCORES,), names) or ()
    return couple + tuple(negatives) + scores


def read(layout: str, row: Mapping[str, object]) -> Record:
    """Read a row by the names of its columns.

    Args:
        layout: pairs, scored, labelled or text.
        row: the row; negatives may be absent in some rows of a file.

    Returns:
        The record.

    Raises:
        InputError: a column is missing or holds something else.

    Example:
        >>> read("pairs", {"question": "2 + 2?", "answer": "4"}).pos
        ('4',)
    """
    found = columns(layout, tuple(row))
    if found is None:
        there = f"only {', '.join(map(repr, row))}" if row else "an empty object"
        raise InputError(f"the columns of the layout {layout}", there)
    return _READERS[layout](found, row)


def _couple(names: tuple[str, ...]) -> tuple[str, ...] | None:
    query, positive = _first(QUERY, names), _first(POSITIVE, names)
    if query and positive:
        return query + positive
    return next((couple for couple in COUPLES if set(couple) <= set(names)), None)


def _first(known: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The first of the known names that is there, alone in a tuple."""
    return next(((name,) for name in known if name in names), None)


def _number(name: str) -> int:
    match = _NEGATIVE.fullmatch(name)
    return int(match[1]) if match and match[1] else 0
