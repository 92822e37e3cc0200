"""The pickles inside PyTorch's files, read and written as data: nothing is called.

A pickle is a program for a small stack machine. Python's own machine looks functions
up and calls them. The one here knows the few instructions that a state dict is made
of, and where a function is called it notes what the call would have described.
"""

import pickletools
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, cast

import jax.numpy as jnp
import numpy as np

from m3jax.core.errors import InputError

DTYPES = {
    name: np.dtype(dtype)
    for name, dtype in {
        "float64": "f8",
        "float32": "f4",
        "float16": "f2",
        "bfloat16": jnp.bfloat16,
        "int64": "i8",
        "int32": "i4",
        "int16": "i2",
        "int8": "i1",
        "uint8": "u1",
        "bool": "?",
        "uint16": "u2",
        "uint32": "u4",
        "uint64": "u8",
    }.items()
}
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
"""PyTorch's typed storages; other types come as bytes with the type beside them."""

_ORDERED = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_TENSOR_OF_BYTES = "torch._utils _rebuild_tensor_v3"
_PARAMETER = "torch._utils _rebuild_parameter"
_OLD_PARAMETER = "torch.nn.parameter Parameter"
_BYTES = "torch.storage UntypedStorage"
_STORAGE_TYPES = {
    _BYTES: None,
    **{f"torch {name}": DTYPES[dtype] for name, dtype in STORAGES.items()},
}
_DTYPE_NAMES = {f"torch {name}": dtype for name, dtype in DTYPES.items()}
ALLOWED = {
    _ORDERED,
    _TENSOR,
    _TENSOR_OF_BYTES,
    _PARAMETER,
    _OLD_PARAMETER,
    *_STORAGE_TYPES,
    *_DTYPE_NAMES,
}
"""Every name a pickle may mention, as "module name"."""

_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of characters: such a text cannot be written."""
_ONLY = "only tensors in a dict (no other Python object is read: it could run code)"
_MAX_DIMENSIONS = 64  # of NumPy, and of PyTorch


@dataclass(frozen=True)
class Global:
    """A name that a pickle mentions; it stands for nothing that could be called."""

    name: str


@dataclass(frozen=True)
class Storage:
    """Numbers that lie elsewhere in the file."""

    key: str
    """Decimal digits."""
    dtype: np.dtype | None
    """None: bytes, whose type the tensor tells."""
    count: int
    """How many numbers of that type, or how many bytes."""

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage that lies within it; offset and strides count numbers."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """Numbers of the storage from the first one of the tensor to the last one."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.strides, strict=True)
        return 1 + sum((size - 1) * stride for size, stride in steps)


def load(stream: BinaryIO) -> Any:
    """What one pickle describes; the stream is left after its end.

    Args:
        stream: at the first byte of a pickle; of a size that may be held in memory.

    Returns:
        Dicts, lists, tuples, strings, numbers, `Tensor`, `Storage` and `Global`.

    Raises:
        InputError: the pickle is damaged, or has anything that no state dict has.

    Source:
        The instructions are those of Python's `pickletools`; the calls are those of
        ``torch._utils``.

    Example:
        >>> import io, pickle
        >>> load(io.BytesIO(pickle.dumps({"a": (1, 2)}, 2)))
        {'a': (1, 2)}
        >>> load(io.BytesIO(pickle.dumps(print, 2)))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: expected only tensors ...
    """
    try:
        return _run(stream)
    except InputError:
        raise
    except Exception as error:  # damaged bytes fail in any way they like
        found = f"a damaged one ({type(error).__name__}: {_short(error)})"
        raise InputError("a whole pickle", found) from None


