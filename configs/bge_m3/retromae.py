"""BGE-M3, first stage: RetroMAE on texts of up to 8,192 tokens, in 105 languages.

    python -m m3jax.convert FacebookAI/xlm-roberta-large xlm-roberta-large-8192 \
        --pooling cls --max-positions 8194 --position-init tile
    python -m m3jax.train --config configs/bge_m3/retromae.py \
        --data.train "texts/*.jsonl"

Hardware: TPU v5p-64 (32 chips); published: 32 A100 of 40 GB. Time and score of this
config are not measured. --data.dev names a BEIR folder or graded pairs to watch.
Data: rows {"text": "..."}; published are 184 million, of Pile, Wudao and mC4.
Published: learning rate 7e-5, 20,000 steps, batch 32 x 16 accumulated, which we read as
that of a device, 16,384 in all; the share of masked tokens is RetroMAE's (0.3, decoder
0.5).
Unconfirmed: how 514 rows of positions became 8,194, so the first command is our way.
Our choice: warm-up and weight decay, as RetroMAE's own recipe has them. The head over
the vocabulary starts anew; the one that XLM-R was trained with is not read.

Sizes: base; smoke (a few steps of a tiny random model, in a minute on 2 cores).
"""

from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import RetroMAEConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["base", "smoke"] = "base") -> Train:
    """Return the one stage."""
    stage = Train(
        init="xlm-roberta-large-8192",
        data=DataConfig(train="texts/*.jsonl", batch_size=16_384, passage_length=8_192),
        model=EmbeddingConfig(BertConfig(dtype="bfloat16", remat="full"), "cls"),
        objective=RetroMAEConfig(encoder_ratio=0.3, decoder_ratio=0.5),
        sub_batches=SubBatches(tokens=65_536),
        optimizer=OptimizerConfig(learning_rate=7e-5, warmup=0.1, weight_decay=0.01),
        mesh=MeshConfig(fsdp=8),
        steps=20_000,
        evaluate_every=1_000,
    )
    return shrink(stage) if size == "smoke" else stage
