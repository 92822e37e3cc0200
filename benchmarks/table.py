"""A table of figures: what was measured, beside what, and what was asked for."""

from collections.abc import Iterable
from typing import NamedTuple


class Row(NamedTuple):
    """A line of the table, as printed; `other` is the plain form or another library."""

    name: str
    ours: str
    other: str = ""
    ratio: str = ""
    target: str = ""


def show(rows: Iterable[Row]) -> None:
    """Print rows as Markdown, each as soon as it is there."""
    print("| case | ours | other | ratio | asked |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
