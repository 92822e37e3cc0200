"""Files that are made once of the user's data: fetched, unpacked and index files."""

import errno
import fcntl
import glob
import io
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from m3jax.core.errors import InputError
from m3jax.core.files import in_bytes
from m3jax.core.progress import bar
from m3jax.data import packed
from m3jax.data.lines import open_file

BESIDE = "beside"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BLOCK = 2**22
# What file systems call the version of a file, in lower case, without "_".
_VERSIONS = (
    *("etag", "md5hash", "crc32c", "checksum", "sha256", "generation", "mtime"),
    *("lastmodified", "modified", "updated", "created"),
)


def root(cache: str | None, path: str | Path) -> Path:
    """Folder that what is made of a file goes to.

    Args:
        cache: the folder; None takes the user's cache folder, "beside" a folder .m3jax
            beside the file.
        path: the file.

    Returns:
        The folder; it need not exist.

    Raises:
        InputError: something is wanted beside a URL.

    Example:
        >>> root("beside", "/data/train.jsonl").as_posix()
        '/data/.m3jax'
    """
    if cache == BESIDE:
        if is_url(path):
            do = "Set data.cache to a folder of this machine."
            raise InputError("a local file", "a URL", where=str(path), do=do)
        return Path(path).parent / ".m3jax"
    if cache is not None:
        return Path(cache)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "m3jax" / "data"


def entry(folder: Path, name: str | Path, *version: object) -> Path:
    """Where something that is made of a file stands.

    Args:
        folder: of all things of this sort.
        name: the file, or what else it is made of.
        version: what it depends on; another version has another place.

    Returns:
        A path in the folder: end of the name, digest of it, digest of the version.

    Example:
        >>> entry(Path("index"), "/data/train.jsonl", 17).as_posix()
        'index/train.jsonl-f410c199-4e15524c7a32bd07'
    """
    stem = re.sub(r"[^\w.-]+", "_", str(name).rstrip("/").rpartition("/")[2])[:40]
    whole = _digest((str(name),), 4)
    return folder / f"{stem.lstrip('.') or 'data'}-{whole}-{_digest(version, 8)}"


