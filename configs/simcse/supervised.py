"""Supervised SimCSE: what a premise entails, against what contradicts it.

    python -m m3jax.train --config configs/simcse/supervised.py \
        --data.train nli_for_simcse.jsonl

Hardware: TPU v5e-8 (one host), or one GPU of 80 GB. Time and score of this config are
not measured. Published: STS average 81.58 (BERT base).
Data: rows {"query": premise, "pos": [entailed], "neg": [contradicted]}; published are
triples of SNLI and MNLI (unconfirmed: 275,601). --data.train
sentence-transformers/all-nli --data.reading.subset triplet reads a larger set of the
hub. --data.dev names the graded pairs that select the checkpoint, by default STS-B's
dev set of the hub.
Published: temperature 0.05, batches of 512, 32 tokens, 3 epochs, learning rate 5e-5
(base) or 1e-5 (large), no warm-up, the head always, no further weight of the own
negative, the best of STS-B dev every 250 steps (every 125 in the code).

Sizes: base, large (BERT); smoke (a few steps of a tiny random model, in a minute on 2
cores: nli_en with STS-B where M3JAX_DATA is set, else the built-in pairs).
"""

from typing import Literal

from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import at_hand, shrink
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig


def get_config(size: Literal["base", "large", "smoke"] = "base") -> Train:
    """Return the one stage."""
    large = size == "large"
    stage = Train(
        init=f"google-bert/bert-{'large' if large else 'base'}-uncased",
        data=DataConfig(
            train="nli_for_simcse.jsonl",
            dev="hf:sentence-transformers/stsb",
            negatives=1,
            batch_size=512,
            query_length=32,
            passage_length=32,
        ),
        model=EmbeddingConfig(
            BertConfig(dtype="bfloat16", remat="full"),
            "cls",
            mlp_head="always",
        ),
        dropout=0.1,
        objective=ContrastiveConfig(temperature=0.05, hard_negative_weight=0.0),
        optimizer=OptimizerConfig(
            learning_rate=1e-5 if large else 5e-5, warmup=0.0, weight_decay=0.0
        ),
        epochs=3,
        evaluate_every=250,
    )
    if size != "smoke":
        return stage
    train = at_hand("nli_en/train.jsonl.gz")
    if train == "builtin":
        return shrink(stage, train=train, reading=Dataset(fill="random"))
    return shrink(stage, train=train, dev=at_hand("stsb/en/dev.jsonl.gz"))
