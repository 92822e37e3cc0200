"""Values out of a row, each checked; errors say under which key they stand."""

import json
import math
from collections.abc import Mapping

from m3jax.core.errors import InputError

_KINDS = {
    bool: "a boolean",
    type(None): "null",
    str: "a string",
    list: "a list",
    int: "a number",
    float: "a number",
    dict: "an object",
}


def json_object(line: bytes | str, *, where: str) -> dict[str, object]:
    """Read a line that holds one JSON object.

    Args:
        line: the line; bytes are read as UTF-8.
        where: the file and line number, for the error message.

    Returns:
        The object.

    Raises:
        InputError: the line is not UTF-8, not JSON, or not an object.

    Example:
        >>> json_object(b'{"a": 1}', where="a.jsonl:1")
        {'a': 1}
    """
    text = utf8(line, where=where)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"an error at column {error.colno} ({error.msg})"
        raise InputError("a line of JSON", found, where=where) from None
    except (ValueError, RecursionError) as error:  # too many digits, too deep
        raise InputError("a line of JSON", str(error), where=where) from None
    if not isinstance(value, dict):
        raise InputError("a JSON object", kind_of(value), where=where)
    return value


def utf8(line: bytes | str, *, where: str) -> str:
    """Decode a line.

    Args:
        line: bytes in UTF-8; a string is returned as it is.
        where: the file and line number, for the error message.

    Returns:
        The text.

    Raises:
        InputError: the bytes are not UTF-8.

    Example:
        >>> utf8("né".encode(), where="a.jsonl:1")
        'né'
    """
    if isinstance(line, str):
        return line
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} at offset {error.start} of the line"
        raise InputError(
            "UTF-8", byte, where=where, do="Save the file as UTF-8."
        ) from None


def required(row: Mapping[str, object], key: str, where: str = "") -> object:
    """Take a value that must be there, of any kind, null included.

    Args:
        row: the row, or an object in it.
        key: the key.
        where: path of the object inside the row, e.g. `messages[0]`; "" is the row.

    Returns:
        The value.

    Raises:
        InputError: there is no such key.

    Example:
        >>> required({"id": 7}, "id")
        7
    """
    if key not in row:
        found = f"only {', '.join(map(repr, row))}" if row else "an empty object"
        raise InputError(f"the key {key!r}", found, where=where)
    return row[key]


def string(row: Mapping[str, object], key: str, where: str = "") -> str:
    """Take a string that must be there; it may be empty.

    Args:
        row: the row, or an object in it.
        key: the key.
        where: path of the object inside the row; "" is the row itself.

    Returns:
        The string.

    Raises:
        InputError: there is no such key, or it holds something else.

    Example:
        >>> string({"_id": "q1"}, "_id")
        'q1'
    """
    return as_string(required(row, key, where), inside(where, key))


def optional_string(row: Mapping[str, object], key: str, where: str = "") -> str | None:
    """Take a string that may be absent or null.

    Args:
        row: the row, or an object in it.
        key: the key.
        where: path of the object inside the row; "" is the row itself.

    Returns:
        The string, or None.

    Raises:
        InputError: the key holds something else.

    Example:
        >>> optional_string({"title": None}, "title") is None
        True
    """
    value = row.get(key)
    return None if value is None else as_string(value, inside(where, key))


def text(row: Mapping[str, object], key: str, where: str = "") -> str:
    """Take a string that must be there and hold more than white space.

    Args:
        row: the row, or an object in it.
        key: the key.
        where: path of the object inside the row; "" is the row itself.

    Returns:
        The text.

    Raises:
        InputError: there is no such key, it holds something else, or no words.

    Example:
        >>> text({"query": "what is slerp?"}, "query")
        'what is slerp?'
        >>> text({"query": " "}, "query")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: query: expected a text, found only white space
    """
    return as_text(required(row, key, where), inside(where, key))


