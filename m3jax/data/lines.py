"""A file line by line, packed or plain."""

import codecs
import difflib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data import packed

STDIN = "-"


def lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    r"""Read a file line by line, also one that gzip or zstd has packed.

    Args:
        path: the file; "-" is the standard input, which goes by the name of stdin.

    Yields:
        Where the line stands (`name:number`, the name as given) and the line, without
        its line end; blank lines are passed over.

    Raises:
        InputError: there is no such file, it may not be read, or it is packed and
            damaged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = file.write_text("1\n\n2\n")
        >>> [(Path(where).name, line) for where, line in lines(file)]
        [('a.jsonl:1', b'1'), ('a.jsonl:3', b'2')]
    """
    number, name = 0, name_of(path)
    with _open(path) as file:
        try:
            for number, line in enumerate(packed.unpacking(file), start=1):
                if number == 1:  # some editors begin a UTF-8 file with this mark
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield f"{name}:{number}", line.rstrip(b"\r\n")
        except packed.DAMAGE as error:
            after = f"line {number}"
            raise packed.damaged(error, where=name, after=after) from None


def name_of(path: str | Path) -> str:
    """What a file is called in messages.

    Example:
        >>> name_of(STDIN)
        'stdin'
    """
    return "stdin" if str(path) == STDIN else str(path)


@contextmanager
def _open(path: str | Path) -> Iterator[io.BufferedReader]:
    if str(path) == STDIN:
        yield sys.stdin.buffer  # type: ignore[misc]
    else:
        with open_file(path) as file:
            yield file


def open_file(path: str | Path) -> io.BufferedReader:
    """Open a file to read its bytes.

    Args:
        path: the file.

    Returns:
        It, at its start.

    Raises:
        InputError: there is no such file, or it may not be read.

    Example:
        >>> open_file("no.txt")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.txt: expected a file, found nothing of that \
name
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        found, do = "nothing of that name", near_name(Path(path))
    except NotADirectoryError:
        found, do = "a file where its folder should be", ""
    except IsADirectoryError:
        found, do = "a folder", "Name the file in it."
    except PermissionError:
        found, do = "one that may not be read", "Check its permissions."
    raise InputError("a file", found, where=str(path), do=do)


def near_name(path: Path) -> str:
    """The name nearest to a missing one, or the folder that is missing too."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent}."
    names = sorted(other.name for other in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.parent / near[0]}?" if near else ""
