"""Arrays that the cache keeps as files: written once, memory-mapped when read."""

import functools
import hashlib
import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from m3jax.core import files
from m3jax.data import cache

META = "meta.json"
_LOADING = threading.Lock()


@functools.lru_cache(maxsize=256)  # each holds a file open
def column(path: str) -> np.ndarray:
    """Map an array of a file into memory; pages are read when they are used.

    Args:
        path: a .npy file.

    Returns:
        The array, which cannot be written to.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/a.npy"
        >>> np.save(path, np.arange(3))
        >>> column(path).tolist()
        [0, 1, 2]
    """
    # numpy reads a header by `ast`, which fails in Python 3.11 where threads cross.
    with _LOADING:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.asarray(found)  # indexing np.memmap takes ten times as long


@contextmanager
def growing(path: Path, dtype: Any) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an array part by part, without knowing its length ahead.

    Args:
        path: a .npy file.
        dtype: of the array.

    Yields:
        A function that appends a part, one axis.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.npy")
        >>> with growing(path, np.int32) as append:
        ...     append(np.array([1, 2]))
        ...     append(np.array([3]))
        >>> np.load(path)
        array([1, 2, 3], dtype=int32)
    """
    count = 0

    def append(part: np.ndarray) -> None:
        nonlocal count
        count += len(part)
        file.write(np.ascontiguousarray(part, dtype).data)

    try:
        with open(path, "wb") as file:
            start = _write_header(file, np.dtype(dtype), 0)
            yield append
            # numpy leaves room in the header for any length.
            file.seek(0)
            assert _write_header(file, np.dtype(dtype), count) == start
    except OSError as error:
        if error.filename is None:  # a full disk does not say which one
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def kept(
    target: Path, build: Callable[[Path], Mapping[str, Any]], *, what: str
) -> dict[str, Any]:
    """Facts about the arrays of a folder, which is made where it is not whole.

    Args:
        target: the folder, as `cache.entry` names it.
        build: writes the arrays (.npy) into a folder and returns facts, as JSON can
            tell them.
        what: the folder's content, for the line that tells that it was made again.

    Returns:
        The facts.

    Raises:
        OSError: the cache cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> def build(folder):
        ...     np.save(folder / "a.npy", np.arange(3))
        ...     return {"rows": 3}
        >>> target = cache.entry(Path(tempfile.mkdtemp()), "a.jsonl", 1)
        >>> kept(target, build, what="index of a.jsonl"), (target / "a.npy").exists()
        ({'rows': 3}, True)
    """
    facts = _facts(target)
    if facts is not None:
        return facts
    with cache.claimed(target):
        facts = _facts(target)
        if facts is not None:
            return facts
        if target.exists():
            print(f"{what} is damaged: rebuilt", file=sys.stderr)
        with files.new_folder(target) as folder:
            facts = dict(build(folder))
            digests = {path.name: _digest(path) for path in folder.glob("*.npy")}
            content = json.dumps({"facts": facts, "digests": digests})
            (folder / META).write_text(content, encoding="utf-8")
        column.cache_clear()  # may hold an array of the folder that was replaced
    return facts


def _facts(target: Path) -> dict[str, Any] | None:
    """The facts if the folder is whole, else None."""
    try:
        meta = json.loads((target / META).read_text(encoding="utf-8"))
        digests = {name: _digest(target / name) for name in meta["digests"]}
        return meta["facts"] if digests == meta["digests"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _write_header(file: BinaryIO, dtype: np.dtype, count: int) -> int:
    np.lib.format.write_array_header_1_0(
        file,
        {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (count,),
        },
    )
    return file.tell()
