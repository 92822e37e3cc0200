"""Tensors of a folder by their published names, in safetensors or .bin files.

They are read when they are used and written one file at a time, so that a model
larger than the memory of a host passes through.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.hub import torch_file

# The names of the weights, the first that is there is read.
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
_MAX_FILE = 5_000_000_000  # bytes in one file
_FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_OTHERS = ("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")


@dataclass(frozen=True)
class _Slice:
    """A tensor of a safetensors file; `[rows]` reads them."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        # Opened anew each time: pages of an open file count as memory of the process.
        try:
            with safetensors.safe_open(self.path, "np") as file:
                if not self.shape:
                    return file.get_tensor(self.name)[index]
                return file.get_slice(self.name)[index]
        except (SafetensorError, OSError) as error:
            raise _damaged(self.path, error) from None


Stored = Mapping[str, "_Slice | np.ndarray"]


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
        m3jax.core.errors.InputError: no.safetensors: expected a whole safetensors \
file, found No such file or directory: no.safetensors
    """
    found = {}
    try:
        with safetensors.safe_open(path, "np") as file:
            for name in file.keys():
                part = file.get_slice(name)
                kind = part.get_dtype()
                if kind not in _FLOATS and kind not in _OTHERS:
                    raise InputError(
                        f"one of {', '.join(_FLOATS)}", kind, where=f"{path}: {name}"
                    )
                # Numbers that are no floats are never read: position ids and the like.
                dtype = _FLOATS.get(kind, np.dtype(np.int64))
                found[name] = _Slice(path, name, tuple(part.get_shape()), dtype)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    return found


def write_weights(
    folder: Path,
    sizes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    tensors: Callable[[], Iterator[tuple[str, np.ndarray]]],
    *,
    max_file: int = _MAX_FILE,
) -> None:
    """Write model.safetensors, or several files and their index.

    Args:
        folder: is there, and is the caller's to fill.
        sizes: name -> shape and dtype of every tensor, in the order in which they come.
        tensors: gives the tensors, one at a time.
        max_file: bytes in one file; no more than these are held at once.

    Raises:
        ValueError: other tensors come than those whose sizes were given.
        OSError: the folder cannot be written to, or the disk is full.
    """
    parts = _split(sizes, max_file)
    rows = tensors()
    place, total = {}, 0
    for number, names in enumerate(parts, start=1):
        file = SAFETENSORS
        if len(parts) > 1:
            file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        held = dict(itertools.islice(rows, len(names)))
        if list(held) != names:
            raise ValueError(f"tensors {list(held)} where {names} were announced")
        total += sum(tensor.nbytes for tensor in held.values())
        place |= dict.fromkeys(names, file)
        write_safetensors(folder / file, held)
    if len(parts) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": place}
        text = json.dumps(index, indent=2) + "\n"
        files.write_text(folder / f"{SAFETENSORS}.index.json", text)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write one safetensors file, as transformers does.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    try:
        safetensors.numpy.save_file(
            {name: np.asarray(t, order="C") for name, t in tensors.items()},
            path,
            metadata={"format": "pt"},
        )
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        number = int(code.group(1))
        raise OSError(number, os.strerror(number), str(path.parent)) from None
    path.chmod(0o644)  # safetensors lets only the owner read


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


def _split(
    sizes: Mapping[str, tuple[Sequence[int], np.dtype]], max_file: int
) -> list[list[str]]:
    """Names of each file, none larger than it may be unless one tensor is."""
    parts: list[list[str]] = [[]]
    filled = 0
    for name, (shape, dtype) in sizes.items():
        size = int(np.prod(shape)) * dtype.itemsize
        if parts[-1] and filled + size > max_file:
            parts.append([])
            filled = 0
        parts[-1].append(name)
        filled += size
    return parts


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError("a whole safetensors file", str(error), where=str(path))
