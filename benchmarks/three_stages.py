r"""BGE-M3's three stages on real text, small enough for a CPU: a config, not a program.

    M3JAX_DATA=FOLDER python -m m3jax.train --config benchmarks/three_stages.py \
        --run-dir runs/three

RetroMAE on abstracts of papers, then titles with their abstracts as weak pairs, then
all heads with self-distillation on MedQuAD with three random negatives each. FOLDER
holds `arxiv_titles` and `medquad`, each a BEIR folder with a train.jsonl.gz; MedQuAD's
test questions are scored before and after every stage.
"""

import dataclasses
import os
from pathlib import Path

from m3jax.data.config import DataConfig, Dataset
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import VARIABLE
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, RetroMAEConfig, UnifiedConfig
from m3jax.training.optimizer import OptimizerConfig


def get_config() -> dict[str, Train]:
    """Return the three stages."""
    folder = Path(os.environ[VARIABLE])
    encoder = BertConfig(
        hidden=128, layers=3, heads=4, mlp=512, max_positions=256, remat="none"
    )
    data = DataConfig(
        train=str(folder / "arxiv_titles" / "train.jsonl.gz"),
        test=str(folder / "medquad"),
        batch_size=64,
        query_length=32,
        passage_length=128,
        shapes=3,
    )
    retromae = Train(
        data=data,
        tokenizer=TokenizerConfig(vocab_size=8_000, mask=True),
        # The heads are there from the start, so that all are scored after every stage.
        model=EmbeddingConfig(encoder, "cls", sparse=True, multivec=64),
        objective=RetroMAEConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        steps=60,
        evaluate_every=30,
    )
    weak = dataclasses.replace(
        retromae, objective=ContrastiveConfig(temperature=0.05), steps=100
    )
    medquad = dataclasses.replace(
        data,
        train=str(folder / "medquad" / "train.jsonl.gz"),
        reading=Dataset(fill="random"),
        negatives=3,
        batch_size=32,
    )
    unified = dataclasses.replace(
        weak,
        data=medquad,
        objective=UnifiedConfig(temperature=0.05, distill_from=30),
        steps=100,
        evaluate_every=50,
    )
    return {"retromae": retromae, "weak": weak, "unified": unified}
