r"""BGE-M3's three stages on real text, small enough for a CPU: a config, not a program.

    M3JAX_DATA=FOLDER python -m m3jax.train --config benchmarks/three_stages.py \
        --run-dir runs/three

RetroMAE on abstracts of papers, then titles with their abstracts as weak pairs, then
all heads with self-distillation on MedQuAD with three random negatives each. FOLDER
holds `arxiv_titles` and `medquad`, each a BEIR folder with a train.jsonl.gz; MedQuAD's
test questions are scored before and after every stage. BGE-M3 begins with XLM-R, this
with a MiniLM: `--retromae.init FOLDER` names one that is here.
"""

import dataclasses
import os
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import VARIABLE
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig, RetroMAEConfig, UnifiedConfig
from m3jax.training.optimizer import OptimizerConfig


def get_config() -> dict[str, Train]:
    """Return the three stages."""
    if VARIABLE not in os.environ:
        raise InputError("a folder of data sets", "none", where=VARIABLE)
    folder = Path(os.environ[VARIABLE])
    data = DataConfig(
        train=str(folder / "arxiv_titles" / "train.jsonl.gz"),
        test=str(folder / "medquad"),
        batch_size=32,
        query_length=32,
        passage_length=128,
        shapes=3,
    )
    retromae = Train(
        init="nreimers/MiniLM-L6-H384-uncased",
        data=data,
        # The heads are there from the start, so that all are scored after every stage.
        model=EmbeddingConfig(
            BertConfig(remat="none"), "cls", sparse=True, multivec=64
        ),
        objective=RetroMAEConfig(),
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup=0.1),
        steps=40,
        evaluate_every=20,
    )
    weak = dataclasses.replace(
        retromae,
        init=None,
        objective=ContrastiveConfig(temperature=0.02),
        steps=80,
        evaluate_every=40,
    )
    medquad = dataclasses.replace(
        data,
        train=str(folder / "medquad" / "train.jsonl.gz"),
        reading=Dataset(fill="random"),
        negatives=3,
        batch_size=16,
    )
    unified = dataclasses.replace(
        weak,
        data=medquad,
        objective=UnifiedConfig(temperature=0.02, distill_from=20),
        steps=100,
        evaluate_every=50,
    )
    return {"retromae": retromae, "weak": weak, "unified": unified}