@contextmanager
def claimed(target: Path) -> Iterator[None]:
    """Let one process at a time make an entry; the others wait.

    Args:
        target: the entry, as `entry` names it.

    Yields:
        Nothing; look now whether another process has made it.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with claimed(entry(folder, "a.jsonl", 17)) as nothing:
        ...     pass
    """
    # A process that is being spawned runs its parent's script, and would wait for it.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            'a script whose work stands under if __name__ == "__main__"',
            "one that does it again in each process",
            where=sys.argv[0],
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f".{_unversioned(target)}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process: {target}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def drop_older(target: Path) -> bool:
    """Remove entries of the same name and another version.

    Args:
        target: the entry that stays.

    Returns:
        Whether there were any.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> old, new = entry(folder, "a.jsonl", 1), entry(folder, "a.jsonl", 2)
        >>> old.mkdir(), new.mkdir()
        (None, None)
        >>> drop_older(new), old.exists(), new.exists()
        (True, False, True)
    """
    found = False
    for other in target.parent.glob(f"{glob.escape(_unversioned(target))}-*"):
        if other != target:
            found = True
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)
    return found


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL of any kind.

    Example:
        >>> is_url("gs://bucket/a.jsonl"), is_url("C:/a.jsonl")
        (True, False)
    """
    return isinstance(path, str) and _URL.match(path) is not None


def expand(path: str) -> list[str]:
    """Find the files of a glob.

    Args:
        path: a path or a URL, perhaps with *, **, ? or [...] in it.

    Returns:
        The paths or URLs that fit, sorted; a path without a glob as it is.

    Raises:
        InputError: nothing fits, or the URL cannot be read.

    Example:
        >>> expand("train.jsonl")
        ['train.jsonl']
    """
    if not glob.has_magic(path) or (not is_url(path) and os.path.exists(path)):
        return [path]
    if is_url(path):
        files, inner = _file_system(path)
        with _told(path):
            found = sorted(files.unstrip_protocol(name) for name in files.glob(inner))
    else:
        found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise InputError("files that fit the pattern", "none", where=path)
    return found


def local(path: str | Path, root: Path) -> Path:
    """A file on this machine: a URL is fetched into the cache, once.

    Args:
        path: a path, or a URL of any kind that fsspec reads: gs://, s3://, https://...
        root: the cache.

    Returns:
        The path, or that of the copy.

    Raises:
        InputError: there is no such file, a package that reads such URLs is missing, or
            the disk has no room.

    Example:
        >>> local("a.jsonl", Path("cache")).name
        'a.jsonl'
    """
    if not is_url(path):
        return Path(path)
    path = str(path)
    files, inner = _file_system(path)
    with _told(path):
        info = files.info(inner)
    if info.get("type") == "directory":
        do = "Name the file in it, or a glob."
        raise InputError("a file", "a folder", where=path, do=do)
    size, version = info.get("size"), _version(info)
    target = entry(root / "fetched", path, size, *version)
    if not _whole(target):
        with claimed(target):
            if not _whole(target, path):
                _fetch(files, inner, path, size, target)
            drop_older(target)
    return target


def unpacked(path: str | Path, root: Path, *, name: str = "") -> Path:
    """A plain file: one that gzip or zstd has packed is unpacked into the cache, once.

    A file that has changed since is unpacked anew, and what came of it before removed.

    Args:
        path: a file of this machine.
        root: the cache.
        name: what messages call it; by default the path.

    Returns:
        The path, or that of the unpacked copy.

    Raises:
        InputError: there is no such file, it is damaged, or the disk has no room.

    Example:
        >>> import gzip
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "a.txt.gz").write_bytes(gzip.compress(b"text"))
        >>> unpacked(folder / "a.txt.gz", folder / "cache").read_text()
        'text'
    """
    path, name = Path(path), name or str(path)
    with open_file(path) as file:
        if packed.packing(file.peek(4)[:4]) is None:
            return path
        stat = os.fstat(file.fileno())
        version = stat.st_size, stat.st_mtime_ns
        target = entry(root / "unpacked", path.resolve(), *version)
        if not _whole(target):
            with claimed(target):
                if not _whole(target, name):
                    _unpack(file, target, name)
                drop_older(target)
    return target


def _unpack(file: io.BufferedReader, target: Path, where: str) -> None:
    needed = packed.unpacked_size(file)
    size, done, lines = file.seek(0, os.SEEK_END), 0, 0
    file.seek(0)
    with (
        _new_file(target, needed, where) as out,
        bar(f"unpack {where}", size, "bytes") as advance,
    ):
        stream = packed.unpacking(file)
        try:
            while block := stream.read1(_BLOCK):  # all there is before any damage
                out.write(block)
                lines += block.count(b"\n")
                at = file.tell()
                advance(at - done)
                done = at
        except packed.DAMAGE as error:
            raise packed.damaged(error, where=where, after=f"line {lines}") from None


def _fetch(files: Any, inner: str, path: str, size: int | None, target: Path) -> None:
    done = 0
    with (
        _new_file(target, size or 0, path) as out,
        bar(f"fetch {path}", size, "bytes") as advance,
    ):
        with _told(path), files.open(inner, "rb") as file:
            while block := file.read(_BLOCK):
                done += out.write(block)
                advance(len(block))
        if size is not None and done != size:
            found = f"{done} of its {size} bytes"
            raise InputError("a whole file", found, where=path, do="Try again.")


@contextmanager
def _new_file(target: Path, size: int, where: str) -> Iterator[BinaryIO]:
    """Write a file of about this size whole or not at all; it is claimed already."""
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        left.unlink(missing_ok=True)  # of a killed process
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise _no_room(target, f"{in_bytes(size)} free", in_bytes(free), where)
    handle, name = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
    )
    temporary = Path(name)
    try:
        with open(handle, "wb") as file:
            temporary.chmod(0o644)
            yield file
            file.flush()
            # The same on every machine that has a copy, until someone writes to it.
            os.utime(file.fileno(), (_time(target), _time(target)))
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _no_room(target, "enough room", "a full disk", where) from None
    finally:
        temporary.unlink(missing_ok=True)


def _time(target: Path) -> int:
    """When a copy was written, as far as its file tells: by its version."""
    return int(target.name.rpartition("-")[2][:8], 16)


def _whole(target: Path, name: str = "") -> bool:
    """Whether a copy is there, and as it was written; a damaged one is told by name."""
    if not target.exists():
        return False
    whole = target.stat().st_mtime == _time(target)
    if name and not whole:
        print(f"copy of {name} is damaged: made again", file=sys.stderr)
    return whole


def _no_room(target: Path, expected: str, found: str, where: str) -> InputError:
    return InputError(
        f"{expected} in {target.parent}",
        found,
        where=where,
        do="Make room, or set data.cache to a folder on another disk.",
    )


def _file_system(path: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # rarely needed

    protocol = path.partition("://")[0]
    try:
        return url_to_fs(path)
    except ImportError as error:
        package = getattr(error.__cause__ or error, "name", None) or protocol
        raise InputError(
            f"the package {package}, which {protocol}:// needs",
            "none",
            where=path,
            do=f"pip install {package}",
        ) from None
    except ValueError:
        raise InputError(
            "a kind of URL that fsspec reads: https://, gs://, s3://, hf://, ...",
            f"{protocol}://",
            where=path,
        ) from None


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Name the URL in whatever its file system raises: each has errors of its own."""
    try:
        yield
    except FileNotFoundError:
        raise InputError("a file", "nothing of that name", where=path) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of the copy
            raise
        raise _unreadable(error, path) from None
    except Exception as error:
        raise _unreadable(error, path) from None


def _unreadable(error: Exception, path: str) -> InputError:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError("a file that can be read", text, where=path)


def _version(info: Mapping[str, object]) -> list[str]:
    named = {key.lower().replace("_", ""): value for key, value in info.items()}
    return [f"{key}={named[key]}" for key in _VERSIONS if named.get(key) is not None]


def _unversioned(target: Path) -> str:
    return target.name.rpartition("-")[0]


def _digest(parts: tuple[object, ...], size: int) -> str:
    return blake2b(repr(parts).encode(), digest_size=size).hexdigest()
