"""Where the lines of a file begin, found at the speed of memory."""

import codecs
import os
from collections.abc import Iterator

import numpy as np

BLOCK = 2**20
_NEWLINE = 10
_SPACE = np.zeros(256, bool)
_SPACE[list(b" \t\n\r\x0b\x0c")] = True  # what bytes.strip takes away


def line_starts(file: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    r"""Find the lines of a file that hold more than white space.

    Args:
        file: a file descriptor.
        size: of the file, in bytes.

    Yields:
        Of each block of `BLOCK` bytes: offsets of the lines that begin in it, int64,
        and how many lines end in it. The mark that some editors begin a UTF-8 file
        with is passed over.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(b"one\n\n \r\ntwo")
        ...     file.flush()
        ...     [(at.tolist(), ends) for at, ends in line_starts(file.fileno(), 11)]
        [([0, 8], 3)]
    """
    buffer = np.empty(min(BLOCK, size), np.uint8)
    first = np.zeros(1, np.int64)  # a line at the start of the block, or none
    for at in range(0, size, BLOCK):
        count = read_into(file, buffer[: size - at], at)
        block = buffer[:count]
        ends = np.flatnonzero(block == _NEWLINE)
        if at == 0 and block[:3].tobytes() == codecs.BOM_UTF8:
            first += 3
        starts = np.concatenate([first, ends + 1])
        starts, beyond = starts[starts < count], starts[starts >= count]
        first = beyond - count
        # Few lines begin with white space; those that do are looked at one by one.
        odd = np.flatnonzero(_SPACE[block[starts]])
        blank = [i for i in odd if _is_blank(file, at + int(starts[i]))]
        yield np.delete(starts, blank) + at, len(ends)
        if count < len(buffer[: size - at]):
            return


def read_into(file: int, buffer: np.ndarray, at: int) -> int:
    """Fill an array with bytes of a file; fewer come only at its end.

    Args:
        file: a file descriptor.
        buffer: uint8.
        at: offset in the file.

    Returns:
        How many bytes were read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryFile() as file:
        ...     _ = file.write(b"abc")
        ...     file.flush()
        ...     read_into(file.fileno(), np.empty(8, np.uint8), 1)
        2
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(file, [buffer[done:].data], at + done)
        if not count:
            break
        done += count
    return done


def _is_blank(file: int, at: int) -> bool:
    while part := os.pread(file, 128, at):
        line, newline, _ = part.partition(b"\n")
        if line.strip():
            return False
        if newline:
            return True
        at += len(part)
    return True
