r"""A small multilingual model from random numbers, for XQuAD: a config, not a program.

    M3JAX_DATA=FOLDER python -m m3jax.train --config benchmarks/multilingual.py \
        --run-dir runs/multilingual

Translated sentences first, of all languages of Tatoeba and of those of XQuAD once more
each, with a few Chinese passages, so that the tokenizer knows more characters. Then
more passages: questions with their answers in English, Chinese and Japanese, and titles
with abstracts. The tokenizer is of the first stage: trained on all, its words would be
mostly those of the long English passages. FOLDER holds `tatoeba`, a file
LANGUAGE.jsonl.gz of text and english each, and the folders of PASSAGES, a
train.jsonl.gz each. Nothing of XQuAD or SQuAD is trained on.
"""

import dataclasses
import os
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.smoke import VARIABLE
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig

# Those of XQuAD, by Tatoeba's names; English is the other side of each.
LANGUAGES = "ara deu ell spa hin ron rus tha tur vie cmn".split()
# Shares of the steps, of which each of these languages has 1 and all of Tatoeba 9.
PASSAGES = {"medquad": 12.0, "arxiv_titles": 12.0, "cmrc2018": 6.0, "jaquad": 4.0}


def get_config() -> dict[str, Train]:
    """Return the two stages."""
    if VARIABLE not in os.environ:
        raise InputError("a folder of data sets", "none", where=VARIABLE)
    folder = Path(os.environ[VARIABLE])
    sentences = tuple(
        Dataset(
            str(folder / "tatoeba" / f"{name}.jsonl.gz"),
            name="all languages" if name == "*" else name,
            columns=("text", "english"),
            weight=9.0 if name == "*" else 1.0,
            query_length=32,
            passage_length=32,
        )
        for name in ("*", *LANGUAGES)
    )
    passages = {
        name: Dataset(str(folder / name / "train.jsonl.gz"), name=name, weight=weight)
        for name, weight in PASSAGES.items()
    }
    chinese = dataclasses.replace(passages["cmrc2018"], weight=2.0)
    translation = Train(
        data=DataConfig(
            mixture=(*sentences, chinese),
            batch_tokens=6_144,
            query_length=32,
            passage_length=256,
            shapes=4,
        ),
        tokenizer=TokenizerConfig(vocab_size=32_000),
        model=EmbeddingConfig(
            encoder=BertConfig(
                hidden=256,
                layers=2,
                heads=4,
                mlp=512,
                max_positions=256,
                dropout=0.0,
                remat="none",
            ),
            pooling="mean",
        ),
        objective=ContrastiveConfig(temperature=0.05, bidirectional=True),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        steps=500,
        evaluate_every=250,
    )
    search = dataclasses.replace(
        translation,
        data=dataclasses.replace(
            translation.data,
            mixture=(*sentences, *passages.values()),
            batch_tokens=8_192,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        steps=300,
        evaluate_every=150,
    )
    return {"translation": translation, "search": search}
