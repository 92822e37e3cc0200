"""A recipe made so small that it can be tried at once: the smoke size of configs."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.encoder import EncoderConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline.stage import Train
from m3jax.training.objectives.make import masks_words
from m3jax.training.objectives.texts import SubBatches

# Names a folder of data sets.
VARIABLE = "M3JAX_DATA"
# Real text that is of use to every recipe.
_PAIRS = "medquad/train.jsonl.gz"


def at_hand(path: str, *, otherwise: str = "builtin") -> str:
    """Find a file of real text, where there is a folder of such.

    Args:
        path: below the folder that the environment variable M3JAX_DATA names.
        otherwise: what to take where it is not set, or has no such file.

    Returns:
        The whole path, or `otherwise`.

    Example:
        >>> at_hand("no/such/file.jsonl")
        'builtin'
    """
    folder = os.environ.get(VARIABLE)
    found = Path(folder or "") / path
    return str(found) if folder and found.exists() else otherwise


def shrink(stage: Train, *, steps: int = 12, **data: Any) -> Train:
    """Keep what a recipe does, and make it small: random parameters, little data.

    Its objective, prompts, pooling, heads and frozen parameters stay; model, lengths,
    batch and steps become small, the learning rate one at which so few steps show, and
    a tokenizer is trained.

    Args:
        stage: the recipe.
        steps: updates.
        data: other fields of `DataConfig`; by default train is at_hand's MedQuAD, and
            there is no mixture.

    Returns:
        A stage of seconds on two cores.

    Example:
        >>> shrink(Train(init="BAAI/bge-m3", steps=10_000)).model.encoder.hidden
        64
    """
    small: dict[str, Any] = {
        "mixture": (),
        "dev": None,
        "test": None,
        "batch_size": 16,
        "batch_tokens": 0,
        "query_length": 32,
        "passage_length": 32,
        "pair_length": 64,
        "shapes": 1,
        "buckets": (),
        "bucket_sizes": (),
        "preset": "",
    }
    small["train"] = DataConfig.train if data.get("mixture") else at_hand(_PAIRS)
    model: Any = dataclasses.replace(stage.model, encoder=_small(stage.model.encoder))
    if isinstance(model, RerankerConfig):
        # The chat of a Qwen is words of its own tokenizer.
        model = RerankerConfig(_small(BertConfig()))
    elif model.multivec:
        model = dataclasses.replace(model, multivec=16)
    return dataclasses.replace(
        stage,
        init=None,
        data=dataclasses.replace(stage.data, **(small | data)),
        tokenizer=TokenizerConfig(vocab_size=2_000, mask=masks_words(stage.objective)),
        model=model,
        sub_batches=SubBatches(),
        optimizer=dataclasses.replace(
            stage.optimizer, learning_rate=5e-4, warmup=0.1, warmup_steps=None
        ),
        mesh=MeshConfig(),
        steps=steps,
        epochs=None,
        examples=None,
        evaluate_every=steps,
    )


def _small(encoder: EncoderConfig) -> EncoderConfig:
    sizes: dict[str, Any] = {
        "vocab_size": 2_000,
        "hidden": 64,
        "layers": 2,
        "heads": 4,
        "mlp": 128,
        "max_positions": 256,
        "dtype": "float32",
        "remat": "none",
    }
    if isinstance(encoder, QwenConfig):
        sizes |= {"kv_heads": 2, "head_dim": 16}
    return dataclasses.replace(encoder, **sizes)
