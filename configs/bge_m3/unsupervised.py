"""BGE-M3, second stage: the dense head on weakly paired texts.

    python -m m3jax.train --config configs/bge_m3/unsupervised.py \
        --data.train "pairs/*.jsonl"

Hardware: TPU v5p-256 (128 chips); published: 96 A800 of 80 GB. Time and score of this
config are not measured. Published for the model that it makes, after fine-tuning:
MIRACL nDCG@10 69.2 dense, against 66.1 without this stage.
Data: rows {"query": "...", "pos": ["..."]}; published are 1.2 billion pairs in 194
languages. 2 % of the queries (1,000 at most) are held out and select the checkpoint.
Published: queries of 512 tokens, passages of 8,192, batches by length (67,200 short
ones to 9,984 long ones, here rounded up to multiples of the devices), learning rate
5e-5, warm-up 0.1, weight decay 0.01, 25,000 steps, 0.2 % of the long passages shuffled.
Unconfirmed: the temperature; 0.02 is that of the fine-tuning.

Sizes: base; smoke (a few steps of a tiny random model, in a minute on 2 cores).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["base", "smoke"] = "base") -> Train:
    """Return the one stage."""
    stage = Train(
        init="BAAI/bge-m3-retromae",
        data=DataConfig(
            train="pairs/*.jsonl",
            reading=Dataset(shuffle_ratio=0.002),
            preset="bge_m3_unsupervised",
            query_length=512,
            passage_length=8_192,
        ),
        model=EmbeddingConfig(BertConfig(dtype="bfloat16", remat="full"), "cls"),
        objective=ContrastiveConfig(temperature=0.02, tile=256),
        sub_batches=SubBatches(preset="bge_m3"),
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup=0.1, weight_decay=0.01),
        mesh=MeshConfig(fsdp=8),
        steps=25_000,
        evaluate_every=1_000,
    )
    return shrink(stage) if size == "smoke" else stage
