"""Files as they were when they were opened."""

import os
from pathlib import Path
from typing import NamedTuple

from m3jax.core.errors import InputError
from m3jax.data.lines import near_name


class Stamp(NamedTuple):
    """A file, its size and when it was last written.

    Attributes:
        path: of the file.
        size: bytes.
        mtime_ns: nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int


def stamp(path: str | Path) -> Stamp:
    """Note how a file is now.

    Args:
        path: of the file.

    Returns:
        Its path, size and time.

    Raises:
        InputError: there is no such file.

    Example:
        >>> stamp("no.parquet")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.parquet: expected a file, found nothing of \
that name
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing of that name"
        do = "" if path.exists() else near_name(path)
        raise InputError("a file", found, where=str(path), do=do)
    found = os.stat(path)
    return Stamp(str(path), found.st_size, found.st_mtime_ns)


def unchanged(file: Stamp) -> None:
    """Refuse a file that was written or removed since.

    Args:
        file: as it was.

    Raises:
        InputError: it is another one now, or gone.

    Example:
        >>> unchanged(stamp(__file__))
    """
    try:  # one look: the file may go at any time
        found = os.stat(file.path)
        now = Stamp(file.path, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        now = None
    if now != file:
        raise InputError(
            "the file as it was when it was opened",
            "one that has changed since" if now else "none any more",
            where=file.path,
            do="Start again, and leave the file alone while it is read.",
        )
