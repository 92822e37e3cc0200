"""Rows of texts on a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_LINES, _CHARACTERS = 2, 200
# Control characters could steer the terminal; tab and line feed do no harm.
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10}, "\ufffd")


def shorten(text: str) -> str:
    r"""The first lines of a text, for one cell of a table.

    Example:
        >>> shorten("name\n\n  code\nmore")
        'name\n  code…'
    """
    lines = [line for line in text.splitlines() if line.strip()]
    shown = "\n".join(lines[:_LINES])
    cut = len(lines) > _LINES or len(shown) > _CHARACTERS
    return shown[:_CHARACTERS] + ("…" if cut else "")


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]
) -> None:
    """Print a table as wide as the terminal; its last column is text.

    Args:
        title: what stands above; a long one is cut.
        columns: names; a name that ends with ">" is of a column of numbers.
        rows: cells.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_plain(shorten(title)))
    for name in columns[:-1]:
        right = name.endswith(">")
        table.add_column(
            name.rstrip(">"), justify="right" if right else "left", overflow="fold"
        )
    table.add_column(columns[-1], ratio=1)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in (*row[:-1], shorten(row[-1]))))
    Console().print(table)


def _plain(text: str) -> "Text":
    """A text of which nothing is read as markup, or by the terminal."""
    from rich.text import Text

    return Text(text.translate(_CONTROLS))
