"""How a model is measured, the same for all test sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder


def _silent(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Settings:
    """What a user can choose.

    Attributes:
        outputs: heads to search with; None = all that the model has.
        weights: of dense, sparse and multivec in hybrid.
        rescored: passages that multivec and mixtures order.
        k: passages found of each query.
        metrics: of retrieval; the first decides.
        task: what a search is for; models with an instruction only.
        max_length: tokens kept of a text; None = as the model says.
        dim: numbers kept of each dense vector where dense alone is measured.
        batch_tokens: tokens in a batch.
        samples: rows of each label in few-shot classification.
        runs: of k-means.
        label_prompt: text of a label in zero-shot classification.
        progress: show bars on a terminal.
        say: is told what is odd.
    """

    outputs: tuple[str, ...] | None = None
    weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    rescored: int = 200
    k: int = 100
    metrics: tuple[str, ...] = ("ndcg@10", "mrr@10", "recall@100", "map@100")
    task: str | None = None
    max_length: int | None = None
    dim: int | None = None
    batch_tokens: int | None = None
    samples: int = 8
    runs: int = 3
    label_prompt: str = "{}"
    progress: bool = False
    say: Callable[[str], None] = _silent


def embed(embedder: Embedder, texts: Sequence[str], settings: Settings) -> np.ndarray:
    """Dense embeddings of texts that are all of one kind, `[n e]`.

    The query prompt stands before each, as E5's and Qwen3-Embedding's authors do it in
    symmetric tasks.
    """
    encoded = embedder.encode_query(
        texts,
        task=settings.task,
        dim=settings.dim,
        max_length=settings.max_length,
        batch_tokens=settings.batch_tokens,
        progress=settings.progress,
    )
    assert encoded.dense is not None
    if not np.isfinite(encoded.dense).all():
        rows = np.flatnonzero(~np.isfinite(encoded.dense).all(axis=1))
        found = f"{len(rows):,} that are not, the first of {texts[int(rows[0])][:60]!r}"
        raise InputError("finite embeddings", found, where="evaluate")
    return encoded.dense
