"""Fine-tune a published model on your own rows, with low-rank pairs by its weights.

    python -m m3jax.train --config configs/finetune_lora.py --size 0.6B \
        --data.train pairs.jsonl

Hardware: one device of 16 GB (0.6B), 40 GB (4B) or 80 GB (8B): the weights alone take
4 bytes a parameter, the pairs and their optimizer little. Time and score depend on the
data; both are printed, before and after, with --data.test.
Data: rows {"query": "...", "pos": ["..."], "neg": [3 or more, or none]}.
2 % of the queries are held out and select the checkpoint, or --data.dev names a BEIR
folder.
Any other model: --init BAAI/bge-m3, intfloat/e5-base-v2, ...; its own prompts hold.
Rank, alpha, learning rate, batch and epochs are our choice: nothing of it is published.
The export holds whole weights again, the pairs merged into them.

Sizes: 0.6B, 4B, 8B (Qwen3-Embedding); smoke (a few steps of a tiny random model, in a
minute on 2 cores).
"""

from typing import Literal

from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.lora import LoraConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["0.6B", "4B", "8B", "smoke"] = "0.6B") -> Train:
    """Return the one stage."""
    stage = Train(
        init=f"Qwen/Qwen3-Embedding-{'0.6B' if size == 'smoke' else size}",
        data=DataConfig(
            train="pairs.jsonl",
            negatives=3,
            batch_size=64,
            query_length=128,
            passage_length=512,
        ),
        model=EmbeddingConfig(QwenConfig(dtype="bfloat16", remat="full"), "last"),
        lora=LoraConfig(rank=16, alpha=32.0),
        objective=ContrastiveConfig(temperature=0.02, false_negative_margin=0.1),
        sub_batches=SubBatches(tokens=8_192),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=0.1, weight_decay=0.0),
        epochs=1,
        evaluate_every=100,
    )
    if size != "smoke":
        return stage
    return shrink(stage, reading=Dataset(fill="random"), negatives=3)
