"""An index on the disk: what it says of itself, and a folder for each segment."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.inference.segment import Segment

META = "index.json"
_NAME = re.compile(r"\d{5,}")
# By a process that was killed.
_LEFT = re.compile(r"\.(\d{5,}|index\.json)\..*\.tmp")
_KEYS = {"model", "outputs", "dim", "max_length", "storage"}


def begin(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the folder of an index, without a segment; nothing if it is there.

    Raises:
        OSError: it cannot be written.
    """
    if not (folder / META).exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write_text(folder / META, json.dumps(dict(about), indent=2) + "\n")


def add(folder: Path, segment: Segment, number: int) -> Segment:
    """Write one more segment; it is either whole or not there.

    Args:
        folder: of the index.
        segment: in memory.
        number: segments that are there already.

    Returns:
        The segment, mapped from the disk.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    path = folder / _name(number)
    with files.new_folder(path) as new:
        segment.write(new)
    return Segment.open(path)


def write(folder: Path, about: Mapping[str, Any], segments: Sequence[Segment]) -> None:
    """Write a whole index, in place of one that may be there.

    Raises:
        InputError: the folder holds other things.
        OSError: it cannot be written, or the disk is full.
    """
    require_own(folder)
    with files.new_folder(folder) as new:
        begin(new, about)
        for number, segment in enumerate(segments):
            (new / _name(number)).mkdir()
            segment.write(new / _name(number))


def read(folder: Path) -> tuple[dict[str, Any], tuple[Segment, ...]]:
    """Open an index.

    Args:
        folder: of the index.

    Returns:
        What it says of itself, and its segments.

    Raises:
        InputError: a file is missing or damaged, or they do not fit together.
    """
    about = _read_meta(folder / META)
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    names = sorted(names, key=int)
    for number, name in enumerate(names):
        if name != _name(number):
            expected = f"segment {_name(number)}"
            raise InputError(expected, f"{name} next", where=str(folder))
    segments = tuple(Segment.open(folder / name) for name in names)
    for name, segment in zip(names, segments, strict=True):
        said = {
            "outputs": list(segment.heads),
            "storage": segment.storage or about["storage"],
            "dim": about["dim"] if segment.dense is None else segment.dense.width,
        }
        for key, found in said.items():
            if found != about[key]:
                expected = f"{key} {about[key]}, as {META} says"
                raise InputError(expected, f"{found}", where=str(folder / name))
    return about, segments


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
        names = sorted(path.name for path in folder.iterdir())
        others = [name for name in names if not _is_ours(name)]
        if others or (names and META not in names):
            found = f"{[*others, *names][0]!r} in it"
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


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError("an index", "none", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError("JSON", str(error), where=str(path)) from None
    if not isinstance(about, dict) or not _KEYS <= about.keys():
        expected = f"an object with {', '.join(sorted(_KEYS))}"
        raise InputError(expected, "another one", where=str(path))
    return about
