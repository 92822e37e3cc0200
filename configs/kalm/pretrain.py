r"""KaLM-Embedding, first stage: weakly paired texts.

    python -m m3jax.train --config configs/kalm/pretrain.py --size v2 \
        --data.train "pairs/*.jsonl"

Hardware: TPU v5e-64. Time and score of this config are not measured, and of the model
after this stage nothing is published.
Data: rows {"query": "...", "pos": ["..."]}; unconfirmed: about 470 million pairs.
2 % of the queries (1,000 at most) are held out and select the checkpoint.
Published: Qwen2-0.5B, mean pooling, 512 tokens, causal in V1 and bidirectional in V2;
of the script for fine-tuning: temperature 0.01, warm-up 0.1, widths 896 to 64 with
weights 1 to 0.1. Not known of this stage: learning rate, weight decay and batch, and
whether it had Matryoshka at all; these are our choice.

Sizes: v2, v1; smoke (a few steps of a tiny random model, in a minute on 2 cores).
"""

import dataclasses
from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["v2", "v1", "smoke"] = "v2") -> Train:
    """Return the one stage."""
    encoder = QwenConfig(
        dtype="bfloat16",
        remat="full",
        attention="causal" if size == "v1" else "bidirectional",
    )
    stage = Train(
        init="Qwen/Qwen2-0.5B",
        data=DataConfig(
            train="pairs/*.jsonl",
            batch_size=8_192,
            query_length=512,
            passage_length=512,
        ),
        model=EmbeddingConfig(encoder, "mean"),
        objective=ContrastiveConfig(
            temperature=0.01,
            dims=(64, 128, 256, 512, 896),
            dim_weights=(0.1, 0.1, 0.2, 0.3, 1.0),
            tile=256,
        ),
        sub_batches=SubBatches(tokens=16_384),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=0.1),
        mesh=MeshConfig(fsdp=8),
        epochs=1,
        evaluate_every=1_000,
    )
    if size != "smoke":
        return stage
    small = dataclasses.replace(stage.objective, dims=(4, 8, 16, 32, 64))
    return shrink(dataclasses.replace(stage, objective=small))
