"""An index on the disk: what it says of itself, and a folder for each segment."""

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.inference.manifest import damaged
from m3jax.inference.segment import Segment

META = "index.json"
_NAME = re.compile(r"\d{5,}")
# By a process that was killed.
_LEFT = re.compile(r"\.(\d{5,}|index\.json)\..*\.tmp")
_KEYS = {"model", "outputs", "dim", "max_length", "storage"}
_COUNT = "passages"  # how many there are; null until all are

Rows = Sequence[tuple[str, str]]


class Unfinished(InputError):
    """An index that has not got all its passages yet."""


def extend(
    folder: Path,
    about: Mapping[str, Any],
    segments: Sequence[Segment],
    parts: Iterator[Rows],
    encode: Callable[[Rows], Segment],
) -> list[Segment]:
    """Append passages, a segment at a time; each is either whole or not there.

    The index is unfinished until the last one is, and no other process may write to it.
    Where there is nothing to append, nothing is written.

    Args:
        folder: of the index; made if it is not there.
        about: what it says of itself.
        segments: that are there already.
        parts: id and text of each passage of the segments to come.
        encode: makes a segment of such a part.

    Returns:
        All segments; the new ones mapped from the disk.

    Raises:
        InputError: another process writes to the folder, or has since it was opened.
        OSError: it cannot be written, or the disk is full.
    """
    whole, first = list(segments), next(parts, None)
    if first is None and (not whole or _is_whole(folder, whole)):
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        _require_last(folder, len(whole))
        for left in folder.glob(f".{META}.*.tmp"):  # of a killed process
            left.unlink()
        _write_meta(folder, about, None)
        for rows in itertools.chain([] if first is None else [first], parts):
            segment = encode(rows)
            _require_last(folder, len(whole))  # where storage knows no locks
            path = folder / _name(len(whole))
            with files.new_folder(path) as new:
                segment.write(new)
            whole.append(Segment.open(path))
        _write_meta(folder, about, _count(whole))
    return whole


def write(folder: Path, about: Mapping[str, Any], segments: Sequence[Segment]) -> None:
    """Write a whole index, in place of one that may be there.

    Raises:
        InputError: the folder holds other things, or another process writes to it.
        OSError: it cannot be written, or the disk is full.
    """
    require_own(folder)
    with _locked(folder), files.new_folder(folder) as new:
        for number, segment in enumerate(segments):
            (new / _name(number)).mkdir()
            segment.write(new / _name(number))
        _write_meta(new, about, _count(segments))


def remove(folder: Path) -> None:
    """Remove an index; nothing if it is not there.

    Raises:
        InputError: the folder holds other things, or another process writes to it.
        OSError: it cannot be removed.
    """
    require_own(folder)
    if folder.exists():
        with _locked(folder):
            shutil.rmtree(folder)


def read(folder: Path) -> tuple[dict[str, Any], tuple[Segment, ...]]:
    """Open an index, finished or not.

    Args:
        folder: of the index.

    Returns:
        What it says of itself, and the segments that are there.

    Raises:
        InputError: a file is missing or damaged, or they do not fit together.
    """
    about = _read_meta(folder / META)
    about.pop(_COUNT, None)
    there = names(folder)
    for number, name in enumerate(there):
        if name != _name(number):
            raise damaged(f"segment {_name(number)}", f"{name} next", folder)
    segments = tuple(Segment.open(folder / name) for name in there)
    for name, segment in zip(there, segments, strict=True):
        said = {
            "outputs": list(segment.heads),
            "storage": segment.storage or about["storage"],
            "dim": about["dim"] if segment.dense is None else segment.dense.width,
        }
        for key, found in said.items():
            if found != about[key]:
                expected = f"{key} {about[key]}, as {META} says"
                raise damaged(expected, f"{found}", folder / name)
    return about, segments


def names(folder: Path) -> list[str]:
    """Name the segments that are there, in order; none if the folder is not there.

    Example:
        >>> names(Path("no"))
        []
    """
    if not folder.is_dir():
        return []
    found = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=int)


def require_whole(folder: Path, segments: Sequence[Segment]) -> None:
    """Refuse what a build left that was killed, or is not done yet.

    Args:
        folder: of the index.
        segments: that are there.

    Raises:
        Unfinished: says how many passages there are.
    """
    if not _is_whole(folder, segments):
        count = _count(segments)
        raise Unfinished(
            "a finished index",
            f"one with {count:,} passage{'s' * (count != 1)} so far",
            where=str(folder),
            do="Build it again from the same corpus (--corpus), which goes on there.",
        )


def require_own(folder: Path) -> None:
    """Refuse to write into what is no index.

    Args:
        folder: need not exist, and may be empty.

    Raises:
        InputError: it is a file, or holds other things.
    """
    if not folder.exists():
        return
    found = None
    if not folder.is_dir():
        found = "a file"
    else:
        there = sorted(path.name for path in folder.iterdir())
        others = [name for name in there if not _is_ours(name)]
        if META not in there:  # whoever was killed so early has left no segment
            others += filter(_NAME.fullmatch, there)
        if others:
            found = f"{others[0]!r} in it"
    if found is not None:
        raise InputError(
            "a new folder, or one that was saved before",
            found,
            where=str(folder),
            do="Name another folder.",
        )


def _is_ours(name: str) -> bool:
    return name == META or bool(_NAME.fullmatch(name) or _LEFT.fullmatch(name))


def _name(number: int) -> str:
    return f"{number:05d}"


def _count(segments: Sequence[Segment]) -> int:
    return sum(map(len, segments))


def _is_whole(folder: Path, segments: Sequence[Segment]) -> bool:
    return _read_meta(folder / META).get(_COUNT) == _count(segments)


def _locked(folder: Path) -> AbstractContextManager[None]:
    """Let no other process write to an index."""
    expected = "an index that no other process writes to"
    do = "Wait until the other one has ended, then run the same again."
    return files.locked(folder, expected, do=do)


def _require_last(folder: Path, count: int) -> None:
    """Refuse to write over segments that came after an index was opened."""
    found = len(names(folder))
    if found != count:
        raise InputError(
            f"{count:,} segments, as when the index was opened",
            f"{found:,}",
            where=str(folder),
            do="Another process has changed it: open it again and extend that.",
        )


def _write_meta(folder: Path, about: Mapping[str, Any], count: int | None) -> None:
    text = json.dumps({**about, _COUNT: count}, indent=2)
    files.write_text(folder / META, f"{text}\n")


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("an index", "none", where=str(path)) from None
    except (OSError, ValueError):
        raise damaged("JSON", "something else", path) from None
    if not isinstance(about, dict) or not _KEYS <= about.keys():
        raise damaged(f"an object with {', '.join(sorted(_KEYS))}", "another one", path)
    return about
