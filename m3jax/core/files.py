"""Files that are either whole or not there."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from m3jax.core.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it into place.

    Args:
        path: where the file goes; its folder must exist.
        text: the whole content, written as UTF-8.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_text(folder / "a.txt", "whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    with new_file(path) as file:
        file.write(text)


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Write a file line by line; it is renamed into place only when all went well.

    Args:
        path: where the file goes; its folder must exist.

    Yields:
        The file, open for UTF-8, under a temporary name.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with new_file(path) as file:
        ...     _ = file.write("whole")
        ...     path.exists()
        False
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder; it takes the place of `path` only when all went well.

    Args:
        path: the final name; a folder that is there already is replaced.

    Yields:
        The temporary folder, beside `path`.

    Raises:
        OSError: the parent cannot be written to, or the disk is full.

    Example:
        >>> root = Path(tempfile.mkdtemp())
        >>> with new_folder(root / "model") as folder:
        ...     _ = (folder / "config.json").write_text("{}")
        >>> (root / "model" / "config.json").exists()
        True
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.with_name(f".{path.name}.old.tmp")
    if old.exists() and not path.exists():
        os.replace(old, path)  # killed between the two renames below
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)  # of a killed process
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    )
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def in_bytes(count: int) -> str:
    """How large something is, for messages.

    Example:
        >>> in_bytes(1_000), in_bytes(2_340_000_000)
        ('1,000 bytes', '2.3 GB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count:,} bytes"


@contextmanager
def locked(folder: Path, expected: str, *, do: str) -> Iterator[None]:
    """Keep a folder for this process; one that is not there is no one's.

    The lock is the system's, on the folder itself, and ends with the process however
    that ends. Storage without locks is taken as it is.

    Args:
        folder: to be written to.
        expected: what it should be, for the message.
        do: what to do where it is in use.

    Raises:
        InputError: another process holds it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder, "a folder of no one", do="Wait."):
        ...     (folder / "a").touch()
    """
    if not folder.exists():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = "one that is in use"
            raise InputError(expected, found, where=str(folder), do=do) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
