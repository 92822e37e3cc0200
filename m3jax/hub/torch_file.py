"""State dicts of PyTorch (``.bin``, ``.pt``) in and out, without PyTorch.

Tensors are mapped, not read: whoever takes one at a time never holds the whole file.
No code of a file is run (`m3jax.hub.torch_pickle`).

Two formats are read. Since 1.6 a file is a zip archive of uncompressed entries: a
pickle that describes the tensors, and one entry per storage. Before, it was five
pickles (magic number, version, machine, tensors, keys of the storages), then the
storages, each after its length. The first is written.
"""

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from m3jax.core.errors import InputError
from m3jax.hub import torch_pickle
from m3jax.hub.torch_pickle import Storage, Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MAX_PICKLE = 8 << 20  # some 30,000 tensors
_ALIGNMENT = 64
_BIG = 1 << 30  # bytes from which on an entry gets 64-bit sizes
_WRITTEN = {
    torch_pickle.DTYPES[torch_pickle.STORAGES[name]]: name
    for name in ("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage")
}


class TorchFile(Mapping[str, np.ndarray]):
    """Names to arrays; an array is mapped from the file anew each time it is asked for.

    Arrays are read-only views of the file, row-major or not, as they were saved. Their
    numbers are read when they are used, and their memory is free once they are dropped.
    Names that share a storage give equal arrays. The file may be replaced, which is
    noticed, but must not be shortened in place while an array is in use.
    """

    def __init__(
        self,
        path: Path,
        stamp: tuple[int, ...],
        tensors: dict[str, Tensor],
        starts: dict[str, int],
    ) -> None:
        self._path, self._stamp = path, stamp
        self._tensors, self._starts = tensors, starts

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            if tensor.span == 0:
                return np.zeros(tensor.shape, tensor.dtype)
            size = tensor.dtype.itemsize
            start = self._starts[tensor.storage.key] + tensor.offset * size
            with open(self._path, "rb") as file:
                if _stamp(file) != self._stamp:
                    raise ValueError("the file has changed")
                flat = np.memmap(file, np.uint8, "r", start, (tensor.span * size,))
        except (OSError, ValueError) as error:
            found = f"{name}: {error}"
            raise InputError(
                "the file as it was", found, where=str(self._path)
            ) from None
        # A byte other than 0 and 1 is no bool to NumPy.
        numbers = flat != 0 if tensor.dtype == bool else flat.view(tensor.dtype)
        return np.lib.stride_tricks.as_strided(
            np.asarray(numbers),
            tensor.shape,
            [stride * size for stride in tensor.strides],
            writeable=False,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read(path: str | Path) -> TorchFile:
    """Open a state dict.

    Everything is checked here, against the size of the file, before any number is read:
    nothing is allocated that the file does not hold.

    Args:
        path: what ``torch.save(model.state_dict(), path)`` wrote, in either format.

    Returns:
        Published names to arrays, in the order of the file.

    Raises:
        InputError: there is no such file, it is damaged, it was written on a big-endian
            machine, or it holds anything but a flat dict of tensors.

    Source:
        The formats are those of ``torch/serialization.py`` and of PKWARE's
        APPNOTE.TXT (zip).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.pt"
        >>> write(path, {"bias": np.array([1.0, 2.0], np.float32)})
        >>> read(path)["bias"]
        array([1., 2.], dtype=float32)
    """
    path, where = Path(path), str(path)
    try:
        if not path.is_file():
            raise InputError("a file", "none")
        with open(path, "rb") as file:
            stamp = _stamp(file)
            start = file.read(4)
            file.seek(0)
            if start == b"PK\x03\x04":
                tree, starts = _open_zip(file)
            elif start.startswith(b"\x80"):
                tree, starts = _open_legacy(file)
            else:
                raise InputError("a file of torch.save", "other bytes")
        return TorchFile(path, stamp, _state_dict(tree), starts)
    except InputError as error:
        raise InputError(error.expected, error.found, where=where) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError("a file that can be read", found, where=where) from None


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    """What changes when a file does."""
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _state_dict(tree: Any) -> dict[str, Tensor]:
    if not isinstance(tree, dict):
        raise InputError("a dict of tensors", f"a {type(tree).__name__}")
    for name, value in tree.items():
        if not isinstance(value, Tensor):
            found = f"a {type(value).__name__} named {name[:80]!a}"
            raise InputError("a flat dict of tensors", found)
    return tree


def _storages(tree: Any) -> list[Storage]:
    return [tensor.storage for tensor in _state_dict(tree).values()]


def _open_zip(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """What is in the pickle, and where each storage starts."""
    places = _entries(file)
    root = next(iter(places)).split("/")[0]
    for name in places:
        if not name.startswith(f"{root}/"):
            raise InputError("all entries in one folder", ascii(name[:80]))
    if f"{root}/constants.pkl" in places:
        raise InputError("a state dict", "a TorchScript model")
    if f"{root}/data.pkl" not in places:
        raise InputError(f"an entry {root[:80]}/data.pkl", "none")
    # Before there was this entry, all machines wrote their own order: little-endian.
    if f"{root}/byteorder" in places:
        order = _read_entry(file, places[f"{root}/byteorder"])
        if order != b"little":
            raise InputError("little-endian numbers", repr(order[:20]))
    data = _read_entry(file, places[f"{root}/data.pkl"])
    tree = torch_pickle.load(io.BytesIO(data))
    starts = {}
    for storage in _storages(tree):
        name = f"{root}/data/{storage.key}"
        if name not in places:
            raise InputError(f"an entry {name[:80]}", "none")
        starts[storage.key], size = places[name]
        if size != storage.count * storage.itemsize:
            expected = f"{storage.count} numbers of {storage.itemsize} bytes"
            raise InputError(f"{expected} in {name[:80]}", f"{size} bytes")
    return tree, starts


def _entries(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Start and length of the bytes of every entry."""
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except Exception as error:  # damaged bytes fail in any way they like
        found = f"a damaged one ({type(error).__name__}: {error})"[:200]
        raise InputError("a whole zip archive", found) from None
    places: dict[str, tuple[int, int]] = {}
    for info in infos:
        name = info.orig_filename  # `filename` ends at a zero byte
        short = ascii(name[:80])
        if name in places:
            raise InputError("every entry once", f"{short} twice")
        plain = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
        if not plain or info.compress_size != info.file_size:
            raise InputError("uncompressed entries", f"{short}, which is not")
        if not 0 <= info.header_offset < end:
            raise InputError(f"a header of {short}", "none")
        # The length of the local header stands only there.
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise InputError(f"a header of {short}", "other bytes")
        length, extra = struct.unpack("<HH", header[26:])
        if file.read(length) != name.encode(
            "utf-8" if info.flag_bits & 0x800 else "437"
        ):
            raise InputError(f"a header of {short}", "another name")
        start = info.header_offset + 30 + length + extra
        if start + info.file_size > end:
            raise InputError(f"{info.file_size} bytes of {short}", "fewer")
        places[name] = start, info.file_size
    if not places:
        raise InputError("entries", "an empty archive")
    return places


def _read_entry(file: BinaryIO, place: tuple[int, int]) -> bytes:
    start, size = place
    if size > _MAX_PICKLE:
        raise InputError(f"a description of at most {_MAX_PICKLE} bytes", f"{size}")
    file.seek(start)
    return file.read(size)


def _open_legacy(file: BinaryIO) -> tuple[Any, dict[str, int]]:
    """What is in the pickles, and where each storage starts."""
    stream = io.BytesIO(file.read(_MAX_PICKLE))
    magic = torch_pickle.load(stream)
    if magic != _MAGIC:
        raise InputError("a file of torch.save", "another pickle")
    version = torch_pickle.load(stream)
    if version != _VERSION:
        raise InputError(f"version {_VERSION}", "another")
    machine = torch_pickle.load(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise InputError("little-endian numbers", "others")
    tree = torch_pickle.load(stream)
    keys = torch_pickle.load(stream)
    storages: dict[str, Storage] = {}
    for storage in _storages(tree):
        if storages.setdefault(storage.key, storage) != storage:
            raise InputError("one type and length of a storage", "two")
    if not isinstance(keys, list) or any(not isinstance(key, str) for key in keys):
        raise InputError("a list of the keys of the storages", "something else")
    if len(keys) != len(storages) or set(keys) != set(storages):
        raise InputError("the storages of the tensors", "others")
    starts, at, size = {}, stream.tell(), os.fstat(file.fileno()).st_size
    for key in keys:
        count, itemsize = storages[key].count, storages[key].itemsize
        file.seek(at)
        if file.read(8) != count.to_bytes(8, "little"):
            raise InputError(f"storage {key} with {count} numbers", "another")
        starts[key] = at + 8
        at += 8 + count * itemsize
        if at > size:
            raise InputError(f"{at} bytes or more", f"{size}")
    if at != size:
        raise InputError(f"{at} bytes", f"{size}")
    return tree, starts


def write(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write a state dict that ``torch.load(path, weights_only=True)`` opens.

    The same arrays give the same bytes. Every name gets a storage of its own, which
    starts at a multiple of 64 bytes.

    Args:
        path: where the file goes, under a temporary name first; its folder must exist.
        tensors: names to float32, float16, bfloat16 or int64 arrays of any layout.

    Raises:
        InputError: an array has another type, or a name is no Unicode text.
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sparse_linear.pt"
        >>> write(path, {"weight": np.zeros((1, 4), np.float32)})
        >>> read(path)["weight"].shape
        (1, 4)
    """
    path = Path(path)
    entries = []
    for key, (name, array) in enumerate(tensors.items()):
        if not isinstance(name, str) or torch_pickle.SURROGATE.search(name):
            raise InputError("Unicode texts as names", repr(name)[:80])
        if array.dtype not in _WRITTEN:
            expected = ", ".join(map(str, _WRITTEN))
            raise InputError(f"one of {expected}", str(array.dtype), where=name)
        entries.append((name, _WRITTEN[array.dtype], str(key), array.shape))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                pickled = np.frombuffer(torch_pickle.dump(entries), np.uint8)
                _add(archive, "data.pkl", pickled)
                _add(archive, "byteorder", np.frombuffer(b"little", np.uint8))
                for key, array in enumerate(tensors.values()):
                    _add(archive, f"data/{key}", np.asarray(array))
                _add(archive, "version", np.frombuffer(b"3\n", np.uint8))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _add(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980, whatever the clock says
    info.create_system, info.external_attr = 0, 0o600 << 16
    big = array.nbytes > _BIG
    # An extra field of zeros puts the bytes where they should be.
    header = 30 + len(info.filename) + 4 + (20 if big else 0)
    padding = -(archive.start_dir + header) % _ALIGNMENT
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=big) as entry:
        if array.nbytes:
            entry.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
