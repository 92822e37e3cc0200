"""Files that gzip or zstd has packed, known by how they begin and not by their name."""

import gzip
import io
import os
import zlib
from typing import Any, BinaryIO, Literal

from m3jax.core.errors import InputError

Packing = Literal["gzip", "zstd"]

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # bytes 1 to 3 of a zstd frame without content
# How many times its packed size a text of unknown size is taken to have.
MULTIPLE = 5
# The size at the end of a gzip file counts modulo 4 GiB.
_SURE = 2**30
_DEFLATE = 1032  # times that gzip can shrink anything


class ZstdError(ValueError):
    """A zstd stream that is cut off or damaged."""


# What reading raises where the file is cut off or damaged.
DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, ZstdError)


def packing(start: bytes) -> Packing | None:
    r"""What a file is packed with.

    Args:
        start: its first 4 bytes, fewer if it has no more.

    Returns:
        The packing; None for a file that is not packed.

    Source: RFC 1952 and RFC 8878.

    Example:
        >>> packing(b"\x1f\x8b\x08\x00")
        'gzip'
    """
    if start[:2] == _GZIP:
        return "gzip"
    skippable = start[1:4] == _SKIPPABLE and start[:1] >= b"\x50" and start[0] < 0x60
    return "zstd" if start[:4] == _ZSTD or skippable else None


def unpacking(file: io.BufferedReader) -> io.BufferedIOBase:
    """The content of a file: unpacked if it is packed, else as it is.

    Args:
        file: at its start; a pipe will do.

    Returns:
        A stream of the content.

    Example:
        >>> packed = io.BufferedReader(io.BytesIO(gzip.compress(b"text")))
        >>> unpacking(packed).read()
        b'text'
    """
    found = packing(file.peek(4)[:4])
    if found == "gzip":
        return gzip.open(file)
    return io.BufferedReader(_Zstd(file)) if found == "zstd" else file


def damaged(error: Exception, *, where: str, after: str = "") -> InputError:
    """What to tell of a packed file whose unpacking raised one of `DAMAGE`.

    Args:
        error: what was raised.
        where: name of the file.
        after: the last that could be read, e.g. "line 17".

    Returns:
        The error to raise.

    Example:
        >>> str(damaged(EOFError("cut off"), where="a.gz", after="line 17"))
        'a.gz: expected a whole gzip file, found one that is damaged after line 17 \
(cut off). Copy or download it again.'
    """
    kind = "zstd" if isinstance(error, ZstdError) else "gzip"
    return InputError(
        f"a whole {kind} file",
        f"one that is damaged{after and ' after '}{after} ({error})",
        where=where,
        do="Copy or download it again.",
    )


def unpacked_size(file: BinaryIO) -> int:
    """Estimate the size of a packed file's content without unpacking it.

    The file itself tells it, except where it has several parts or is large; then text
    is taken to pack to a fifth.

    Args:
        file: packed; it can be wound back.

    Returns:
        Bytes.

    Example:
        >>> unpacked_size(io.BytesIO(gzip.compress(b"text" * 100)))
        400
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(18)
    if packing(start) == "gzip":
        file.seek(max(size - 4, 0))
        told = int.from_bytes(file.read(4), "little")
        if size > _SURE or told > _DEFLATE * size:  # cut off, perhaps
            told = 0
    else:
        told = _zstd_size(start)
    return told if told >= size else MULTIPLE * size


def _zstd_size(start: bytes) -> int:
    """Size of the first frame's content, 0 where it is not told."""
    if start[:4] != _ZSTD or len(start) < 18:
        return 0
    flags = start[4]
    single = flags >> 5 & 1
    width = (single, 2, 4, 8)[flags >> 6]
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    told = int.from_bytes(start[at : at + width], "little")
    return told + 256 if width == 2 else told


class _Zstd(io.RawIOBase):
    """A zstd stream, frame after frame, whose damage is a `ZstdError`."""

    def __init__(self, file: io.BufferedReader) -> None:
        import pyarrow  # slow to import, rarely needed

        self._stream: Any = pyarrow.input_stream(file, compression="zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            # Little at a time: what stands before the damage is read.
            data = self._stream.read(min(len(buffer), io.DEFAULT_BUFFER_SIZE))
        except OSError as error:
            if error.errno is not None:  # of the disk, not of the packing
                raise
            raise ZstdError(str(error)) from None
        buffer[: len(data)] = data
        return len(data)
