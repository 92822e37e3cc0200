"""Data sets that TFDS has prepared as ArrayRecord files; no TensorFlow is needed."""

import difflib
import functools
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.sources.arrow_file import first_line
from m3jax.data.sources.stamps import Stamp, stamp, unchanged

_QUIET = threading.Lock()
_NAME = re.compile(r"[A-Za-z]\w*(/\w[\w.-]*)?(:\d+\.\d+\.\d+)?")


@dataclass(frozen=True)
class TfdsRows:
    """Rows of a split of a TFDS data set.

    Texts come as strings, numbers as Python's, and the numbers of a ClassLabel as the
    names of the classes.

    Attributes:
        name: as the user wrote it, after tfds:.
        fingerprint: hex digits that change when the content may have changed.
        folder: where the data set stands, with its configuration and version.
        split: which part, perhaps a slice such as train[:10%].
        files: of the data set.
        classes: names of the classes of each ClassLabel column.
    """

    name: str
    fingerprint: str
    folder: str
    split: str
    files: tuple[Stamp, ...]
    classes: tuple[tuple[str, tuple[str, ...]], ...]

    def __len__(self) -> int:
        """Rows of the split."""
        return len(_open(self.folder, self.split, self.files))

    def row(self, index: int) -> Mapping[str, object]:
        """Read one row."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} rows, and none {index}")
        source = _open(self.folder, self.split, self.files)
        try:
            row = source[index]
        except (RuntimeError, ValueError) as error:
            raise self._damaged(error, index) from None
        return self._plain(row, index)

    def rows(self, start: int, stop: int) -> Iterator[Mapping[str, object]]:
        """Read rows that follow one another."""
        yield from map(self.row, range(start, min(stop, len(self))))

    def where(self, index: int) -> str:
        """Where a row stands, counted from 1."""
        return f"tfds:{self.name}: {self.split} row {index + 1}"

    def check(self) -> None:
        """Raise an `InputError` if a file is no longer the one that was opened."""
        for file in self.files:
            unchanged(file)

    def _plain(self, row: Mapping[str, Any], index: int) -> Mapping[str, object]:
        try:
            plain = {key: _plain(value) for key, value in row.items()}
        except UnicodeDecodeError as error:
            raise self._damaged(error, index) from None
        for column, names in self.classes:
            value = plain.get(column)
            if isinstance(value, int) and 0 <= value < len(names):
                plain[column] = names[value]
        return plain

    def _damaged(self, error: Exception, index: int) -> InputError:
        found = f"one that cannot be read ({first_line(error)})"
        return InputError("a row as TFDS writes it", found, where=self.where(index))


def open_tfds(
    name: str, *, split: str = "train", data_dir: str | Path | None = None
) -> TfdsRows:
    """Open a data set that TFDS has prepared as ArrayRecord files.

    Args:
        name: as TFDS has it: name, name/configuration or name/configuration:1.0.0.
        split: which part, e.g. train or train[:10%].
        data_dir: where data sets stand; by default $TFDS_DATA_DIR or
            ~/tensorflow_datasets, as in TFDS.

    Returns:
        The rows.

    Raises:
        InputError: there is no such data set or split, or it was not prepared, or not
            as ArrayRecord files.

    Example:
        >>> open_tfds("a name")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: tfds:a name: expected tfds:NAME, \
tfds:NAME/CONFIGURATION or either with :1.0.0 for a version, found another kind of name
    """
    where = f"tfds:{name}"
    # Names of other forms ask the network, or bring code of their own.
    if not _NAME.fullmatch(name):
        expected = (
            "tfds:NAME, tfds:NAME/CONFIGURATION or either with :1.0.0 for a version"
        )
        raise InputError(expected, "another kind of name", where=where)
    with _quiet():
        builder = _builder(name, data_dir, where)
        prepared = builder.is_prepared()
    found = f"{builder.info.file_format.value} files" if prepared else "none"
    if found != "array_record files":
        raise InputError(
            "a data set that was prepared as array_record files",
            found,
            where=f"{where} in {builder.data_dir}",
            do=f"Run `tfds build {name} --file_format=array_record`.",
        )
    try:
        instructions = builder.info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        expected = f"a split of {', '.join(builder.info.splits)}"
        found = f"{split!r} ({first_line(error)})"
        raise InputError(expected, found, where=where) from None
    files = tuple(stamp(instruction.filename) for instruction in instructions)
    classes = tuple(
        (column, tuple(feature.names))
        for column, feature in builder.info.features.items()
        if type(feature).__name__ == "ClassLabel" and feature.names
    )
    content = [builder.info.full_name, split]
    content += [(Path(file.path).name, *file[1:]) for file in files]
    digest = blake2b(repr(content).encode(), digest_size=16).hexdigest()
    return TfdsRows(name, digest, str(builder.data_dir), split, files, classes)


def _builder(name: str, data_dir: str | Path | None, where: str) -> Any:
    import tensorflow_datasets as tfds  # takes half a second

    place = None if data_dir is None else str(data_dir)
    try:
        return tfds.builder(name, data_dir=place, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        known = cast(Any, tfds.list_builders)(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"a data set of {place or 'TFDS or in its folder'}",
            "none of this name",
            where=where,
            do=f"Did you mean tfds:{near[0]}?" if near else "",
        ) from None
    except (ValueError, AssertionError) as error:  # a configuration, a version
        found = first_line(error).rpartition('": ')[2].partition(". ")[0]
        raise InputError("a data set of TFDS", found, where=where) from None


@functools.lru_cache(maxsize=64)
def _open(folder: str, split: str, files: tuple[Stamp, ...]) -> Any:
    """The split, open in this process."""
    import tensorflow_datasets as tfds

    with _quiet():
        builder: Any = cast(Any, tfds.builder_from_directory)(folder)
        return builder.as_data_source(split)


@contextmanager
def _quiet() -> Iterator[None]:
    """TFDS logs what the errors here say too."""
    logger = logging.getLogger("absl")
    with _QUIET:  # else two threads restore each other's level
        level = logger.level
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def _plain(value: Any) -> Any:
    """Python's own types in place of bytes and of numpy's."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
