"""Train on your own pairs: a JSONL file with query and pos, one object a line.

    python -m m3jax.train --config configs/pairs.py --data.train pairs.jsonl \
        --data.test BEIR_FOLDER

Hardware: 2 cores and 4 GB will do.
Data: rows in FlagEmbedding's shape, {"query": "...", "pos": ["..."], "neg": []}, plain
or gzip. 2 % of the queries are held out and select the best checkpoint, or --data.dev
names a BEIR folder for it. --data.test names one that is scored before and after.
Without --data.train the built-in set is used.

Sizes: base; smoke (a few steps of a smaller model, to see that everything works).
"""

import dataclasses
import os
from pathlib import Path
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
    base = Train(
        data=DataConfig(
            train="builtin",
            batch_size=128,
            query_length=32,
            passage_length=128,
            shapes=4,
        ),
        tokenizer=TokenizerConfig(vocab_size=8_000),
        model=EmbeddingConfig(
            encoder=BertConfig(
                hidden=128,
                layers=2,
                heads=4,
                mlp=256,
                max_positions=256,
                dropout=0.0,
                remat="none",
            ),
            pooling="mean",
        ),
        objective=ContrastiveConfig(temperature=0.05),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=400,
        evaluate_every=100,
    )
    if size == "base":
        return base
    # Real questions where a folder of data sets is at hand, else the built-in set.
    real = Path(os.environ.get("M3JAX_DATA", "")) / "medquad"
    train, test = "builtin", "builtin"
    if "M3JAX_DATA" in os.environ and real.is_dir():
        train, test = str(real / "train.jsonl.gz"), str(real)
    encoder = dataclasses.replace(base.model.encoder, hidden=64, mlp=128)
    return dataclasses.replace(
        base,
        data=dataclasses.replace(
            base.data,
            train=train,
            test=test,
            batch_size=32,
            passage_length=64,
            shapes=2,
        ),
        tokenizer=TokenizerConfig(vocab_size=2_000),
        model=dataclasses.replace(base.model, encoder=encoder),
        steps=20,
        evaluate_every=10,
    )
