"""ArrayRecord files: JSON objects in any layout, or tokenised by m3jax.prepare."""

import bisect
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from m3jax.core.errors import InputError
from m3jax.data import tokenised
from m3jax.data.fields import json_object
from m3jax.data.lines import near_name
from m3jax.data.records import Record
from m3jax.data.sources.stamps import Stamp, stamp, unchanged

PREPARED = "prepared.json"
FORMAT = 1
_OPEN_FILES = 512  # at most, in a process
_AT_ONCE = 1000  # records
_DO = "Copy or write it again."


@dataclass(frozen=True)
class RecordFiles:
    """Records of ArrayRecord files by number, as bytes.

    Attributes:
        files: one after another.
        ends: number of records up to the end of each.
    """

    files: tuple[Stamp, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        """Records of all files."""
        return self.ends[-1] if self.ends else 0

    def read(self, index: int) -> bytes:
        """One record; `InputError` where it is damaged."""
        file, inner = self._place(index)
        try:
            return _reader(file).read([inner])[0]
        except RuntimeError as error:
            raise _damaged(error, self.where(index)) from None

    def between(self, start: int, stop: int) -> Iterator[bytes | InputError]:
        """Records that follow one another, faster than one by one.

        Args:
            start: the first.
            stop: the one after the last.

        Yields:
            A record, or the error of one that is damaged.
        """
        starts = (0, *self.ends)
        for file, first, end in zip(self.files, starts, self.ends, strict=False):
            low, high = max(start, first), min(stop, end)
            for at in range(low, high, _AT_ONCE):
                last = min(at + _AT_ONCE, high)
                try:
                    yield from _reader(file).read(at - first, last - first)
                except RuntimeError:  # tells not which
                    yield from map(self._record_or_error, range(at, last))

    def where(self, index: int) -> str:
        """File and number of a record, counted from 1."""
        file, inner = self._place(index)
        return f"{file.path}: record {inner + 1}"

    def check(self) -> None:
        """Raise an `InputError` if a file is no longer the one that was opened."""
        for file in self.files:
            unchanged(file)

    def _record_or_error(self, index: int) -> bytes | InputError:
        try:
            return self.read(index)
        except InputError as error:
            return error

    def _place(self, index: int) -> tuple[Stamp, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"there are {len(self)} records, and none {index}")
        at = bisect.bisect_right(self.ends, index)
        return self.files[at], index - (self.ends[at - 1] if at else 0)


@dataclass(frozen=True)
class ArrayRecordRows:
    """Rows of ArrayRecord files whose records are JSON objects.

    Attributes:
        name: as the user wrote it.
        fingerprint: hex digits that change when the content may have changed.
        records: the files.
    """

    name: str
    fingerprint: str
    records: RecordFiles

    def __len__(self) -> int:
        """Records of all files."""
        return len(self.records)

    def row(self, index: int) -> Mapping[str, object]:
        """Read one row."""
        return _object(self.records.read(index), self.where(index))

    def rows(
        self, start: int, stop: int
    ) -> Iterator[Mapping[str, object] | InputError]:
        """Read rows that follow one another, faster than one by one.

        Args:
            start: the first.
            stop: the one after the last.

        Yields:
            A row, or the error of a bad one.
        """
        for data in self.records.between(start, stop):
            try:
                yield data if isinstance(data, InputError) else _object(data, "")
            except InputError as error:
                yield error

    def where(self, index: int) -> str:
        """File and number of a row, counted from 1."""
        return self.records.where(index)

    def check(self) -> None:
        """Raise an `InputError` if a file is no longer the one that was opened."""
        self.records.check()


@dataclass(frozen=True)
class Prepared:
    """Tokenised records that `python -m m3jax.prepare` wrote.

    Their texts are `tokenised.TokenText`: prompts are put before them, and what was
    longer than the lengths here was cut.

    Attributes:
        name: the folder.
        fingerprint: hex digits that change with the content; a copy has the same.
        records: the shards.
        kind: of all records: pairs, text, scored or labelled.
        tokenizer: `tokenised.tokenizer_digest` of the tokenizer.
        query_prompt: what stands before every query.
        passage_prompt: what stands before every passage.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        cut_queries: how many queries were longer.
        cut_passages: how many passages were longer.
        bad_rows: how many rows of the source were left out.
        end_tokens: special tokens that every text ends with; see `tokenised.shorten`.
    """

    name: str
    fingerprint: str
    records: RecordFiles
    kind: str
    tokenizer: str
    query_prompt: str
    passage_prompt: str
    query_length: int
    passage_length: int
    cut_queries: int
    cut_passages: int
    bad_rows: int
    end_tokens: int

    def __len__(self) -> int:
        """Records of all shards."""
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        """One record; its texts are `TokenText`."""
        data = self.records.read(index)
        try:
            return tokenised.decode(data)
        except InputError as error:
            raise error.at(self.where(index)) from None

    def block(self, start: int, stop: int) -> Iterator[Record | InputError]:
        """Read records one after another, as `base.records` does.

        Args:
            start: the first.
            stop: the one after the last.

        Yields:
            A record, or the error of a damaged one.
        """
        for data in self.records.between(start, stop):
            try:
                yield data if isinstance(data, InputError) else tokenised.decode(data)
            except InputError as error:
                yield error

    def where(self, index: int) -> str:
        """Shard and number of a record, counted from 1."""
        return self.records.where(index)

    def check(self) -> None:
        """Raise an `InputError` if a shard is no longer the one that was opened."""
        self.records.check()


def open_array_record(
    paths: Sequence[str | Path], *, name: str = ""
) -> ArrayRecordRows:
    """Open ArrayRecord files whose records are JSON objects, in any layout.

    Args:
        paths: the files.
        name: for messages; by default the first path.

    Returns:
        The rows of all files, one after another.

    Raises:
        InputError: a file is missing, truncated or something else.

    Example:
        >>> open_array_record(["no.array_record"])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.array_record: expected a file, found nothing \
of that name
    """
    records = _files(paths)
    content = [[Path(file.path).name, *file[1:]] for file in records.files]
    fingerprint = _digest(json.dumps(content).encode())
    return ArrayRecordRows(name or str(paths[0]), fingerprint, records)


def open_prepared(folder: str | Path) -> Prepared:
    """Open a folder that `python -m m3jax.prepare` has written to its end.

    Args:
        folder: holds prepared.json and the shards.

    Returns:
        The records.

    Raises:
        InputError: the folder is another one, is not complete, or a shard is damaged.

    Example:
        >>> open_prepared("no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no: expected a folder of m3jax.prepare, with \
prepared.json, found none
    """
    folder = Path(folder)
    path = folder / PREPARED
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        expected = f"a folder of m3jax.prepare, with {PREPARED}"
        do = "" if folder.exists() else near_name(folder)
        do = do if do.startswith("Did") else ""
        raise InputError(expected, "none", where=str(folder), do=do) from None
    content = json_object(data, where=str(path))
    if content.get("format") != FORMAT:
        found = f"{content.get('format')!r}"
        do = "Prepare the data again with this version."
        raise InputError(f"format {FORMAT}", found, where=str(path), do=do)
    try:
        return _prepared(folder, content, _digest(data))
    except (KeyError, TypeError, AttributeError) as error:
        found = f"something else ({type(error).__name__}: {error})"
        raise InputError(
            f"{PREPARED} as m3jax writes it", found, where=str(path)
        ) from None


def _prepared(folder: Path, content: Mapping[str, Any], fingerprint: str) -> Prepared:
    shards = [(folder / Path(s["file"]).name, s["bytes"]) for s in content["shards"]]
    records = _files([path for path, _ in shards])
    for file, (_, size) in zip(records.files, shards, strict=True):
        if file.size != size:
            expected, found = f"a shard of {size:,} bytes", f"{file.size:,}"
            raise InputError(expected, found, where=file.path, do=_DO)
    settings, cut = content["settings"], content["cut"]
    return Prepared(
        name=str(folder),
        fingerprint=fingerprint,
        records=records,
        kind=content["kind"],
        tokenizer=settings["tokenizer"],
        query_prompt=settings["query_prompt"],
        passage_prompt=settings["passage_prompt"],
        query_length=settings["query_length"],
        passage_length=settings["passage_length"],
        cut_queries=cut["queries"],
        cut_passages=cut["passages"],
        bad_rows=content["bad_rows"]["count"],
        end_tokens=content["end_tokens"],
    )


def _files(paths: Sequence[str | Path]) -> RecordFiles:
    files = tuple(stamp(path) for path in paths)
    counts = (_reader(file).num_records() for file in files)
    return RecordFiles(files, tuple(itertools.accumulate(counts)))


@functools.lru_cache(maxsize=_OPEN_FILES)
def _reader(file: Stamp) -> Any:
    """The open file of this process."""
    # It has no type stubs.
    from array_record.python import array_record_module  # type: ignore[import-not-found]

    # Rows are read in any order: what follows one in the file is of no use.
    options = "readahead_buffer_size:0"
    reader = array_record_module.ArrayRecordReader(
        file.path, options=options, file_reader_buffer_size=2**15
    )
    if not reader.ok():  # it would count as a file without records
        try:
            reader.close()
        except RuntimeError as error:
            told = f" ({error})" if str(error) else ""
            found = f"one that is truncated, or something else{told}"
            where = file.path
            raise InputError(
                "an ArrayRecord file", found, where=where, do=_DO
            ) from None
    return reader


def _object(data: bytes, where: str) -> Mapping[str, object]:
    try:
        return json_object(data, where=where)
    except InputError as error:
        raise InputError(
            "a JSON object in each record",
            f"{error.found} where {error.expected} should be",
            where=where,
            do="What m3jax.prepare wrote is read by the name of its folder, and what "
            "TFDS wrote by tfds:NAME.",
        ) from None


def _damaged(error: RuntimeError, where: str) -> InputError:
    found = f"one that is damaged ({error})"
    return InputError("a record as it was written", found, where=where, do=_DO)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
