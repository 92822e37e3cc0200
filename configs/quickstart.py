"""Train a small embedding model from nothing, on Python's own standard library.

    python -m m3jax.train --config configs/quickstart.py

Hardware: any laptop; 2 to 3 minutes on 2 cores. Nothing is downloaded.
Data: the built-in set; a query is the first sentence of a docstring, its passage the
code without the docstring. No top-level module is in two of train, dev and test.
Expected: nDCG@10 on the test set from about 0.07 to about 0.30 (BM25: 0.45).

Sizes: base; smoke (a few steps of a smaller model, to see that everything works).
"""

from typing import Literal

from m3jax.data.config import DataConfig
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["base", "smoke"] = "base") -> Train:
    """Return the one stage."""
    smoke = size == "smoke"
    return Train(
        data=DataConfig(
            train="builtin",
            test="builtin",
            batch_size=32 if smoke else 128,
            query_length=32,
            passage_length=64 if smoke else 128,
            shapes=2 if smoke else 4,
        ),
        tokenizer=TokenizerConfig(vocab_size=2_000 if smoke else 8_000),
        model=EmbeddingConfig(
            encoder=BertConfig(
                hidden=64 if smoke else 128,
                layers=2,
                heads=4,
                mlp=128 if smoke else 256,
                max_positions=128,
                dropout=0.0,
                remat="none",
            ),
            pooling="mean",
        ),
        objective=ContrastiveConfig(temperature=0.05),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=20 if smoke else 120,
        evaluate_every=10 if smoke else 30,
    )