def _run(stream: BinaryIO) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stacks below each mark
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name, argument = opcode.name, cast(Any, argument)
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name in _TUPLES:
            start = len(stack) - _TUPLES[name]
            if start < 0:
                raise IndexError("the stack is empty")
            stack[start:] = [tuple(stack[start:])]
        elif name == "TUPLE":
            items, stack = stack, marked.pop()
            stack.append(tuple(items))
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "APPEND":
            item = stack.pop()
            _extend(stack[-1], [item])
        elif name == "APPENDS":
            items, stack = stack, marked.pop()
            _extend(stack[-1], items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _update(stack[-1], [key, value])
        elif name == "SETITEMS":
            items, stack = stack, marked.pop()
            _update(stack[-1], items)
        elif name == "GLOBAL":
            stack.append(_global(argument))
        elif name == "STACK_GLOBAL":
            last, module = stack.pop(), stack.pop()
            if not isinstance(last, str) or not isinstance(module, str):
                raise InputError(_ONLY, "a function whose name is no text")
            stack.append(_global(f"{module} {last}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_describe(function, arguments))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "BUILD":
            # Only `_metadata`, which says nothing of the tensors, is set on a dict.
            state, target = stack.pop(), stack[-1]
            if not isinstance(target, dict) or not isinstance(state, dict):
                found = f"attributes of a {type(target).__name__}"
                raise InputError(_ONLY, found)
        elif name == "STOP":
            if len(stack) != 1 or marked:
                raise ValueError("it ends too early")
            return stack[0]
        elif name not in ("PROTO", "FRAME"):
            found = f"the instruction {name} {_short(argument)}".rstrip()
            raise InputError(_ONLY, found)
    raise ValueError("it has no end")


def _short(argument: Any) -> str:
    """Of a pickle's own text, what a terminal can show."""
    return ascii(str("" if argument is None else argument)[:80]).strip("'")


def _global(name: str) -> Global:
    if name not in ALLOWED:
        raise InputError(_ONLY, f"the global {_short(name.replace(' ', '.'))}")
    return Global(name)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list):
        raise ValueError("items of something that is no list")
    target.extend(items)


def _update(target: Any, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("items of something that is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Looked at before it is hashed: hashing deep tuples overflows the C stack.
        if not isinstance(key, str):
            raise InputError("texts as names", f"a name of type {type(key).__name__}")
        if SURROGATE.search(key):
            raise InputError("Unicode texts as names", f"{key[:80]!a}")
        if key in target:
            raise InputError("every name once", f"{key[:80]!a} twice")
        target[key] = value


def _describe(function: Any, arguments: Any) -> Any:
    """What a call would have made."""
    name = function.name if isinstance(function, Global) else ""
    match arguments:
        case () if name == _ORDERED:
            return {}
        case (Storage() as storage, offset, shape, strides, _, {**hooks}, *rest) if (
            name == _TENSOR
            and storage.dtype is not None
            and not hooks
            and rest in ([], [None])
        ):
            return _tensor(storage, storage.dtype, offset, shape, strides)
        case (
            Storage() as storage,
            offset,
            shape,
            strides,
            _,
            {**hooks},
            dtype,
            *rest,
        ) if name == _TENSOR_OF_BYTES and not hooks and rest in ([], [None]):
            known = isinstance(dtype, Global) and dtype.name in _DTYPE_NAMES
            if storage.dtype is None and known:
                dtype = _DTYPE_NAMES[dtype.name]
                return _tensor(storage, dtype, offset, shape, strides)
        case (Tensor() as tensor, _, {**hooks}) if name == _PARAMETER and not hooks:
            return tensor
        case (Tensor() as tensor, *_) if name == _OLD_PARAMETER:
            return tensor
    found = name.replace(" ", ".") or f"something of type {type(function).__name__}"
    raise InputError(_ONLY, f"a call of {found} with unknown arguments")


def _storage(id: Any) -> Storage:
    match id:
        case "storage", Global(name=name), str(key), str(), count, *view if (
            name in _STORAGE_TYPES and view in ([], [None])
        ):
            if type(count) is not int or not 0 <= count < 2**48:
                raise InputError("a number of numbers in a storage", "something else")
            if not (key.isascii() and key.isdecimal()):
                raise InputError("a number as the key of a storage", ascii(key[:80]))
            return Storage(key, _STORAGE_TYPES[name], count)
    raise InputError(_ONLY, "an object from outside of the pickle that is no storage")


def _tensor(
    storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any
) -> Tensor:
    for numbers in (shape, strides, (offset,)):
        if type(numbers) is not tuple or any(type(n) is not int for n in numbers):
            raise InputError("whole numbers as shape, strides and offset", "others")
        if any(not 0 <= n < 2**48 for n in numbers):
            raise InputError("shape, strides and offset of at least 0", "others")
    if len(shape) != len(strides) or len(shape) > _MAX_DIMENSIONS:
        found = f"{len(shape)} and {len(strides)}"
        raise InputError("as many strides as dimensions, 64 at most", found)
    if prod(size for size in shape if size) >= 2**48:  # beside a size of 0
        raise InputError("a shape that fits in memory", f"{shape}"[:300])
    tensor = Tensor(storage, dtype, offset, shape, strides)
    held = storage.count * storage.itemsize // dtype.itemsize
    # With strides of 0 a byte could stand for any number of numbers.
    if prod(shape) > held or offset + tensor.span > held:
        found = f"one of {held} for shape {shape}, strides {strides}, offset {offset}"
        raise InputError("a storage that holds its tensor", found[:300])
    return tensor


def dump(entries: Iterable[tuple[str, str, str, tuple[int, ...]]]) -> bytes:
    """The pickle of an ordered dict of contiguous tensors on the CPU.

    Args:
        entries: name, storage type (of `STORAGES`), storage key and shape of each.

    Returns:
        What ``torch.load(..., weights_only=True)`` finds as ``data.pkl``.

    Raises:
        UnicodeEncodeError: a name is no Unicode text.

    Example:
        >>> import io
        >>> data = dump([("bias", "FloatStorage", "0", (3,))])
        >>> load(io.BytesIO(data))["bias"].shape
        (3,)
    """
    empty = _named(_ORDERED) + b")R"
    parts = [b"\x80\x02", empty, b"("]
    for name, storage, key, shape in entries:
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        id = [_text("storage"), _named(f"torch {storage}"), _text(key), _text("cpu")]
        parts += [_text(name), _named(_TENSOR), b"("]
        parts += [b"(", *id, _integer(prod(shape)), b"tQ", _integer(0)]
        parts += [_integers(shape), _integers(strides), b"\x89", empty, b"tR"]
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _named(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x09" + number.to_bytes(9, "little")


def _integers(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, numbers)) + b"t"
