"""Tables in memory-mapped Arrow files: saved by `datasets`, of its hub, or Parquet."""

import bisect
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m3jax.core.errors import InputError
from m3jax.data.lines import near_name
from m3jax.data.sources import arrow_file, parquet
from m3jax.data.sources.stamps import Stamp, stamp, unchanged

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ArrowRows:
    """Rows of Arrow files one after another, as `datasets` and `open_parquet` write.

    The numbers of a ClassLabel column come as the names of the classes; -1 stands for
    none, and stays.

    Attributes:
        name: as the user wrote it.
        fingerprint: hex digits that change when the content may have changed.
        files: the Arrow files.
        sources: files that these were made of and that the user may change.
    """

    name: str
    fingerprint: str
    files: tuple[Stamp, ...]
    sources: tuple[Stamp, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns in their order."""
        return self._table.columns

    def __len__(self) -> int:
        """Rows of all files."""
        return self._table.ends[-1] if self._table.ends else 0

    def row(self, index: int) -> Mapping[str, object]:
        """Read one row."""
        table = self._table
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows, and none {index}")
        at = bisect.bisect_right(table.ends, index)
        batch = table.batches[at]
        inner = index - table.ends[at] + batch.num_rows
        values = (column[inner].as_py() for column in batch.columns)
        return table.named(dict(zip(table.columns, values, strict=True)))

    def rows(self, start: int, stop: int) -> Iterator[Mapping[str, object]]:
        """Read rows that follow one another, faster than one by one."""
        table = self._table
        for batch, end in zip(table.batches, table.ends, strict=True):
            first = end - batch.num_rows
            low, high = max(start, first), min(stop, end)
            if low < high:
                part = batch.slice(low - first, high - low)
                yield from map(table.named, part.to_pylist())

    def where(self, index: int) -> str:
        """Where a row stands, counted from 1."""
        return f"{self.name}: row {index + 1}"

    def check(self) -> None:
        """Raise an `InputError` if a file is no longer the one that was opened."""
        for file in (*self.sources, *self.files):
            unchanged(file)

    @property
    def _table(self) -> "_Table":
        return _open(self.files)


def open_saved(folder: str | Path, split: str = "train") -> ArrowRows:
    """Open a folder that `save_to_disk` of `datasets` has written.

    Args:
        folder: of a `Dataset` or a `DatasetDict`.
        split: which part of a `DatasetDict`; a `Dataset` is one part.

    Returns:
        The rows.

    Raises:
        InputError: the folder is another one, lacks the split or is damaged.

    Example:
        >>> open_saved("no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no: expected a folder of save_to_disk, with \
state.json or dataset_dict.json, found no such folder
    """
    folder = Path(folder)
    inner = folder
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        if split not in names:
            found = f"{split!r}"
            raise InputError(f"a split of {names}", found, where=str(folder))
        inner = folder / split
    if not (inner / "state.json").is_file():
        raise InputError(
            "a folder of save_to_disk, with state.json or dataset_dict.json",
            "neither" if folder.is_dir() else "no such folder",
            where=str(folder),
            do=near_name(folder) if not folder.exists() else "",
        )
    state = _json(inner / "state.json")
    return _rows(str(folder), _fingerprint(inner, state), _data_files(inner, state))


def open_hub(
    name: str, *, subset: str | None = None, split: str = "train", root: Path
) -> ArrowRows:
    """Open a data set of the Hugging Face hub; no code of it is run.

    It is downloaded once. With HF_HUB_OFFLINE=1 the copy in the cache is taken.

    Args:
        name: its id, e.g. sentence-transformers/all-nli.
        subset: which configuration, e.g. triplet.
        split: which part of it.
        root: folder of the cache.

    Returns:
        The rows.

    Raises:
        InputError: there is no such data set, subset or split, it has to be logged in
            for, it consists of code, or it is not in the cache and there is no network.
    """
    from m3jax.data.sources.hub_dataset import load  # takes a second

    files, fingerprint = load(name, subset=subset, split=split, root=root)
    return _rows(name, fingerprint, files)


def open_parquet(
    paths: Sequence[str | Path], root: Path, *, name: str = ""
) -> ArrowRows:
    """Open Parquet files, converted once to Arrow files in the cache.

    Args:
        paths: the files, which have the same columns.
        root: folder of the cache.
        name: for messages; by default the first path.

    Returns:
        The rows of all files, one after another.

    Raises:
        InputError: a file is missing, truncated, something else, or has other columns
            than the first one; or the cache has too little room.

    Example:
        >>> open_parquet(["no.parquet"], Path("cache"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.parquet: expected a file, found nothing of \
that name
    """
    sources = tuple(stamp(path) for path in paths)
    converted = [parquet.convert(source, root) for source in sources]
    name = name or str(paths[0])
    _same_columns([str(path) for path in paths], converted)
    content = [(Path(file.path).name, file.size, file.mtime_ns) for file in sources]
    digest = blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
    return _rows(name, digest, converted, sources)


@dataclass(frozen=True)
class _Table:
    """Arrow files that are open in this process."""

    columns: tuple[str, ...]
    batches: tuple["pa.RecordBatch", ...]
    ends: tuple[int, ...]
    classes: Mapping[str, Sequence[str]]

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        for column, names in self.classes.items():
            value = row[column]
            if value is not None and 0 <= value < len(names):
                row[column] = names[value]
        return row


@functools.lru_cache(maxsize=256)
def _open(files: tuple[Stamp, ...]) -> _Table:
    opened = [arrow_file.read(file.path) for file in files]
    schemas = [schema for schema, _ in opened]
    batches = tuple(itertools.chain.from_iterable(found for _, found in opened))
    ends = tuple(itertools.accumulate(batch.num_rows for batch in batches))
    classes = arrow_file.classes(schemas[0])
    return _Table(tuple(schemas[0].names), batches, ends, classes)


def _rows(
    name: str,
    fingerprint: str,
    files: Iterable[str | Path],
    sources: tuple[Stamp, ...] = (),
) -> ArrowRows:
    rows = ArrowRows(name, fingerprint, tuple(map(stamp, files)), sources)
    if not rows.files:
        raise InputError("a file of rows", "none", where=name)
    _ = rows.columns  # opened here, so that a damaged file is told now
    return rows


def _same_columns(names: Sequence[str], files: Sequence[Path]) -> None:
    found = [arrow_file.read(str(file))[0].names for file in files]
    for name, columns in zip(names, found, strict=True):
        if columns != found[0]:
            expected = f"the columns of {names[0]}: {', '.join(found[0])}"
            raise InputError(expected, ", ".join(columns), where=name)


def _data_files(folder: Path, state: Mapping[str, Any]) -> list[Path]:
    """Files that state.json lists; only such as lie in the folder."""
    where = str(folder / "state.json")
    listed = state.get("_data_files")
    names = [
        file.get("filename") if isinstance(file, dict) else None
        for file in (listed if isinstance(listed, list) else [])
    ]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError("names of files beside it", repr(name), where=where)
    if state.get("_indices_data_files"):
        raise InputError(
            "rows in their order",
            "a file of row numbers, of datasets before 2.0",
            where=where,
            do="Save it again with a newer datasets.",
        )
    return [folder / str(name) for name in names]


def _fingerprint(folder: Path, state: Mapping[str, Any]) -> str:
    found = state.get("_fingerprint")
    if not isinstance(found, str) or not found:
        where = str(folder / "state.json")
        raise InputError("a _fingerprint", repr(found), where=where)
    return blake2b(found.encode(), digest_size=16).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError("a JSON object", str(error), where=str(path)) from None
