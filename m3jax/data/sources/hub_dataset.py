"""Data sets of the Hugging Face hub, through the `datasets` library."""

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data.sources import arrow_file

_ID = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")


def load(
    name: str, *, subset: str | None, split: str, root: Path
) -> tuple[list[Path], str]:
    """Download a data set, or find it in the cache; no code of it is run.

    Args:
        name: its id.
        subset: which configuration.
        split: which part.
        root: folder of the cache.

    Returns:
        Its Arrow files, and hex digits that change with its content.

    Raises:
        InputError: there is no such data set, subset or split, or no way to get it.

    Example:
        >>> load("a/b/c", subset=None, split="train", root=Path("cache"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a/b/c: expected a data set of the Hugging Face \
hub, such as sentence-transformers/all-nli, found another kind of name
    """
    # A folder of that name would be opened in place of the data set, and a word such
    # as "json" a reader of files.
    if not _ID.fullmatch(name) or os.path.exists(name):
        raise InputError(
            "a data set of the Hugging Face hub, such as sentence-transformers/all-nli",
            "a file or folder here" if os.path.exists(name) else "another kind of name",
            where=name,
        )
    import datasets

    with _quiet(), bar(f"fetch {name}", None, "rows"):
        try:
            found = datasets.load_dataset(
                name, subset, split=split, cache_dir=str(root / "hub")
            )
        except Exception as error:  # a library of many parts raises many kinds
            raise _told(error, name, subset, split) from None
    assert isinstance(found, datasets.Dataset)  # a split was named
    files = [Path(file["filename"]) for file in found.cache_files]
    batches = itertools.chain(*(arrow_file.read(str(file))[1] for file in files))
    if len(found) != sum(batch.num_rows for batch in batches):
        expected, do = "a whole split, such as train", "Save that part to a folder."
        raise InputError(expected, repr(split), where=name, do=do)
    digest = blake2b(found._fingerprint.encode(), digest_size=16).hexdigest()
    return files, digest


def _told(error: Exception, name: str, subset: str | None, split: str) -> InputError:
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from huggingface_hub import constants

    text = arrow_file.first_line(error)
    if isinstance(error, DatasetNotFoundError):
        gated = "gated" in text or "authenticated" in text
        found = "one that asks for a login" if gated else "none of this name"
        do = "Run `hf auth login`." if gated else ""
        return InputError("a data set of the hub", found, where=name, do=do)
    if isinstance(error, OSError):
        offline = constants.HF_HUB_OFFLINE
        return InputError(
            "a data set in the cache, or a network to fetch it",
            "neither: " + ("HF_HUB_OFFLINE is set" if offline else text),
            where=name,
            do="Name a local file or folder, or try again with a network.",
        )
    if isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        text = f"{text} {error.__cause__}"
    if isinstance(error, RuntimeError) and "script" in text:
        do = "Look for a copy of it in Parquet files."
        return InputError("a data set of files", "one of code", where=name, do=do)
    asked = f"subset {subset}, split {split}" if subset else f"split {split}"
    return InputError(f"a data set with {asked}", text, where=name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Bars and log lines of the libraries are off, and then as they were."""
    import datasets
    from huggingface_hub import utils

    verbosity = datasets.logging.get_verbosity()
    hub_verbosity = utils.logging.get_verbosity()
    bars = not datasets.are_progress_bars_disabled()
    hub_bars = not utils.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    utils.logging.set_verbosity(datasets.logging.CRITICAL)  # it tells each retry
    datasets.disable_progress_bars()
    utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        utils.logging.set_verbosity(hub_verbosity)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            utils.enable_progress_bars()
