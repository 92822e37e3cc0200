"""Rows that hold lists of passages: FlagEmbedding's and Tevatron's."""

from collections.abc import Mapping

from m3jax.core.errors import InputError
from m3jax.data import fields
from m3jax.data.corpora import passage_text
from m3jax.data.records import Pairs


def fits_flagembedding(row: Mapping[str, object]) -> bool:
    """Whether a row has FlagEmbedding's keys.

    Args:
        row: the row.

    Returns:
        Whether `query` and `pos` are there.

    Example:
        >>> fits_flagembedding({"query": "2 + 2?", "pos": ["4"]})
        True
    """
    return "query" in row and "pos" in row


def read_flagembedding(row: Mapping[str, object]) -> Pairs:
    """Read a row of FlagEmbedding's training data.

    Its keys are `query`, `pos`, `neg`, `pos_scores`, `neg_scores` and `prompt`. Only
    the first two must be there; for the rest null means absent, and any other key is
    ignored, `type` among them.
    https://github.com/FlagOpen/FlagEmbedding/tree/master/examples/finetune/embedder

    Args:
        row: the row.

    Returns:
        The record.

    Raises:
        InputError: a key is missing or holds something else.

    Example:
        >>> read_flagembedding({"query": "2 + 2?", "pos": ["4"], "neg": ["5"]}).neg
        ('5',)
    """
    query = fields.text(row, "query")
    pos = fields.as_texts(fields.required(row, "pos"), "pos")
    neg, prompt = row.get("neg"), row.get("prompt")
    negatives = () if neg is None else fields.as_strings(neg, "neg")
    return Pairs(
        query=query,
        pos=pos,
        neg=negatives,
        pos_scores=_scores(row, "pos_scores", len(pos)),
        neg_scores=_scores(row, "neg_scores", len(negatives)),
        prompt=None if prompt is None else fields.as_string(prompt, "prompt"),
        language=language(row),
    )


def fits_tevatron(row: Mapping[str, object]) -> bool:
    """Whether a row has Tevatron's keys.

    Args:
        row: the row.

    Returns:
        Whether `positive_passages` and `query` or `query_text` are there.

    Example:
        >>> fits_tevatron({"query": "2 + 2?", "positive_passages": []})
        True
    """
    return "positive_passages" in row and ("query" in row or "query_text" in row)


def read_tevatron(row: Mapping[str, object]) -> Pairs:
    """Read a row of Tevatron's training data.

    `query` (or `query_text`), `positive_passages` and `negative_passages`; a passage
    has `text` and perhaps `title`, which goes before it with a space. Other keys, the
    ids among them, are ignored.
    https://github.com/texttron/tevatron/blob/main/docs/datasets.md

    Args:
        row: the row.

    Returns:
        The record.

    Raises:
        InputError: a key is missing or holds something else.

    Example:
        >>> passage = {"docid": "7", "title": "Sum", "text": "It is 4."}
        >>> read_tevatron({"query": "2 + 2?", "positive_passages": [passage]}).pos
        ('Sum It is 4.',)
    """
    query = fields.text(row, "query_text" if "query_text" in row else "query")
    positives = _passages(row, "positive_passages")
    if not positives:
        where = "positive_passages"
        raise InputError("at least one passage", "an empty list", where=where)
    for i, passage in enumerate(positives):
        fields.as_text(passage, f"positive_passages[{i}]")
    negatives = _passages(row, "negative_passages")
    return Pairs(query, positives, negatives, language=language(row))


def language(row: Mapping[str, object]) -> str | None:
    """Take the language that a row tells, for tables only.

    Args:
        row: the row.

    Returns:
        `language`, or else `lang`; None where neither is a string.

    Example:
        >>> language({"lang": "ko"})
        'ko'
    """
    value = row.get("language") or row.get("lang")
    return value if isinstance(value, str) else None


def _scores(
    row: Mapping[str, object], key: str, count: int
) -> tuple[float, ...] | None:
    value = row.get(key)
    return None if value is None else fields.as_scores(value, count, key)


def _passages(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InputError("a list of passages", fields.kind_of(value), where=key)
    texts = []
    for i, passage in enumerate(value):
        where = f"{key}[{i}]"
        if not isinstance(passage, dict):
            found = fields.kind_of(passage)
            raise InputError("an object with a text", found, where=where)
        texts.append(passage_text(passage, where))
    return tuple(texts)
