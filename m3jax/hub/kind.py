"""Whether a folder holds an embedding model or a reranker."""

from pathlib import Path
from typing import Literal

from m3jax.hub import fields
from m3jax.hub.fetch import fetch
from m3jax.hub.layout import read_json
from m3jax.hub.model_files import find, known
from m3jax.nn.reranker import RerankerConfig

Kind = Literal["embedding", "reranker"]


def kind(path: str | Path, *, revision: str | None = None) -> Kind:
    """Decide by the name of a known model, else by the files of the folder.

    A model for sequence classification is a reranker. A causal language model is one
    (its "yes" and "no" are the score), unless sentence-transformers' modules.json or
    m3jax.json say how its states become an embedding: Qwen3-Embedding and
    Qwen3-Reranker have the same architecture.

    Args:
        path: folder, or hub id.
        revision: of a hub id.

    Returns:
        "embedding" or "reranker".

    Raises:
        InputError: there is no such model, or a file of it is damaged.

    Example:
        >>> kind("nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub id \
like BAAI/bge-m3, found neither
    """
    published = known(path, None)
    if published is not None:
        reranks = isinstance(published.config, RerankerConfig)
        return "reranker" if reranks else "embedding"
    folder = find(fetch(path, revision=revision))
    if any((folder / name).is_file() for name in ("modules.json", "m3jax.json")):
        return "embedding"
    path = folder / "config.json"
    names = fields.architectures(read_json(path), where=str(path))
    reranks = any("SequenceClass" in name or "CausalLM" in name for name in names)
    return "reranker" if reranks else "embedding"
