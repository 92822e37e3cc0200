"""Qwen3-Reranker: yes or no to a query and a passage.

    python -m m3jax.train --config configs/qwen3/reranker.py --size 0.6B \
        --data.train "labelled/*.jsonl"

Hardware: TPU v5e-64 (0.6B), v5p-64 (4B), v5p-128 (8B). Time and score of this config
are not measured. Published, over the first 100 of Qwen3-Embedding-0.6B: nDCG@10 of
MTEB-R 65.80, 69.76 and 69.02 (0.6B, 4B, 8B; 61.82 without a reranker).
Data: rows {"query": "...", "pos": ["..."], "neg": [8 or more]}. The dev set is held out
of them, or --data.dev names a BEIR folder; BM25's best passages are put into order.
Published: Qwen3's base models, the chat, "yes" against "no", cross-entropy of each
pair. Unconfirmed: learning rate 6e-6, an example in the document that its authors refer
to; 8 negatives, their advice to a user. Not disclosed, so our choice: batch, length,
epochs.
--objective.loss listwise compares the passages of a query instead.

Sizes: 0.6B, 4B, 8B; smoke (a few steps of a tiny random classifier, because the chat is
made of Qwen's own tokens; in a minute on 2 cores).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import RerankingConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["0.6B", "4B", "8B", "smoke"] = "0.6B") -> Train:
    """Return the one stage."""
    encoder = QwenConfig(dtype="bfloat16", remat="full")
    stage = Train(
        init=f"Qwen/Qwen3-{'0.6B' if size == 'smoke' else size}-Base",
        data=DataConfig(
            train="labelled/*.jsonl",
            negatives=8,
            batch_size=128,
            query_length=512,
            passage_length=2_048,
            pair_length=2_048,
        ),
        model=RerankerConfig(encoder, "yes_no"),
        objective=RerankingConfig(loss="pointwise"),
        # Fewer parts send the weights less often; a v5e has no room for larger ones.
        sub_batches=SubBatches(tokens=32_768 if size in ("4B", "8B") else 8_192),
        optimizer=OptimizerConfig(learning_rate=6e-6, warmup=0.05),
        mesh=MeshConfig(fsdp=8),
        epochs=1,
        evaluate_every=500,
    )
    if size != "smoke":
        return stage
    return shrink(stage, reading=Dataset(fill="random"), negatives=3)
