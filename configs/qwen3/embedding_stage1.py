r"""Qwen3-Embedding, first stage: weak pairs, most of them synthetic.

    python -m m3jax.train --config configs/qwen3/embedding_stage1.py --size 0.6B \
        --data.train "pairs/*.jsonl"

Hardware: TPU v5e-64 (0.6B), v5p-64 (4B), v5p-128 (8B). Time and score of this config
are not measured, and of the model after this stage nothing is published.
Data: rows {"query": "...", "pos": ["..."]}; published are about 150 million, written by
Qwen3-32B. Each data set with its own task is a mixture, as in configs/mixture.py.
Published: Qwen3's base models, causal attention, the state of <|endoftext|>, "Instruct:
...\nQuery:" before queries, the four kinds of negatives and the margin of 0.1.
Unconfirmed: temperature 0.01, the example in the document that its authors refer to.
Not disclosed, so our choice: learning rate, warm-up 0.05, weight decay 0.01, batch,
lengths and steps (one pass over 150 million pairs).

Sizes: 0.6B, 4B, 8B; smoke (a few steps of a tiny random model, in a minute on 2 cores).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.prompts import Prompts
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig

SEARCH = "Given a web search query, retrieve relevant passages that answer the query"


def get_config(size: Literal["0.6B", "4B", "8B", "smoke"] = "0.6B") -> Train:
    """Return the one stage."""
    stage = Train(
        init=f"Qwen/Qwen3-{'0.6B' if size == 'smoke' else size}-Base",
        data=DataConfig(
            train="pairs/*.jsonl",
            reading=Dataset(task="search"),
            batch_size=8_192,
            query_length=256,
            passage_length=512,
            prompts=Prompts(
                query=f"Instruct: {SEARCH}\nQuery:", task="Instruct: {task}\nQuery:"
            ),
            instructions={"search": (SEARCH,)},
        ),
        model=EmbeddingConfig(QwenConfig(dtype="bfloat16", remat="full"), "last"),
        objective=ContrastiveConfig(
            temperature=0.01,
            negatives=("own", "passages", "queries", "positive_passage"),
            false_negative_margin=0.1,
            tile=256,
        ),
        # Fewer parts send the weights less often; a v5e has no room for larger ones.
        sub_batches=SubBatches(tokens=32_768 if size in ("4B", "8B") else 8_192),
        optimizer=OptimizerConfig(
            learning_rate={"4B": 5e-5, "8B": 3e-5}.get(size, 1e-4), warmup=0.05
        ),
        mesh=MeshConfig(fsdp=8),
        steps=18_000,
        evaluate_every=1_000,
    )
    return shrink(stage, query_length=64) if size == "smoke" else stage
