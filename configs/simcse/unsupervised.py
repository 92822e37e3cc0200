"""Unsupervised SimCSE: a sentence read twice, each time with another dropout.

    python -m m3jax.train --config configs/simcse/unsupervised.py \
        --data.train wiki1m_for_simcse.txt

Hardware: any accelerator of 16 GB. Time and score of this config are not measured.
Published: STS average 76.25 (BERT base); their readers found seeds to differ by 2.
Data: a text file with a sentence a line; published are a million of Wikipedia (the file
of the hub's princeton-nlp/datasets-for-simcse). --data.dev names the graded pairs that
select the checkpoint, by default STS-B's dev set of the hub.
Published: temperature 0.05, batches of 64, 32 tokens, 1 epoch, learning rate 3e-5
(base) or 1e-5 (large), no warm-up, dropout 0.1, the head in training only, the best of
STS-B dev every 250 steps (every 125 in the code). Ours drops hidden states and no
attention weights, where BERT drops both. --objective.mlm-weight 0.1 adds the published
loss on masked words, which is off by default.

Sizes: base, large (BERT); smoke (a few steps of a tiny random model, in a minute on 2
cores: sentences of STS-B where M3JAX_DATA is set, else the built-in pairs).
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
            train="wiki1m_for_simcse.txt",
            dev="hf:sentence-transformers/stsb",
            batch_size=64,
            query_length=32,
            passage_length=32,
        ),
        model=EmbeddingConfig(
            BertConfig(dtype="bfloat16", remat="full"),
            "cls",
            mlp_head="training",
        ),
        dropout=0.1,
        objective=ContrastiveConfig(temperature=0.05),
        optimizer=OptimizerConfig(
            learning_rate=1e-5 if large else 3e-5, warmup=0.0, weight_decay=0.0
        ),
        epochs=1,
        evaluate_every=250,
    )
    if size != "smoke":
        return stage
    train = at_hand("stsb/en/train.jsonl.gz")
    if train == "builtin":
        return shrink(stage, train=train)
    return shrink(
        stage,
        train=train,
        reading=Dataset(layout="text", columns=("sentence1",)),
        dev=at_hand("stsb/en/dev.jsonl.gz"),
    )
