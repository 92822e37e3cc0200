"""A corpus to search or to encode, passage by passage."""

from collections.abc import Callable, Collection, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.fields import json_object, optional_string, string, utf8
from m3jax.data.lines import STDIN, lines, name_of

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_NAMED = 3  # ids in a message, of as many as there are


def passages(path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Read a corpus of any size, passage by passage.

    No text is kept; of each `_id` 16 bytes are, to notice one that comes twice. After
    the first that does, the rest is only read to count the others.

    Args:
        path: a BEIR folder; a .jsonl file, also .gz or .zst, with `_id`, `text` and
            perhaps `title`, which goes before the text; any other file: a passage a
            line, and the number of the line is its id. "-" is the standard input, of
            either kind: JSON lines if the first begins with {.

    Returns:
        Id and text, one after the other.

    Raises:
        InputError: the file cannot be read, holds no passage, or has a bad line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.txt")
        >>> _ = file.write_text("salt\n\nsea\n")
        >>> list(passages(file))
        [('1', 'salt'), ('3', 'sea')]
    """
    return texts(corpus_file(path), read=passage_text, what="passage")


def texts(
    path: Path, *, read: Callable[[Mapping[str, object]], str], what: str
) -> Iterator[tuple[str, str]]:
    r"""Read a file of passages or of queries, as `passages` does.

    Args:
        path: .jsonl, also .gz or .zst; a text a line; or "-", of either kind.
        read: takes the text out of an object.
        what: one of the texts is, for messages.

    Yields:
        Id and text.

    Raises:
        InputError: the file cannot be read, holds no text, or has a bad line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = file.write_text('{"_id": "q", "text": "salt"}')
        >>> list(texts(file, read=passage_text, what="query"))
        [('q', 'salt')]
    """
    json_lines = path.name.endswith(JSON_LINES)
    seen: set[bytes] = set()
    again: dict[str, str] = {}  # id -> where
    where = ""
    for where, line in lines(path):
        if str(path) == STDIN and not seen:
            json_lines = line.lstrip().startswith(b"{")
        if json_lines:
            name, text = named(line, where=where, read=read)
        else:
            name, text = where.rpartition(":")[2], utf8(line, where=where)
        known = blake2b(name.encode(), digest_size=16).digest()
        if known in seen:
            again.setdefault(name, where)
        seen.add(known)
        if not again:
            yield name, text
    if again:
        raise twice(again)
    if not where:
        raise InputError(f"a {what} a line", "an empty file", where=name_of(path))


def count_lines(path: str | Path) -> int | None:
    """Count the passages of a corpus without reading them; None for a pipe.

    Raises:
        InputError: the file cannot be read.

    Example:
        >>> count_lines("-") is None
        True
    """
    path = corpus_file(path)
    regular = str(path) != STDIN and (path.is_file() or not path.exists())
    return sum(1 for _ in lines(path)) if regular else None


def corpus_file(path: str | Path) -> Path:
    """The file itself, or in a BEIR folder its corpus.

    Raises:
        InputError: the folder holds no corpus.

    Example:
        >>> corpus_file("a.txt").name
        'a.txt'
    """
    path = Path(path)
    return json_lines(path, "corpus") if path.is_dir() else path


def json_lines(folder: Path, stem: str) -> Path:
    """Find a file of JSON lines, plain or packed.

    Args:
        folder: where it stands.
        stem: its name without the endings.

    Returns:
        The file.

    Raises:
        InputError: the folder has none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "corpus.jsonl.gz").touch()
        >>> json_lines(folder, "corpus").name
        'corpus.jsonl.gz'
    """
    names = [stem + ending for ending in JSON_LINES]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise InputError(
        f"{', '.join(names[:-1])} or {names[-1]}", "none", where=str(folder)
    )


def named(
    line: bytes, *, where: str, read: Callable[[Mapping[str, object]], str]
) -> tuple[str, str]:
    """Read a line of a BEIR file.

    Args:
        line: a JSON object with an `_id`.
        where: the file and line number, for the error message.
        read: takes the text out of the object.

    Returns:
        Id and text.

    Raises:
        InputError: the line is no such object.

    Example:
        >>> named(b'{"_id": "p", "text": "salt"}', where="a:1", read=passage_text)
        ('p', 'salt')
    """
    row = json_object(line, where=where)
    try:
        return string(row, "_id"), read(row)
    except InputError as error:
        raise error.at(where) from None


def twice(again: Mapping[str, str]) -> InputError:
    """What is wrong with a file in which an `_id` comes more than once.

    Args:
        again: id -> where it comes the second time, in the order of the file.

    Returns:
        The error, at the first of them.

    Example:
        >>> str(twice({"p": "corpus.jsonl:2", "q": "corpus.jsonl:9"}))
        "corpus.jsonl:2: _id: expected a new _id, found 2 again: 'p', 'q'"
    """
    found = f"{len(again):,} again: {few(again)}"
    return InputError("a new _id", found, where=f"{next(iter(again.values()))}: _id")


def few(names: Collection[str]) -> str:
    """Name the first few of many ids.

    Args:
        names: the ids.

    Returns:
        At most three of them, and dots where there are more.

    Example:
        >>> few(["a", "b"]), few(["a", "b", "c", "d"])
        ("'a', 'b'", "'a', 'b', 'c', ...")
    """
    shown = ", ".join(map(repr, islice(names, _NAMED)))
    return f"{shown}, ..." if len(names) > _NAMED else shown


def passage_text(row: Mapping[str, object], where: str = "") -> str:
    """Make a passage of its title and its text, as BEIR and Tevatron do.

    Args:
        row: an object with `text` and perhaps `title`.
        where: path of the object inside its row; "" is the row itself.

    Returns:
        Title, space and text; it may be empty.

    Raises:
        InputError: one of them is no string, or there is no text.

    Example:
        >>> passage_text({"title": "Sum", "text": "It is 4."})
        'Sum It is 4.'
    """
    title = optional_string(row, "title", where) or ""
    return f"{title} {string(row, 'text', where)}".strip()
