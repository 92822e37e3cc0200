"""What the columns of a row mean: every layout that is read, and which one fits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from m3jax.core.errors import InputError
from m3jax.data import layout_columns, layout_lists, layout_messages, layout_names
from m3jax.data.fields import json_object
from m3jax.data.records import Record

Row = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """How a row becomes a record.

    Attributes:
        name: of the layout, with its columns where the user has named them.
        read: makes a record of a row; an `InputError` says where inside the row.
        grouped: where a row alone is no record, as in NLI: the columns of premise,
            hypothesis and label, for `sources.nli`.
    """

    name: str
    read: Callable[[Row], Record]
    grouped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """A layout that goes by the names of the columns.

    Attributes:
        name: of the layout.
        keys: the columns, for a message.
        fits: whether a row has them.
        read: makes a record of a row.
    """

    name: str
    keys: str
    fits: Callable[[Row], bool]
    read: Callable[[Row], Record]


def _no_record(row: Row) -> Record:
    raise InputError(
        "a row that is a record by itself",
        f"one of several with the same premise ({', '.join(row)})",
        do="Give its file as a data set of its own.",
    )


def _by_name(name: str, keys: str) -> Known:
    read = _no_record if name == "nli" else partial(layout_names.read, name)
    return Known(name, keys, partial(layout_names.fits, name), read)


# Most specific first: the first that fits is taken.
LAYOUTS = (
    Known(
        "messages",
        "messages, positive_messages, negative_messages or label",
        layout_messages.fits,
        layout_messages.read,
    ),
    Known(
        "tevatron",
        "query or query_text, positive_passages, negative_passages",
        layout_lists.fits_tevatron,
        layout_lists.read_tevatron,
    ),
    Known(
        "flagembedding",
        "query, pos, neg, pos_scores, neg_scores, prompt",
        layout_lists.fits_flagembedding,
        layout_lists.read_flagembedding,
    ),
    _by_name("nli", "premise, hypothesis, label or sentence1, sentence2, gold_label"),
    _by_name("scored", "sentence1, sentence2, score or label"),
    _by_name(
        "pairs",
        "query, question or anchor; positive, answer, passage, document or response; "
        "negative or negative_1, negative_2, ...",
    ),
    _by_name("labelled", "text or sentence, label or label_text"),
    _by_name("text", "text or sentence alone"),
)
_BY_NAME = {known.name: known for known in LAYOUTS}
_BY_ORDER: dict[str, Callable[[Sequence[str], Row], Record]] = {
    "pairs": layout_columns.pairs,
    "scored": layout_columns.scored,
    "labelled": layout_columns.labelled,
    "text": layout_columns.text,
}
NAMES = ("auto", "columns", *_BY_NAME)
_TOLD = ("language", "lang")  # read in every layout, and no text to embed


def find(layout: str, columns: Sequence[str], row: Row) -> Layout:
    """Find the layout of a data set by its name or by its first row.

    Args:
        layout: "auto" looks at the row, most specific layout first; "columns" goes by
            the order of the columns, whatever their names, as sentence-transformers
            does: one is a text; two are a pair, with a score beside them graded; more
            are a query, a positive and negatives. A column named label, labels, score
            or scores is no text. Or the name of one of `LAYOUTS`.
        columns: the columns to read, in that order, where they have other names than
            the known ones; empty = not told.
        row: the first row.

    Returns:
        The layout.

    Raises:
        InputError: no such layout, no layout fits, or a named column is not there.

    Example:
        >>> find("auto", (), {"question": "2 + 2?", "answer": "4"}).name
        'pairs'
        >>> row = {"de": "Salz", "en": "salt"}
        >>> find("auto", ["en", "de"], row).read(row).pos
        ('Salz',)
    """
    if layout not in NAMES:
        raise InputError(f"one of {', '.join(NAMES)}", repr(layout), where="layout")
    if columns or layout == "columns":
        return _ordered(layout, columns, row)
    if layout == "auto":
        known = next((known for known in LAYOUTS if known.fits(row)), None)
        if known is None:
            raise _unknown(row)
    else:
        known = _BY_NAME[layout]
    if known.name != "nli":
        return Layout(known.name, known.read)
    grouped = layout_names.columns("nli", tuple(row))
    if grouped is None:
        raise InputError(f"the columns {known.keys}", ", ".join(row) or "none")
    return Layout(known.name, known.read, grouped)


def parse(line: bytes | str, *, where: str) -> Record:
    """Read one line of JSON in whichever layout it has.

    Args:
        line: the line; bytes are read as UTF-8.
        where: the file and line number, for the error message.

    Returns:
        The record.

    Raises:
        InputError: the line is no JSON object, fits no layout, or is bad; names `where`
            and the key.

    Example:
        >>> parse('{"text": "salt", "label": "food"}', where="a.jsonl:1")
        Labelled(text='salt', label='food', language=None)
        >>> parse('{"query": "2 + 2?", "pos": ["4", 5]}', where="a.jsonl:2")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a.jsonl:2: pos[1]: expected a string, \
found a number
    """
    row = json_object(line, where=where)
    try:
        return find("auto", (), row).read(row)
    except InputError as error:
        raise error.at(where) from None


def _ordered(layout: str, columns: Sequence[str], row: Row) -> Layout:
    names = tuple(columns) or tuple(name for name in row if name not in _TOLD)
    for name in names:
        if name not in row:
            found = ", ".join(row) or "no column"
            raise InputError(f"a column {name!r}", found, where="columns")
    if layout in ("auto", "columns"):
        layout, names = layout_columns.kind(names)
    if layout not in layout_columns.MEANING:
        raise InputError(
            f"no columns, because those of {layout} have fixed names",
            ", ".join(names),
            where="columns",
            do='layout="columns" reads them by their order.',
        )
    layout_columns.require_count(layout, names)
    called = f"{layout}({','.join(names)})"
    if layout == "nli":
        return Layout(called, _no_record, names)
    return Layout(called, partial(_BY_ORDER[layout], names))


def _unknown(row: Row) -> InputError:
    tried = "; ".join(f"{known.name} ({known.keys})" for known in LAYOUTS)
    found = f"the columns {', '.join(row)}" if row else "an empty row"
    do = f"Layouts tried: {tried}. Or name the columns in order: query, positive, ..."
    return InputError("the columns of a known layout", found, do=do)
