"""Rows that hold chat messages, as ms-swift reads them to train embeddings."""

from collections.abc import Mapping

from m3jax.core.errors import InputError
from m3jax.data import fields
from m3jax.data.layout_lists import language
from m3jax.data.records import Pairs, Scored

_MEDIA = ("images", "videos", "audios")


def fits(row: Mapping[str, object]) -> bool:
    """Whether a row has ms-swift's keys.

    Args:
        row: the row.

    Returns:
        Whether `messages` and `positive_messages` are there.

    Example:
        >>> fits({"messages": [], "positive_messages": []})
        True
    """
    return "messages" in row and "positive_messages" in row


def read(row: Mapping[str, object]) -> Pairs | Scored:
    """Read a row of ms-swift's embedding data.

    `messages` is the query, `positive_messages` and `negative_messages` are lists of
    passages, and a `label` in place of negatives grades the pair. Each is a list of
    messages: a text with the role user (of a passage, also assistant) and perhaps an
    instruction before it with the role system. As in ms-swift, the instruction and a
    space go before the text: that of the query becomes the row's prompt.
    https://github.com/modelscope/ms-swift/blob/main/docs/source_en/BestPractices/Embedding.md

    Args:
        row: the row.

    Returns:
        A graded pair where there is a label, which has no room for a prompt: there the
        instruction stays in the text.

    Raises:
        InputError: a key is missing or holds something else, or not only texts.

    Example:
        >>> query = [{"role": "user", "content": "2 + 2?"}]
        >>> passage = [{"role": "user", "content": "4"}]
        >>> read({"messages": query, "positive_messages": [passage]}).pos
        ('4',)
        >>> row = {"messages": query, "positive_messages": [passage], "label": 0.8}
        >>> read(row)
        Scored(first='2 + 2?', second='4', score=0.8, language=None)
    """
    _require_texts_only(row)
    prompt, query = _turn(fields.required(row, "messages"), "messages", ("user",))
    positives = _passages(row, "positive_messages")
    for i, passage in enumerate(positives):
        fields.as_text(passage, f"positive_messages[{i}]")
    negatives = _passages(row, "negative_messages")
    label = row.get("label")
    if label is None:
        if not positives:
            where = "positive_messages"
            raise InputError("at least one passage", "an empty list", where=where)
        prompt = prompt or None
        return Pairs(query, positives, negatives, prompt=prompt, language=language(row))
    if len(positives) != 1 or negatives:
        found = f"{len(positives)} positives and {len(negatives)} negatives"
        raise InputError("one positive beside a label", found, where="label")
    score = fields.as_number(label, "label")
    return Scored(prompt + query, positives[0], score, language(row))


def _turn(value: object, where: str, roles: tuple[str, ...]) -> tuple[str, str]:
    """Prompt, which may be empty, and text of a list of messages."""
    if not isinstance(value, list):
        raise InputError("a list of messages", fields.kind_of(value), where=where)
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            found = fields.kind_of(message)
            raise InputError("a message", found, where=f"{where}[{i}]")
    told = [message.get("role") for message in value]
    first = 1 if told[:1] == ["system"] else 0
    if len(told) != first + 1 or told[first] not in roles:
        raise InputError(
            f"one message of the {' or '.join(roles)}, with at most a system message "
            "before it",
            ", ".join(map(str, told)) or "an empty list",
            where=where,
        )
    prompt = fields.string(value[0], "content", f"{where}[0]") if first else ""
    text = fields.text(value[first], "content", f"{where}[{first}]")
    return f"{prompt} " if prompt else "", text


def _passages(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        found = fields.kind_of(value)
        raise InputError("a list of lists of messages", found, where=key)
    roles = ("user", "assistant")
    turns = (_turn(item, f"{key}[{i}]", roles) for i, item in enumerate(value))
    return tuple(prompt + text for prompt, text in turns)


def _require_texts_only(row: Mapping[str, object]) -> None:
    for key in row:
        if key.endswith(_MEDIA) and _holds(row[key]):
            # Left out without a word, a text would speak of what is not there.
            raise InputError("a row of texts", f"{key} in it", where=key)


def _holds(value: object) -> bool:
    """Whether there is anything in lists of lists, which may be empty or null."""
    if isinstance(value, list):
        return any(map(_holds, value))
    return value is not None
