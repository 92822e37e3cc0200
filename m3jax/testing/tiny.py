"""A model of a few thousand parameters, and a corpus of a few lines."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from m3jax.data.tokenize import Tokenizer
from m3jax.data.vocabulary import TokenizerConfig, train
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig

TEXTS = (
    "a river carries water from the hills down to the sea",
    "bread is made of flour, water, salt and a little yeast",
    "the moon pulls the sea, and so the tide comes and goes",
)


def tiny_config(vocab_size: int = 64, **fields: Any) -> EmbeddingConfig:
    """A two-layer encoder, 16 wide.

    Args:
        vocab_size: rows of the word table.
        fields: other fields of `BertConfig`.

    Example:
        >>> tiny_config(layers=3).encoder.layers
        3
    """
    small = BertConfig(vocab_size, hidden=16, layers=2, heads=2, mlp=32)
    fields = {"max_positions": 64} | fields
    return EmbeddingConfig(dataclasses.replace(small, **fields))


def tiny_tokenizer(texts: Iterable[str] = TEXTS, vocab_size: int = 64) -> Tokenizer:
    """A tokenizer trained on a few lines.

    Example:
        >>> tiny_tokenizer().vocab_size <= 64
        True
    """
    return train(texts, TokenizerConfig(vocab_size=vocab_size))


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    """Write rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
