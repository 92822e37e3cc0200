"""Queries to search for: from a file, a pipe, or a terminal."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.corpora import few, json_lines, texts
from m3jax.data.fields import utf8
from m3jax.data.lines import name_of
from m3jax.data.retrieval import query_text


def read_queries(
    path: str | Path, *, say: Callable[[str], None] = lambda message: None
) -> list[tuple[str, str]]:
    r"""Read all queries of a file, so that a bad line shows before any is answered.

    Args:
        path: a BEIR folder, whose `queries.jsonl` is read; a .jsonl file, also .gz or
            .zst, with `_id` and `text`; any other file: a query a line, and the number
            of the line is its id. "-" is the standard input.
        say: is told in a line of the blank queries, which are left out.

    Returns:
        Id and text of each.

    Raises:
        InputError: the file cannot be read, has a bad line, or holds no query that is
            not blank.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> query = '{"_id": "q", "title": "not read", "text": "2 + 2?"}'
        >>> _ = (folder / "queries.jsonl").write_text(query)
        >>> read_queries(folder)
        [('q', '2 + 2?')]
    """
    path = Path(path)
    file = json_lines(path, "queries") if path.is_dir() else path
    rows = list(texts(file, read=query_text, what="query"))
    blank = [name for name, text in rows if not text.strip()]
    if len(blank) == len(rows):
        found = f"blank ones only: {few(blank)}"
        raise InputError("queries to look for", found, where=name_of(file))
    if blank:
        words = "is blank and is" if len(blank) == 1 else "are blank and are"
        share = f"{len(blank):,} of {len(rows):,} queries"
        say(f"{name_of(file)}: {share} {words} left out: {few(blank)}")
    return [(name, text) for name, text in rows if text.strip()]


def typed() -> Iterator[str]:
    """Queries from a pipe, or from a terminal until an empty line or Ctrl-D.

    Yields:
        Query after query, as they come.

    Raises:
        InputError: a line is no UTF-8, or a pipe holds no query.
    """
    terminal, asked = sys.stdin.isatty(), False
    for number in itertools.count(1):
        if terminal:
            print("query: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        text = utf8(line, where=f"stdin:{number}").strip()
        if not line or (terminal and not text):
            break
        if text:
            yield text
            asked = True
    if not asked and not terminal:
        raise InputError("a query a line", "none", where="stdin")
