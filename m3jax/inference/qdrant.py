"""A corpus in Qdrant, where one machine is not enough: upload it, then search it.

    client = connect("http://localhost:6333")
    upload(client, "passages", corpus, model.encode_passage, about=about(model))
    search(client, "passages", model.encode_query(["what is slerp?"]))

In place of an address, a folder or ":memory:" keeps all in this process.
"""

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder
from m3jax.inference.fingerprint import fingerprint
from m3jax.inference.qdrant_search import search
from m3jax.inference.qdrant_upload import Uploaded, upload

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = ["Uploaded", "about", "connect", "search", "upload"]

_META = "meta.json"  # of an embedded Qdrant
_SERVER = ("http://", "https://")
_LIKE_SERVER = re.compile(r"\w+://.*|[\w.-]+:\d+(/.*)?")  # that lacks http://


def connect(
    location: str | os.PathLike[str], *, api_key: str | None = None, timeout: int = 60
) -> "QdrantClient":
    """Open Qdrant: embedded in this process, or a server.

    Args:
        location: ":memory:"; a folder, which no other process may use meanwhile, and
            which qdrant-client reads with pickle, so that one of unknown origin must
            not be opened; or the address of a server or cluster. Its port is 6333
            unless it says another one, e.g. https://host:443.
        api_key: of the server.
        timeout: seconds after which a request is given up, and sent again.

    Returns:
        The client; no request was sent yet.

    Raises:
        InputError: qdrant-client is not installed, or the location is another thing.

    Example:
        >>> connect("localhost:6333")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: location: expected :memory:, a folder, or an \
address that begins with http:// or https://, found 'localhost:6333'
    """
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise InputError(
            "the package qdrant-client",
            "none",
            where="qdrant",
            do='Install it with pip install "m3jax[qdrant]".',
        ) from None
    location = os.fspath(location)
    if location == ":memory:":
        return QdrantClient(location)
    if location.startswith(_SERVER):
        return QdrantClient(
            url=location,
            api_key=api_key,
            timeout=timeout,
            check_compatibility=False,  # it asks at once, and warns of a server asleep
        )
    if _LIKE_SERVER.fullmatch(location):
        expected = ":memory:, a folder, or an address that begins with "
        raise InputError(
            expected + " or ".join(_SERVER), repr(location), where="location"
        )
    _require_own(Path(location))
    try:
        return QdrantClient(path=location)
    except RuntimeError as error:  # another process has it open
        found = str(error).partition(". ")[0]
        expected = "a folder that nobody else uses"
        raise InputError(expected, found, where=location) from None


def about(embedder: Embedder) -> dict[str, str | int]:
    """What the embeddings of passages depend on, for `upload` and `search`.

    What a call changes is added, e.g. about(model) | {"dim": 256}.

    Args:
        embedder: the model.

    Returns:
        model, a hash of weights, config, tokenizer and passage prompt, and max_length.
    """
    return {
        "model": fingerprint(embedder, embedder.prompts.passage),
        "max_length": embedder.max_length,
    }


def _require_own(folder: Path) -> None:
    """Refuse a file, or a folder that holds something other than a Qdrant."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    found = "a file" if folder.is_file() else "other files"
    try:
        if "collections" in json.loads((folder / _META).read_text(encoding="utf-8")):
            return
    except (OSError, ValueError, TypeError):
        pass
    expected = "a new folder, or one that Qdrant has written"
    raise InputError(expected, found, where=str(folder), do="Name another folder.")
