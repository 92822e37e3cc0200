"""What makes two models give the same numbers, as a few hex digits."""

from hashlib import blake2b

import numpy as np

from m3jax.core import host, tree
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker


def fingerprint(model: Embedder | Reranker, *more: str) -> str:
    """Hash the weights, the config and the tokenizer of a model, and more.

    No more than one published tensor is copied to the host at a time, and none is kept.

    Args:
        model: what is hashed.
        more: what else decides, e.g. texts that go before those to be encoded.

    Returns:
        16 hex digits.
    """
    found = blake2b(digest_size=8)
    for name, leaf in tree.paths(model.params).items():
        found.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        for piece in host.pieces(name, leaf):
            found.update(np.ascontiguousarray(piece).view(np.uint8).reshape(-1).data)
    for part in (
        repr(model.module.config),
        model.tokenizer.backend.to_str(),
        *more,
    ):
        found.update(f"{len(part)} {part}\n".encode())
    return found.hexdigest()
