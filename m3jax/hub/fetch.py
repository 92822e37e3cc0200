"""From the name of a model to a folder on this machine."""

import os
from pathlib import Path, PurePosixPath

from m3jax.core.errors import InputError
from m3jax.hub import layout
from m3jax.hub.tensors import SAFETENSORS

# What the models here consist of; no code, and no second copy of the weights.
_FILES = [
    "*.json",
    "*.txt",
    "*.model",
    "*.safetensors",
    "sparse_linear.pt",
    "colbert_linear.pt",
]
_WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}.index.json")
_OLDER = "pytorch_model*.bin"
_NOT = ["onnx/*", "openvino/*", "original/*", "*.msgpack", "*.h5"]


def fetch(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Find a local folder, or download a model of the Hugging Face hub.

    A path that exists is taken as it is. Anything else of the form `owner/name` is a
    hub id: its files come from the cache of huggingface_hub, or are downloaded into
    it. With HF_HUB_OFFLINE=1 nothing is asked of the network.

    Args:
        name: folder or hub id.
        revision: branch, tag or commit on the hub; None = main.

    Returns:
        The folder.

    Raises:
        InputError: there is neither such a folder nor such a model, or no network and
            nothing in the cache, or its modules.json is damaged.

    Example:
        >>> fetch("nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub id \
like BAAI/bge-m3, found neither
    """
    folder = Path(name)
    if not os.fspath(name):
        raise InputError("a local folder, or a hub id", "an empty name", where="model")
    if folder.is_dir():
        if revision is not None:
            raise InputError("a hub id", "a local folder", where=f"revision {revision}")
        return folder
    text = os.fspath(name)
    parts = text.split("/")
    if folder.exists() or len(parts) != 2 or not all(parts) or parts[0] in (".", ".."):
        raise InputError(
            "a local folder, or a hub id like BAAI/bge-m3",
            "a file" if folder.exists() else "neither",
            where=text,
        )
    found = _download(text, revision, _FILES)
    older = [
        str(PurePosixPath(place) / _OLDER)
        for place in layout.places(found)
        if not any((found / place / name).is_file() for name in _WEIGHTS)
    ]
    return _download(text, revision, _FILES + older) if older else found


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=_NOT
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        gated = isinstance(error, GatedRepoError)
        raise InputError(
            "a local folder, or a model of the Hugging Face hub",
            "a model that asks for a login" if gated else "neither",
            where=name,
            do="Run `hf auth login`." if gated else "",
        ) from None
    except RevisionNotFoundError:
        raise InputError("a revision of it", f"{revision}", where=name) from None
    except (LocalEntryNotFoundError, OSError) as error:
        offline = constants.HF_HUB_OFFLINE
        raise InputError(
            "a local folder, a model in the cache, or a network to fetch it",
            "neither: " + ("HF_HUB_OFFLINE is set" if offline else _first(error)),
            where=name,
            do="No such folder is here; try again with a network.",
        ) from None
    return Path(folder)


def _first(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.removeprefix("Got: ")
