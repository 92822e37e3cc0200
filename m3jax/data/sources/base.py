"""What every source is: rows by number, and records made of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from m3jax.core.errors import InputError
from m3jax.data import layouts
from m3jax.data.records import Record


class Rows(Protocol):
    """Rows of a file or table by number, before it is known what they mean.

    Values are small to pickle: files are opened in each process when first read. A
    method `rows(start, stop)`, which yields rows and the errors of bad ones, is used
    where there is one and many are read.
    """

    @property
    def name(self) -> str:
        """As the user wrote it, for messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that change when the content may have changed."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> Mapping[str, object]:
        """One row; `InputError` where it cannot be read."""
        ...

    def where(self, index: int) -> str:
        """Where a row stands, e.g. `a.jsonl:17`; may be slow."""
        ...

    def check(self) -> None:
        """Raise an `InputError` if the rows are no longer those that were opened."""
        ...


class Source(Protocol):
    """Records by number: a `grain.sources.RandomAccessDataSource`.

    The functions `records` and `where` use the methods `block(start, stop)` and
    `where(index)` of a source that has them.
    """

    @property
    def name(self) -> str:
        """As the user wrote it, for messages."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digits that change when the content may have changed."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """One record; `InputError` where the row is bad."""
        ...

    def check(self) -> None:
        """Raise an `InputError` if the rows are no longer those that were opened."""
        ...


@dataclass(frozen=True)
class Read:
    """Rows, each read in the same layout.

    Attributes:
        rows: where they stand.
        layout: what their columns mean.
    """

    rows: Rows
    layout: layouts.Layout

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.rows.name

    @property
    def fingerprint(self) -> str:
        """Of the rows and of how they are read."""
        return f"{self.rows.fingerprint}-{self.layout.name}"

    def __len__(self) -> int:
        """Rows, good and bad."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        """Read one row; a bad one is told with where it stands."""
        row = self.rows.row(index)
        try:
            return self.layout.read(row)
        except InputError as error:
            raise error.at(self.rows.where(index)) from None

    def block(self, start: int, stop: int) -> Iterator[Record | InputError]:
        """Read records one after another, as `records` does.

        Args:
            start: the first row.
            stop: the row after the last.

        Yields:
            A record, or the error of a bad row.
        """
        for row in rows_between(self.rows, start, stop):
            if isinstance(row, InputError):
                yield row
                continue
            try:
                yield self.layout.read(row)
            except InputError as error:
                yield error

    def where(self, index: int) -> str:
        """Where a row stands; may be slow."""
        return self.rows.where(index)

    def check(self) -> None:
        """Raise an `InputError` if the rows are no longer those that were opened."""
        self.rows.check()


def records(source: Source, start: int, stop: int) -> Iterator[Record | InputError]:
    """Read records one after another: faster than one by one where a source can.

    Args:
        source: its method `block(start, stop)` is used if it has one.
        start: the first row.
        stop: the row after the last.

    Yields:
        A record, or the error of a bad row, which need not say where it stands:
        `source[index]` raises the one that does.

    Example:
        >>> from m3jax.data.records import Text
        >>> list(records([Text("salt"), Text("sea")], 1, 2))
        [Text(text='sea', language=None)]
    """
    own: Any = getattr(source, "block", None)
    if own is not None:
        yield from own(start, stop)
        return
    for index in range(start, stop):
        try:
            yield source[index]
        except InputError as error:
            yield error


def where(source: Source, index: int) -> str:
    """Where a row of a source stands, as well as the source can tell.

    Args:
        source: its method of the same name is used if it has one.
        index: the row.

    Returns:
        E.g. `a.jsonl:17`.
    """
    own: Any = getattr(source, "where", None)
    return own(index) if own is not None else f"{source.name}: row {index + 1}"


def bad_row(source: Source, index: int) -> InputError:
    """What is wrong with a bad row, and where it stands.

    Args:
        source: of the row.
        index: of a row that `records` gave an error for.

    Returns:
        The error to raise.

    Raises:
        InputError: the source is no longer the one that was opened.
    """
    try:
        source[index]
    except InputError as error:
        return error
    source.check()
    place = where(source, index)
    return InputError("the row as it was", "one that has changed", where=place)


def rows_between(
    rows: Rows, start: int, stop: int
) -> Iterator[Mapping[str, object] | InputError]:
    """Read rows one after another: faster than one by one where they can.

    Args:
        rows: their method `rows(start, stop)` is used if they have one.
        start: the first row.
        stop: the row after the last.

    Yields:
        A row, or the error of a bad one, which need not say where it stands:
        `rows.row(index)` raises the one that does.
    """
    own: Any = getattr(rows, "rows", None)
    if own is not None:
        yield from own(start, stop)
        return
    for index in range(start, stop):
        try:
            yield rows.row(index)
        except InputError as error:
            yield error
