"""Train on many data sets at once, each with its task: pairs, triples, labels.

    M3JAX_DATA=FOLDER python -m m3jax.train --config configs/mixture.py

Hardware: 2 cores and 4 GB will do; half an hour.
Data: every FOLDER/NAME/train.jsonl.gz whose name is in TASKS; edit it for your own.
Without M3JAX_DATA the built-in set alone, so that the config can be tried.
Each batch comes from one data set; how many, is in proportion to rows^(1/2), so that
small sets are not lost. `python -m m3jax.inspect --config configs/mixture.py` shows it.

Sizes: base; smoke (a few steps of a smaller model, to see that everything works).
"""

import os
from pathlib import Path
from typing import Any, Literal

from m3jax.data.config import DataConfig, Dataset
from m3jax.data.prompts import Prompts
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig

INSTRUCTIONS = {
    "search": (
        "Given a question, retrieve passages that answer it",
        "Retrieve the passage that holds the answer to this question",
    ),
    "abstract": ("Given the title of a paper, retrieve its abstract",),
    "original": ("Given a sentence in modern Chinese, retrieve the classical one",),
    "paraphrase": ("Retrieve texts that mean the same",),
    "entailment": ("Given a premise, retrieve a hypothesis that follows from it",),
    "intent": ("Given a request, retrieve its intent",),
}

# Of a hypothesis that contradicts there is one; the others are drawn at random (E5).
_NLI: dict[str, Any] = {"task": "entailment", "negatives": 7, "fill": "random"}
_INTENT: dict[str, Any] = {
    "task": "intent",
    "negatives": 7,
    "in_batch_negatives": False,
}
TASKS: dict[str, dict[str, Any]] = {
    "arxiv_titles": {"task": "abstract"},
    "medquad": {"task": "search"},
    "jaquad": {"task": "search"},
    "cmrc2018": {"task": "search"},
    "classical_zh": {"task": "original"},
    "parakqc": {"task": "paraphrase", "symmetric": True},
    "nli_en": _NLI,
    "nli_ko": _NLI,
    "banking77": _INTENT,
    "clinc150": _INTENT,
}


def get_config(size: Literal["base", "smoke"] = "base") -> Train:
    """Return the one stage."""
    smoke = size == "smoke"
    folder = Path(os.environ.get("M3JAX_DATA") or "no folder")
    paths = {name: folder / name / "train.jsonl.gz" for name in TASKS}
    mixture = tuple(
        Dataset(str(path), name=name, **TASKS[name])
        for name, path in paths.items()
        if path.exists()
    )
    return Train(
        data=DataConfig(
            mixture=mixture or (Dataset("builtin", task="search"),),
            batch_size=32 if smoke else 128,
            query_length=64,
            passage_length=64 if smoke else 128,
            shapes=2 if smoke else 6,
            temperature=2.0,
            prompts=Prompts(task="Instruct: {task}\nQuery: "),
            instructions=INSTRUCTIONS,
        ),
        tokenizer=TokenizerConfig(vocab_size=8_000 if smoke else 16_000),
        model=EmbeddingConfig(
            encoder=BertConfig(
                hidden=64 if smoke else 128,
                layers=2,
                heads=4,
                mlp=128 if smoke else 256,
                max_positions=128,
                dropout=0.0,
                remat="none",
            ),
            pooling="mean",
        ),
        objective=ContrastiveConfig(temperature=0.05),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=20 if smoke else 1_000,
        evaluate_every=10 if smoke else 250,
    )
