"""What a folder of arrays holds, so that a lost or damaged file does not go unseen."""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from m3jax.core import files
from m3jax.core.errors import InputError

NAME = "files.json"
DAMAGED = "The index is damaged: encode the corpus again (--corpus, with --fresh)."
_SMALL = 4 * 2**20  # bytes of a file that is read whole when the folder is opened


def write(folder: Path) -> None:
    """List the files of a folder with their sizes, the small ones with a hash.

    Of a file of more than 4 MiB, such as the vectors and the texts of a large corpus,
    only the size is kept: to read it would cost more than to open the folder.

    Args:
        folder: complete but for this list.

    Raises:
        OSError: it cannot be written, or the disk is full.
    """
    found = {path.name: _facts(path) for path in sorted(folder.iterdir())}
    files.write_text(folder / NAME, json.dumps(found, indent=2) + "\n")


def require(folder: Path) -> None:
    """Refuse a folder that is not as its list says.

    Args:
        folder: with a list that `write` made.

    Raises:
        InputError: names the first file that is missing, cut, or changed.

    Example:
        >>> require(Path("no"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no/files.json: expected a list of files, found \
none. The index is damaged: encode the corpus again (--corpus, with --fresh).
    """
    for name, said in _read(folder / NAME).items():
        path = folder / name
        if not path.is_file():
            raise damaged(f"a file of {said['bytes']:,} bytes", "none", path)
        found = _facts(path)
        if found["bytes"] != said["bytes"]:
            expected = f"{said['bytes']:,} bytes, as when it was written"
            raise damaged(expected, f"{found['bytes']:,}", path)
        if found != said:
            raise damaged("what was written", "other bytes", path)


def damaged(expected: str, found: str, where: Path) -> InputError:
    """What is wrong with a file of an index, and what to do.

    Example:
        >>> str(damaged("a", "b", Path("c"))).startswith("c: expected a, found b. The")
        True
    """
    return InputError(expected, found, where=str(where), do=DAMAGED)


def _facts(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > _SMALL:
        return {"bytes": size}
    return {
        "bytes": size,
        "blake2b": blake2b(path.read_bytes(), digest_size=8).hexdigest(),
    }


def _read(path: Path) -> Mapping[str, Mapping[str, Any]]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {name: {**one, "bytes": int(one["bytes"])} for name, one in said.items()}
    except OSError:
        raise damaged("a list of files", "none", path) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise damaged("a list of files", "something else", path) from None
