"""Rows of a file of lines, by number."""

import functools
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data import cache, offsets
from m3jax.data.columns import column, growing, kept
from m3jax.data.fields import json_object, utf8
from m3jax.data.lines import open_file
from m3jax.data.sources.stamps import Stamp, stamp, unchanged

Kind = Literal["json", "text"]

_FORMAT = 1  # of the index
_SAMPLE = 2**16  # bytes at both ends of a file that go into its fingerprint
_AT_ONCE = 2**22  # bytes that are read together


@dataclass(frozen=True)
class LineRows:
    """A file with a row a line; blank lines are none.

    Attributes:
        name: as the user wrote it.
        fingerprint: changes with the file.
        stamp: the file as it was when it was opened.
        file: it, or what was unpacked of it.
        index: folder of the byte offsets.
        kind: json for an object a line, text for the line itself.
        count: rows.
    """

    name: str
    fingerprint: str
    stamp: Stamp
    file: str
    index: str
    kind: Kind
    count: int

    def __len__(self) -> int:
        """Rows."""
        return self.count

    def row(self, index: int) -> Mapping[str, object]:
        """Read one row; kind text gives it the key text."""
        starts = column(f"{self.index}/starts.npy")
        if not 0 <= index < self.count:
            raise IndexError(f"row {index} of {self.count}")
        start, stop = int(starts[index]), int(starts[index + 1])
        file = _opened(self)
        block = os.pread(file.descriptor, stop - start, start)
        if len(block) < stop - start:
            block = self._read(start, stop)  # a row above 2 GB, or a shorter file
        try:
            return self._parse(block.partition(b"\n")[0])
        except InputError as error:
            raise error.at(self.where(index)) from None

    def rows(
        self, start: int, stop: int
    ) -> Iterator[Mapping[str, object] | InputError]:
        """Read rows one after another; a bad one comes as its error, without its place.

        Args:
            start: the first row.
            stop: the row after the last.

        Yields:
            What `row` returns or raises.
        """
        for line in self.lines(start, stop):
            try:
                yield self._parse(line)
            except InputError as error:
                yield error

    def lines(self, start: int, stop: int) -> Iterator[bytes]:
        """Read lines one after another, many at a time.

        Args:
            start: the first row.
            stop: the row after the last.

        Yields:
            Each line without its end.

        Raises:
            InputError: the file is no longer the one that was opened.
        """
        starts = column(f"{self.index}/starts.npy")
        while start < stop:
            room = int(starts[start]) + _AT_ONCE
            fits = int(np.searchsorted(starts, room, "right")) - 1
            end = min(max(fits, start + 1), stop)
            block = self._read(int(starts[start]), int(starts[end]))
            found = [line for line in block.split(b"\n") if line.strip()]
            if len(found) != end - start:
                raise self._changed()
            yield from found
            start = end

    def where(self, index: int) -> str:
        """Where a row stands: name and line number, blank lines counted."""
        at = int(column(f"{self.index}/starts.npy")[index])
        block = at // offsets.BLOCK
        before = int(column(f"{self.index}/ends.npy")[:block].sum())
        before += self._read(block * offsets.BLOCK, at).count(b"\n")
        return f"{self.name}:{before + 1}"

    def check(self) -> None:
        """Raise an `InputError` if the file is no longer the one that was opened."""
        unchanged(self.stamp)

    def _parse(self, line: bytes) -> Mapping[str, object]:
        if self.kind == "json":
            return json_object(line, where="")
        return {"text": utf8(line.rstrip(b"\r"), where="")}

    def _read(self, start: int, stop: int) -> bytes:
        buffer, file = np.empty(stop - start, np.uint8), _opened(self)
        if offsets.read_into(file.descriptor, buffer, start) < len(buffer):
            raise self._changed()
        return buffer.tobytes()

    def _changed(self) -> InputError:
        return InputError(
            "the file as it was when it was opened",
            "one that has changed since",
            where=self.name,
            do="Start again.",
        )


def open_lines(
    path: str | Path, *, root: Path, kind: Kind = "json", name: str = ""
) -> LineRows:
    r"""Open a file of lines; where each begins is found once and kept in the cache.

    Args:
        path: a file or URL, plain or packed by gzip or zstd.
        root: the cache.
        kind: json for an object a line, text for the line itself.
        name: what messages call it; by default the path.

    Returns:
        Its rows.

    Raises:
        InputError: there is no such file, it is damaged, or holds no row.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt").write_text("salt\n\nsea\n")
        >>> rows = open_lines(folder / "a.txt", root=folder, kind="text")
        >>> len(rows), rows.row(1), Path(rows.where(1)).name
        (2, {'text': 'sea'}, 'a.txt:3')
    """
    name, path = name or str(path), cache.local(path, root)
    with open_file(path) as file:
        found = stamp(path)
        sample = file.read(_SAMPLE)
        file.seek(-min(_SAMPLE, found.size), os.SEEK_END)
        sample += file.read()
    version = found.size, found.mtime_ns
    seal = blake2b(repr((path.name, version, kind)).encode() + sample, digest_size=16)
    plain = cache.unpacked(path, root, name=name)
    index = cache.entry(root / "lines", path.resolve(), *version, _FORMAT)
    if not index.exists() and cache.drop_older(index):
        print(f"index of {name} is stale: rebuilt", file=sys.stderr)
    facts = kept(
        index, functools.partial(_build, plain, found), what=f"index of {name}"
    )
    if not facts["rows"]:
        raise InputError("a row a line", "an empty file", where=name)
    return LineRows(
        name=name,
        fingerprint=seal.hexdigest(),
        stamp=found,
        file=str(plain),
        index=str(index),
        kind=kind,
        count=facts["rows"],
    )


def _build(plain: Path, found: Stamp, folder: Path) -> dict[str, Any]:
    count = 0
    with (
        open_file(plain) as file,
        growing(folder / "starts.npy", np.int64) as add_starts,
        growing(folder / "ends.npy", np.int64) as add_ends,
    ):
        size = os.fstat(file.fileno()).st_size
        for starts, ends in offsets.line_starts(file.fileno(), size):
            add_starts(starts)
            add_ends(np.array([ends]))
            count += len(starts)
        add_starts(np.array([size]))
    unchanged(found)
    return {"rows": count}


class _Opened:
    """A file that is open until nothing uses it; hold it while its number is used."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self.descriptor)


@functools.lru_cache(maxsize=128)  # a glob may have more files than may be open
def _opened_file(path: str, index: str) -> _Opened:
    del index  # another version of the file has another index
    return _Opened(path)


def _opened(rows: LineRows) -> _Opened:
    return _opened_file(rows.file, rows.index)
