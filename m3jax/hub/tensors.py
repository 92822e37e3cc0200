"""Tensors of a folder by their published names, in safetensors or .bin files.

They are read when they are used and written one file at a time, so that a model
larger than the memory of a host passes through.
"""

import itertools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from safetensors import SafetensorError

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.hub import torch_file

# The names of the weights, the first that is there is read.
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
MAX_FILE = 5_000_000_000  # bytes in one file
_BLOCK = 32 << 20  # bytes that are copied at once
_FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_KINDS = {
    **_FLOATS,
    **{"I64": np.dtype(np.int64), "I32": np.dtype(np.int32)},
}
_OTHERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


@dataclass(frozen=True)
class _Slice:
    """A tensor of a safetensors file; `[rows]` reads them.

    `start` is where in the file its numbers begin.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    def __getitem__(self, index: Any) -> np.ndarray:
        # Opened anew each time: pages of an open file count as memory of the process.
        try:
            with safetensors.safe_open(self.path, "np") as file:
                if not self.shape:
                    return file.get_tensor(self.name)[index]
                return file.get_slice(self.name)[index]
        except (SafetensorError, OSError) as error:
            raise _damaged(self.path, error) from None

    def rows(self, first: int, last: int) -> np.ndarray:
        """Read rows by their place, into memory of their own."""
        rest = self.shape[1:]
        size = math.prod(rest) * self.dtype.itemsize
        found = np.empty((last - first, *rest), self.dtype)
        left = found.reshape(-1).view(np.uint8).data
        at = self.start + first * size
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                while left:
                    count = os.preadv(file, [left], at)
                    if not count:
                        raise OSError("it has become shorter")
                    left, at = left[count:], at + count
            finally:
                os.close(file)
        except OSError as error:
            raise _damaged(self.path, error) from None
        return found


Stored = Mapping[str, "_Slice | np.ndarray"]
# Name -> shape and dtype.
Sizes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
# A tensor to be written: whole, or in blocks of rows.
Written = np.ndarray | Iterable[np.ndarray]


def read_weights(folder: Path, stem: str = "") -> tuple[Stored, Path]:
    """Open the weights of a folder: name -> what has a shape, a dtype and rows to read.

    Looked for in this order: model.safetensors, its index of several files,
    pytorch_model.bin, its index.

    Args:
        folder: where the files are.
        stem: folder inside that one, for the weights of a module.

    Returns:
        The tensors, and the file that names them, for messages.

    Raises:
        InputError: there are none, or a file is missing, damaged, or leads out of the
            folder.
    """
    folder = folder / stem
    for name, read in ((SAFETENSORS, read_safetensors), (BIN, torch_file.read)):
        for path in (folder / name, folder / f"{name}.index.json"):
            if path.is_file():
                return (read(path) if path.name == name else _indexed(path, read)), path
    others = sorted(
        file.name
        for pattern in ("*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.safetensors")
        for file in folder.glob(pattern)
    )
    raise InputError(
        f"{SAFETENSORS} or {BIN}",
        f"neither, but {', '.join(others[:3])}" if others else "neither",
        where=str(folder),
        do="Save the model once more with transformers." if others else "",
    )


def read_safetensors(path: Path) -> Stored:
    """Open one safetensors file; only its header is read.

    Raises:
        InputError: the file is missing or damaged, or a tensor has an unknown type.

    Example:
        >>> read_safetensors(Path("no.safetensors"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.safetensors: expected a safetensors file, \
found none
    """
    found = {}
    try:
        with safetensors.safe_open(path, "np") as file:
            starts = _starts(path)  # the header is sound, or this would not be open
            for name in file.keys():
                part = file.get_slice(name)
                kind = part.get_dtype()
                if kind not in _FLOATS and kind not in _OTHERS:
                    raise InputError(
                        f"one of {', '.join(_FLOATS)}", kind, where=f"{path}: {name}"
                    )
                # Numbers that are no floats are never read: position ids and the like.
                dtype = _FLOATS.get(kind, np.dtype(np.int64))
                shape = tuple(part.get_shape())
                found[name] = _Slice(path, name, shape, dtype, starts[name])
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return found


def read_rows(tensor: "_Slice | np.ndarray", first: int, last: int) -> np.ndarray:
    """Copy rows of a stored tensor, of which no more gets into memory.

    Args:
        tensor: a value of `Stored`, with a dimension or more.
        first: row.
        last: row after them.

    Returns:
        An array of its own.

    Raises:
        InputError: the file is not what it was.

    Example:
        >>> read_rows(np.arange(6).reshape(3, 2), 1, 2)
        array([[2, 3]])
    """
    if isinstance(tensor, np.ndarray):
        return np.array(tensor[first:last], order="C")
    return tensor.rows(first, last)


def write_weights(
    folder: Path,
    sizes: Sizes,
    tensors: Callable[[], Iterator[tuple[str, Written]]],
    *,
    max_file: int | None = None,
) -> None:
    """Write model.safetensors, or several files and their index.

    Args:
        folder: is there, and is the caller's to fill.
        sizes: name -> shape and dtype of every tensor, in the order in which they come.
        tensors: gives the tensors, one at a time, each whole or in blocks of rows. What
            was written is let go.
        max_file: bytes in one file; None = MAX_FILE.

    Raises:
        ValueError: other tensors come than those whose sizes were given.
        OSError: the folder cannot be written to, or the disk is full.
    """
    parts = _split(sizes, MAX_FILE if max_file is None else max_file)
    rows = tensors()
    place = {}
    for number, names in enumerate(parts, start=1):
        file = SAFETENSORS
        if len(parts) > 1:
            file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        held = {name: sizes[name] for name in names}
        _write_file(folder / file, held, itertools.islice(rows, len(names)))
        place |= dict.fromkeys(names, file)
    if len(parts) > 1:
        total = sum(_bytes(*size) for size in sizes.values())
        index = {"metadata": {"total_size": total}, "weight_map": place}
        text = json.dumps(index, indent=2) + "\n"
        files.write_text(folder / f"{SAFETENSORS}.index.json", text)


def write_safetensors(path: Path, tensors: Mapping[str, Written]) -> None:
    """Write one safetensors file, as transformers does.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    held = {name: whole(tensor) for name, tensor in tensors.items()}
    sizes = {name: (tensor.shape, tensor.dtype) for name, tensor in held.items()}
    _write_file(path, sizes, iter(held.items()))


def whole(tensor: Written) -> np.ndarray:
    """A tensor that may come in blocks of rows, as one array.

    Example:
        >>> whole(iter([np.ones((2, 3)), np.ones((1, 3))])).shape
        (3, 3)
    """
    if isinstance(tensor, np.ndarray):
        return tensor
    return np.concatenate(list(tensor))


def _write_file(
    path: Path, sizes: Sizes, tensors: Iterator[tuple[str, Written]]
) -> None:
    """Write a safetensors file block by block; it is whole or not there."""
    header, starts = _header(sizes)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    come: list[str] = []
    try:
        with open(temporary, "wb") as file:
            file.write(header)
            for name, tensor in tensors:
                come.append(name)
                if name not in starts:
                    break
                file.seek(starts[name])
                expected, written = starts[name] + _bytes(*sizes[name]), 0
                for block in _blocks(tensor):
                    if block.dtype != sizes[name][1]:
                        raise ValueError(f"{name} comes as {block.dtype}")
                    written += file.write(block.reshape(-1).view(np.uint8).data)
                if starts[name] + written != expected:
                    raise ValueError(f"{name} has {written} bytes")
            file.flush()
            os.fsync(file.fileno())
        if come != list(sizes):
            raise ValueError(f"tensors {come} where {list(sizes)} were announced")
        os.replace(temporary, path)
    except OSError as error:
        where = error.filename or str(path.parent)
        raise OSError(error.errno, error.strerror, where) from None
    finally:
        temporary.unlink(missing_ok=True)


def _blocks(tensor: Written) -> Iterator[np.ndarray]:
    """Row-major blocks of a tensor: of a transposed one, only a block is copied."""
    if not isinstance(tensor, np.ndarray):
        yield from map(np.ascontiguousarray, tensor)
    elif tensor.flags.c_contiguous or not tensor.ndim:
        yield np.asarray(tensor, order="C")
    else:
        step = max(1, _BLOCK * len(tensor) // max(tensor.nbytes, 1))
        for first in range(0, len(tensor), step):
            yield np.ascontiguousarray(tensor[first : first + step])


def _header(sizes: Sizes) -> tuple[bytes, dict[str, int]]:
    """The beginning of a file, and where in it each tensor starts.

    Wide types come first, so that each number lies at a multiple of its size.
    """
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(sizes, key=lambda name: -sizes[name][1].itemsize):
        shape, dtype = sizes[name]
        end = at + _bytes(shape, dtype)
        kind = next(kind for kind, one in _KINDS.items() if one == dtype)
        told[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    first = 8 + len(text)
    starts = {name: first + told[name]["data_offsets"][0] for name in sizes}
    return struct.pack("<Q", len(text)) + text, starts


def _starts(path: Path) -> dict[str, int]:
    """Where in a sound file the numbers of each tensor begin."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        told = json.loads(file.read(length))
    told.pop("__metadata__", None)
    return {name: 8 + length + one["data_offsets"][0] for name, one in told.items()}


def _bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize


def _indexed(path: Path, read: Callable[[Path], Stored]) -> Stored:
    """Tensors of several files, by the index that names them."""
    from m3jax.hub.layout import is_inside, read_json

    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and is_inside(file) for file in places.values()
    ):
        raise InputError(
            "a weight_map from tensors to files inside the folder",
            repr(places)[:80],
            where=str(path),
        )
    parts = {file: read(path.parent / file) for file in sorted(set(places.values()))}
    for name, file in places.items():
        if name not in parts[file]:
            raise InputError(f"a tensor {name} in {file}", "none", where=str(path))
    found = {name: part for part in parts.values() for name in part}
    if lost := sorted(set(found) - set(places)):
        raise InputError(
            "every tensor in the index", f"also {lost[0]}", where=str(path)
        )
    return _Several(parts, places)


class _Several(Mapping[str, Any]):
    """Tensors of several files; a file's own mapping gives each when it is asked."""

    def __init__(self, parts: Mapping[str, Stored], places: Mapping[str, str]) -> None:
        self._parts, self._places = parts, places

    def __getitem__(self, name: str) -> Any:
        return self._parts[self._places[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _split(sizes: Sizes, max_file: int) -> list[list[str]]:
    """Names of each file, none larger than it may be unless one tensor is."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, (shape, dtype) in sizes.items():
        size = _bytes(shape, dtype)
        if parts[-1] and filled + size > max_file:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _damaged(path: Path, error: Exception) -> InputError:
    if not path.exists():
        return InputError("a safetensors file", "none", where=str(path))
    if not os.access(path, os.R_OK):
        expected = "a file that may be read"
        return InputError(expected, "no permission to", where=str(path))
    return InputError("a whole safetensors file", str(error), where=str(path))
