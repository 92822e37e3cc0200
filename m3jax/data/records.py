"""What one row of a data set is, and how a line of JSON becomes one."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from m3jax.core.errors import InputError


@dataclass(frozen=True)
class Pairs:
    """A query with passages that answer it and passages that do not.

    Attributes:
        query: what is asked.
        pos: the passages that answer it, at least one.
        neg: passages that do not.
        pos_scores: a teacher's score of each positive.
        neg_scores: a teacher's score of each negative.
        prompt: goes before the query in place of the data set's prompt.
    """

    query: str
    pos: tuple[str, ...]
    neg: tuple[str, ...] = ()
    pos_scores: tuple[float, ...] | None = None
    neg_scores: tuple[float, ...] | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Retrieval:
    """Queries, the passages to search, and judgements of which answer which.

    Attributes:
        queries: query id -> text.
        corpus: passage id -> text.
        qrels: query id -> passage id -> grade; 0 is judged and found wanting.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]


def content_hash(text: str) -> bytes:
    """Hash a text to 8 bytes, the same on every machine and in every run.

    Args:
        text: any text that UTF-8 can encode.

    Returns:
        8 bytes; `np.frombuffer(digest, np.uint32)` gives the two words of a `Batch`.

    Example:
        >>> content_hash("what is slerp?").hex()
        'e2d86c0d7e9b047b'
    """
    return blake2b(text.encode(), digest_size=8).digest()


def parse(line: bytes | str, *, where: str) -> Pairs:
    """Read one line of FlagEmbedding's JSON.

    Its keys are `query`, `pos`, `neg`, `pos_scores`, `neg_scores` and `prompt`. Only
    the first two must be there; for the rest null means absent, and any other key is
    ignored.

    Args:
        line: the line; bytes are read as UTF-8.
        where: the file and line number, for the error message.

    Returns:
        The row.

    Raises:
        InputError: the line is not such a row; names `where` and the key.

    Example:
        >>> parse('{"query": "2 + 2?", "pos": ["4"]}', where="a.jsonl:1")
        Pairs(query='2 + 2?', pos=('4',), neg=(), pos_scores=None, neg_scores=None, \
prompt=None)
        >>> parse('{"query": "2 + 2?", "pos": ["4", 5]}', where="a.jsonl:2")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a.jsonl:2: pos[1]: expected a string, \
found a number
    """
    row = json_object(line, where=where)
    query = string(row, "query", where=where)
    _require_words(query, f"{where}: query")
    pos = _strings(_required(row, "pos", where), f"{where}: pos")
    if not pos:
        raise InputError("at least one text", "an empty list", where=f"{where}: pos")
    for i, text in enumerate(pos):
        _require_words(text, f"{where}: pos[{i}]")
    neg = () if row.get("neg") is None else _strings(row["neg"], f"{where}: neg")
    prompt = None if row.get("prompt") is None else string(row, "prompt", where=where)
    return Pairs(
        query=query,
        pos=pos,
        neg=neg,
        pos_scores=_scores(row.get("pos_scores"), len(pos), f"{where}: pos_scores"),
        neg_scores=_scores(row.get("neg_scores"), len(neg), f"{where}: neg_scores"),
        prompt=prompt,
    )


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
        raise InputError("a JSON object", _kind(value), where=where)
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


def string(row: Mapping[str, object], key: str, *, where: str) -> str:
    """Take a string out of a JSON object.

    Args:
        row: the object.
        key: the key, which must be there.
        where: the file and line number, for the error message.

    Returns:
        The string; it may be empty.

    Raises:
        InputError: there is no such key, or it holds something else.

    Example:
        >>> string({"_id": "q1"}, "_id", where="queries.jsonl:1")
        'q1'
    """
    return _string(_required(row, key, where), f"{where}: {key}")


def _required(row: Mapping[str, object], key: str, where: str) -> object:
    if key not in row:
        found = f"only {', '.join(map(repr, row))}" if row else "an empty object"
        raise InputError(f"the key {key!r}", found, where=where)
    return row[key]


def _string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InputError("a string", _kind(value), where=where)
    try:
        value.encode()
    except UnicodeEncodeError:  # JSON can spell one; no tokenizer can read it
        found = "half of a surrogate pair"
        raise InputError("Unicode text", found, where=where) from None
    return value


def _strings(value: object, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        do = 'Put it in a list: ["..."].'
        raise InputError("a list of strings", "a string", where=where, do=do)
    if not isinstance(value, list):
        raise InputError("a list of strings", _kind(value), where=where)
    return tuple(_string(item, f"{where}[{i}]") for i, item in enumerate(value))


def _require_words(text: str, where: str) -> None:
    if not text.strip():
        found = "only white space" if text else "an empty string"
        raise InputError("a text", found, where=where)


def _scores(value: object, count: int, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise InputError("a list of numbers", _kind(value), where=where)
    if len(value) != count:
        raise InputError(f"{count} scores, one a text", str(len(value)), where=where)
    return tuple(_number(item, f"{where}[{i}]") for i, item in enumerate(value))


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("a number", _kind(value), where=where)
    try:
        number = float(value)
    except OverflowError:  # JSON sets no limit to an integer
        number = math.inf
    if not math.isfinite(number):
        raise InputError("a finite number", repr(number), where=where)
    return number


def _kind(value: object) -> str:
    """What JSON calls the type of a value."""
    names = {bool: "a boolean", type(None): "null", str: "a string", list: "a list"}
    names |= {int: "a number", float: "a number", dict: "an object"}
    return names[type(value)]
