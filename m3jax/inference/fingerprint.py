"""What makes two models give the same embeddings, as a few hex digits."""

from hashlib import blake2b

import numpy as np

from m3jax.core import host, tree
from m3jax.inference.embedder import Embedder


def fingerprint(embedder: Embedder, *prompts: str) -> str:
    """Hash the weights, the config and the tokenizer of a model, and its prompts.

    No more than one published tensor is copied to the host at a time, and none is kept.

    Args:
        embedder: the model.
        prompts: texts that go before those to be encoded.

    Returns:
        16 hex digits.
    """
    found = blake2b(digest_size=8)
    for name, leaf in tree.paths(embedder.params).items():
        found.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        for piece in host.pieces(name, leaf):
            found.update(np.ascontiguousarray(piece).view(np.uint8).reshape(-1).data)
    for part in (
        repr(embedder.module.config),
        embedder.tokenizer.backend.to_str(),
        *prompts,
    ):
        found.update(f"{len(part)} {part}\n".encode())
    return found.hexdigest()
