"""BGE-M3, third stage: all three heads, taught by their ensemble.

    python -m m3jax.train --config configs/bge_m3/finetune.py \
        --heads.data.train "finetune/*.jsonl" --unified.data.train "finetune/*.jsonl"

Hardware: TPU v5p-64 (32 chips); published: 24 A800 of 80 GB. Time and score of this
config are not measured. Published: MIRACL nDCG@10 69.2 dense, 53.9 sparse, 70.5
multi-vector, 71.5 together.
Data: rows {"query": "...", "pos": ["..."], "neg": [7 or more]}, and with a teacher
pos_scores and neg_scores (--unified.data.reading.teacher-scores). Published:
English 1.1 million, Chinese 386,600, MIRACL and Mr.TyDi 88,900, MultiLongDoc 41,400.
Published: 7 hard negatives, batches by length (1,152 to 192, here rounded up to
multiples of the devices), about 6,000 steps that warm the heads, self-distillation,
the weights of all losses, 0.2 % of the long passages shuffled. Of the scripts, not of
the paper: learning rate 1e-5 (the authors also name 5e-6), warm-up 0.1, temperature
0.02, float16. Our choice: bfloat16, token vectors too; in the first stage the new heads
alone are trained, at 1e-4 and without self-distillation; 2 epochs in the second, whose
length is not published; weight decay 0.01; queries of 512 tokens.

Sizes: base; smoke (a few steps of a tiny random model, in a minute on 2 cores).
"""

import dataclasses
from typing import Literal

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import SubBatches, UnifiedConfig
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["base", "smoke"] = "base") -> dict[str, Train]:
    """Return the two stages."""
    unified = Train(
        data=DataConfig(
            train="finetune/*.jsonl",
            reading=Dataset(shuffle_ratio=0.002),
            preset="bge_m3_finetune",
            negatives=7,
            query_length=512,
            passage_length=8_192,
        ),
        model=EmbeddingConfig(
            BertConfig(dtype="bfloat16", remat="full"),
            "cls",
            sparse=True,
            multivec=1_024,
        ),
        objective=UnifiedConfig(temperature=0.02, multivec_dtype="bfloat16"),
        sub_batches=SubBatches(preset="bge_m3"),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup=0.1, weight_decay=0.01),
        mesh=MeshConfig(fsdp=8),
        epochs=2,
        evaluate_every=500,
    )
    heads = dataclasses.replace(
        unified,
        init="BAAI/bge-m3-unsupervised",
        # Heads that know nothing yet would be bad teachers.
        objective=dataclasses.replace(unified.objective, distill=0.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup=0.1, trainable=r"^(sparse|multivec)\."
        ),
        steps=6_000,
        epochs=None,
    )
    stages = {"heads": heads, "unified": unified}
    if size == "smoke":
        return {name: shrink(stage, negatives=2) for name, stage in stages.items()}
    return stages
