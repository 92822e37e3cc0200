"""Files of published data sets: of the Hugging Face hub, or of a folder laid out so."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

from m3jax.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

HUB = "hf://datasets"
_PART = re.compile(r"-of-0*(\d+)\.")
_ROWS = 1_000  # read at once


def files(repo: str, *patterns: str, root: str | Path = HUB) -> list[list[Path]]:
    """Find files of a data set, and download what is not there.

    From the hub they come as they are, into the cache of huggingface_hub; no script of
    a data set is run. With HF_HUB_OFFLINE=1 nothing is asked of the network.

    Args:
        repo: the data set, OWNER/NAME.
        patterns: of its files, e.g. corpus/*.parquet.
        root: a folder that holds OWNER/NAME/..., in place of the hub.

    Returns:
        The files of each pattern, at least one, in the order of their names.

    Raises:
        InputError: there is no such data set or file, some parts of a file in parts are
            missing, or there is no network and nothing in the cache.

    Example:
        >>> files("BeIR/scifact", "corpus/*.parquet", root="nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere/BeIR/scifact: expected \
corpus/*.parquet, found none
    """
    if str(root) == HUB:
        folder, do = _download(repo, list(patterns)), _offline() and f"{_offline()}."
        name = f"{HUB}/{repo}"
    else:
        folder, do = Path(root) / repo, ""
        name = str(folder)
    found = []
    for pattern in patterns:
        paths = sorted(folder.glob(pattern), key=lambda path: (len(path.name), path))
        if not paths:
            raise InputError(pattern, "none", where=name, do=do)
        part = _PART.search(paths[0].name)
        if part and len(paths) != int(part[1]):
            expected, there = f"{part[1]} files {pattern}", str(len(paths))
            raise InputError(expected, there, where=name, do=do)
        found.append(paths)
    return found


def rows(paths: Sequence[str | Path]) -> Iterator[dict[str, object]]:
    """Read rows of parquet files, or of JSON lines that may be packed, by `datasets`.

    They are streamed: no second copy is written, and a block of them is in memory.

    Args:
        paths: the files; "zip://NAME::FILE" is one inside of a .zip.

    Yields:
        Column -> value.

    Raises:
        InputError: a file is damaged, or something else.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = file.write_text('{"docid": "1#0", "text": "salt"}')
        >>> list(rows([file]))
        [{'docid': '1#0', 'text': 'salt'}]
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    # It tells of a bad file before it raises, and so do we.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    for path in map(str, paths):
        kind = "parquet" if path.endswith(".parquet") else "json"
        options: dict[str, Any] = {"batch_size": _ROWS} if kind == "parquet" else {}
        try:
            data = load_dataset(
                kind, data_files=[path], split="train", streaming=True, **options
            )
            tables = data.with_format("arrow").iter(_ROWS)
            for table in cast("Iterator[pa.Table]", tables):
                yield from table.to_pylist()
        except StopIteration:  # of a file without rows
            continue
        except (OSError, EOFError, ValueError, BadZipFile, DatasetsError) as error:
            raise InputError(f"rows of {kind}", _first(error), where=path) from None


def _download(repo: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"{HUB}/{repo}"
    try:
        return Path(
            snapshot_download(repo, repo_type="dataset", allow_patterns=patterns)
        )
    except GatedRepoError:
        found, do = "one that asks for a login", "Run `hf auth login`."
        raise InputError("a public data set", found, where=where, do=do) from None
    except RepositoryNotFoundError:
        raise InputError("a data set of the hub", "none", where=where) from None
    except (LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "the data set in the cache, or a network to fetch it",
            f"neither: {_offline() or _first(error)}",
            where=where,
            do="Try again with a network, or name a folder of the files.",
        ) from None


def _offline() -> str:
    from huggingface_hub import constants

    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
