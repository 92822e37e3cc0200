"""Files that are either whole or not there."""

import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

    Of several processes that write the same folder at once, the last one to end has
    its place.

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
    with scratch(path) as temporary:
        yield temporary
        with _alone(path):
            _restore(path)
            old = _old(path)
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
            if old.exists():
                shutil.rmtree(old)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path`, and remove it in the end.

    It is locked for as long as it is used. So what killed processes left beside `path`
    is removed first, and what another one still works in is not; nor is anything on
    storage without locks, which cannot tell.

    Args:
        path: what the folder is for; need not be there.

    Yields:
        The temporary folder.

    Raises:
        OSError: the parent cannot be written to.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "model"
        >>> with scratch(path) as folder:
        ...     folder.parent == path.parent
        True
        >>> list(path.parent.iterdir())
        []
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        _restore(path)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            # With another dot in it, it is that of a longer name.
            if "." not in left.name[len(path.name) + 2 : -len(".tmp")]:
                _remove_unless_held(left)
        temporary = Path(
            tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        )
        descriptor = os.open(temporary, os.O_RDONLY)
        with suppress(OSError):  # storage without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        temporary.chmod(0o755)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(descriptor)


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


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process puts something beside `path` or into its place."""
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _wait_for(lock)
    while not _is_at(lock, descriptor):  # who had it before has removed it
        os.close(descriptor)
        descriptor = _wait_for(lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _wait_for(lock: Path) -> int:
    descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT, 0o644)
    with suppress(OSError):  # storage without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _old(path: Path) -> Path:
    """Where a folder is while another one takes its place."""
    return path.with_name(f".{path.name}.old.tmp")


def _restore(path: Path) -> None:
    """End what a process did that was killed when it replaced a folder."""
    old = _old(path)
    if old.exists() and path.exists():
        shutil.rmtree(old)
    elif old.exists():
        os.replace(old, path)


def _remove_unless_held(folder: Path) -> None:
    with suppress(OSError):  # in use, gone meanwhile, or on storage without locks
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
