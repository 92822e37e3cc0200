"""Rows with a column for each text, read by the order of their columns."""

from collections.abc import Mapping, Sequence

from m3jax.core.errors import InputError
from m3jax.data import fields
from m3jax.data.layout_lists import language
from m3jax.data.records import Labelled, Pairs, Scored, Text

SCORES = "scores"
# sentence-transformers takes no column of these names for a text.
LABELS = ("label", "labels", "score", SCORES)
COUNTS = {"text": 1, "labelled": 2, "scored": 3, "nli": 3}
MEANING = {
    "text": "the text",
    "labelled": "the text, the label",
    "scored": "two texts, the score",
    "nli": "the premise, the hypothesis, the label",
    "pairs": "the query, the positive, any negatives",
}


def kind(columns: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Tell from the number of columns what they hold, as sentence-transformers does.

    https://sbert.net/docs/sentence_transformer/training_overview.html#dataset-format

    Args:
        columns: in their order. Those in `LABELS` are no texts, wherever they stand.

    Returns:
        "text" (one column), "labelled" (one and a label), "scored" (two and a score) or
        "pairs" (a query, a positive, any negatives), and the columns that it reads,
        texts first.

    Raises:
        InputError: there is no text column.

    Example:
        >>> kind(["label", "a", "b"])
        ('scored', ('a', 'b', 'label'))
        >>> kind(["a", "b", "c"])
        ('pairs', ('a', 'b', 'c'))
    """
    texts = tuple(column for column in columns if column not in LABELS)
    label = tuple(column for column in columns if column in LABELS)[:1]
    if not texts:
        found = ", ".join(columns) or "none"
        raise InputError("a column of texts", found, where="columns")
    if len(texts) == 1:
        return ("labelled", texts + label) if label else ("text", texts)
    if len(texts) == 2 and label and label != (SCORES,):
        return "scored", texts + label
    return "pairs", texts + ((SCORES,) if SCORES in columns else ())


def require_count(layout: str, columns: Sequence[str]) -> None:
    """Check that a layout gets as many columns as it reads.

    Args:
        layout: a key of `MEANING`.
        columns: in their order.

    Raises:
        InputError: there are more or fewer.

    Example:
        >>> require_count("labelled", ["utterance", "intent"])
    """
    count = COUNTS.get(layout, 0)
    if len(columns) != count if count else len(columns) < 2:
        found = ", ".join(columns)
        raise InputError(f"columns for {MEANING[layout]}", found, where="columns")


def pairs(columns: Sequence[str], row: Mapping[str, object]) -> Pairs:
    """Read a query, a positive and negatives.

    Args:
        columns: of the query, of the positive, and of any negatives. All but the query
            may also hold a list of texts; a negative may be absent or null. A column
            named `scores` after them holds a teacher's scores, the positive's first.
        row: the row.

    Returns:
        The record.

    Raises:
        InputError: a column is missing or holds something else.

    Example:
        >>> pairs(["q", "p", "n"], {"q": "2 + 2?", "p": "4", "n": ["5", "6"]}).neg
        ('5', '6')
    """
    query = fields.text(row, columns[0])
    value = fields.required(row, columns[1])
    if isinstance(value, str):
        pos = (fields.as_text(value, columns[1]),)
    else:
        pos = fields.as_texts(value, columns[1])
    neg: tuple[str, ...] = ()
    for column in columns[2:]:
        value = row.get(column)
        if column == SCORES or value is None:
            continue
        if isinstance(value, str):
            neg += (fields.as_string(value, column),)
        else:
            neg += fields.as_strings(value, column)
    scores = row.get(SCORES) if SCORES in columns[2:] else None
    if scores is None:
        return Pairs(query, pos, neg, language=language(row))
    scores = fields.as_scores(scores, len(pos) + len(neg), SCORES)
    own, others = scores[: len(pos)], scores[len(pos) :]
    return Pairs(query, pos, neg, own, others, language=language(row))


def scored(columns: Sequence[str], row: Mapping[str, object]) -> Scored:
    """Read two texts and how alike they are.

    Args:
        columns: of the texts and of the score.
        row: the row.

    Returns:
        The record.

    Raises:
        InputError: a column is missing or holds something else.

    Example:
        >>> scored(["a", "b", "s"], {"a": "salt", "b": "sea", "s": 3})
        Scored(first='salt', second='sea', score=3.0, language=None)
    """
    first, second, score = columns
    return Scored(
        fields.text(row, first),
        fields.text(row, second),
        fields.as_number(fields.required(row, score), score),
        language(row),
    )


def labelled(columns: Sequence[str], row: Mapping[str, object]) -> Labelled:
    """Read a text and its class.

    Args:
        columns: of the text and of the label, a name or a whole number.
        row: the row.

    Returns:
        The record; a number becomes its digits.

    Raises:
        InputError: a column is missing or holds something else.

    Example:
        >>> labelled(["text", "label"], {"text": "salt", "label": 7})
        Labelled(text='salt', label='7', language=None)
    """
    column = columns[1]
    label = fields.required(row, column)
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    elif not isinstance(label, str):
        found = fields.kind_of(label)
        raise InputError("a name or a whole number", found, where=column)
    text = fields.text(row, columns[0])
    return Labelled(text, fields.as_text(label, column), language(row))


def text(columns: Sequence[str], row: Mapping[str, object]) -> Text:
    """Read a text alone.

    Args:
        columns: of the text.
        row: the row.

    Returns:
        The record.

    Raises:
        InputError: the column is missing or holds something else.

    Example:
        >>> text(["body"], {"body": "salt"})
        Text(text='salt', language=None)
    """
    return Text(fields.text(row, columns[0]), language(row))