def as_string(value: object, where: str) -> str:
    """Check that a value is a string that a tokenizer can read.

    Args:
        value: the value.
        where: its path inside the row.

    Returns:
        The value.

    Raises:
        InputError: it is something else, or holds half of a surrogate pair.

    Example:
        >>> as_string("", "title")
        ''
    """
    if not isinstance(value, str):
        raise InputError("a string", kind_of(value), where=where)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell one; no tokenizer can read it
            found = "half of a surrogate pair"
            raise InputError("Unicode text", found, where=where) from None
    return value


def as_text(value: object, where: str) -> str:
    """Check that a value is a string with more than white space in it.

    Args:
        value: the value.
        where: its path inside the row.

    Returns:
        The value.

    Raises:
        InputError: it is something else.

    Example:
        >>> as_text("salt", "pos[0]")
        'salt'
    """
    text = as_string(value, where)
    if not text or text.isspace():
        found = "only white space" if text else "an empty string"
        raise InputError("a text", found, where=where)
    return text


def as_strings(value: object, where: str) -> tuple[str, ...]:
    """Check that a value is a list of strings; it and they may be empty.

    Args:
        value: the value.
        where: its path inside the row.

    Returns:
        The strings.

    Raises:
        InputError: it is something else; names the item.

    Example:
        >>> as_strings(["a", ""], "neg")
        ('a', '')
    """
    items = _list(value, "a list of strings", where)
    return tuple([as_string(item, f"{where}[{i}]") for i, item in enumerate(items)])


def as_texts(value: object, where: str) -> tuple[str, ...]:
    """Check that a value is a list of at least one text, each with words in it.

    Args:
        value: the value.
        where: its path inside the row.

    Returns:
        The texts.

    Raises:
        InputError: it is something else; names the item.

    Example:
        >>> as_texts(["salt"], "pos")
        ('salt',)
    """
    items = _list(value, "a list of strings", where)
    if not items:
        raise InputError("at least one text", "an empty list", where=where)
    return tuple([as_text(item, f"{where}[{i}]") for i, item in enumerate(items)])


def as_number(value: object, where: str) -> float:
    """Check that a value is a finite number.

    Args:
        value: the value; a boolean is no number.
        where: its path inside the row.

    Returns:
        The number.

    Raises:
        InputError: it is something else.

    Example:
        >>> as_number(1, "score")
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("a number", kind_of(value), where=where)
    try:
        number = float(value)
    except OverflowError:  # JSON sets no limit to an integer
        number = math.inf
    if not math.isfinite(number):
        raise InputError("a finite number", repr(number), where=where)
    return number


def as_scores(value: object, count: int, where: str) -> tuple[float, ...]:
    """Check that a value is a list of finite numbers, one a text.

    Args:
        value: the value.
        count: how many texts there are.
        where: its path inside the row.

    Returns:
        The numbers.

    Raises:
        InputError: it is something else, or there are more or fewer of them.

    Example:
        >>> as_scores([1, 0.5], 2, "pos_scores")
        (1.0, 0.5)
    """
    items = _list(value, "a list of numbers", where)
    if len(items) != count:
        raise InputError(f"{count} scores, one a text", str(len(items)), where=where)
    return tuple([as_number(item, f"{where}[{i}]") for i, item in enumerate(items)])


def inside(where: str, key: str) -> str:
    """Path of what stands under a key.

    Args:
        where: path of the object that has the key; "" is the row itself.
        key: the key.

    Returns:
        The path.

    Example:
        >>> inside("", "pos"), inside("positive_passages[0]", "title")
        ('pos', 'positive_passages[0].title')
    """
    return f"{where}.{key}" if where else key


def kind_of(value: object) -> str:
    """What JSON calls the type of a value; other types by their own name.

    Args:
        value: the value.

    Returns:
        Its type in words.

    Example:
        >>> kind_of([1]), kind_of(b"a")
        ('a list', 'a value of type bytes')
    """
    return _KINDS.get(type(value)) or f"a value of type {type(value).__name__}"


def _list(value: object, expected: str, where: str) -> list[object]:
    if isinstance(value, list):
        return value
    # A string is a list of letters to Python, and the commonest slip.
    do = 'Put it in a list: ["..."].' if isinstance(value, str) else ""
    raise InputError(expected, kind_of(value), where=where, do=do)
