"""Models that compute nothing."""

import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np


def hashed() -> Any:
    """An embedder whose vectors are noise of the text, and that tells what it reads."""
    texts: list[str] = []

    def encode(found: Sequence[str], **options: Any) -> SimpleNamespace:
        texts.extend(found)
        rows = [
            np.random.default_rng(zlib.crc32(t.encode())).normal(size=8) for t in found
        ]
        dense = np.array(rows, np.float32)
        return SimpleNamespace(dense=dense / np.linalg.norm(dense, axis=1)[:, None])

    return SimpleNamespace(encode_query=encode, texts=texts)
