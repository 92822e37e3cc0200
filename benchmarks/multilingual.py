r"""A small multilingual model out of an English one: a config, not a program.

    M3JAX_DATA=FOLDER python -m m3jax.train --config benchmarks/multilingual.py \
        --init all-MiniLM-L6-v2 --run-dir runs/multilingual

Translated sentences of all languages of Tatoeba, those of XQuAD's languages once more,
and, so that passages are not forgotten, questions and answers in English, Chinese and
Japanese, and titles with abstracts. FOLDER holds `tatoeba`, a file LANGUAGE.jsonl.gz of
text and english each, and the folders of PASSAGES, a train.jsonl.gz each. The words
stay those of the English model: of other scripts it knows little more than letters.
Nothing of XQuAD or SQuAD is trained on.
"""

import os
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.pipeline.smoke import VARIABLE
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig

# Those of XQuAD, by Tatoeba's names; English is the other side of each.
LANGUAGES = "ara deu ell spa hin ron rus tha tur vie cmn".split()
# Shares of the steps, of which each of these languages has 2 and all of Tatoeba 10.
PASSAGES = {"medquad": 3.0, "arxiv_titles": 3.0, "cmrc2018": 3.0, "jaquad": 3.0}


def get_config() -> Train:
    """Return the one stage."""
    if VARIABLE not in os.environ:
        raise InputError("a folder of data sets", "none", where=VARIABLE)
    folder = Path(os.environ[VARIABLE])
    sentences = tuple(
        Dataset(
            str(folder / "tatoeba" / f"{name}.jsonl.gz"),
            name="all languages" if name == "*" else name,
            columns=("text", "english"),
            weight=10.0 if name == "*" else 2.0,
            query_length=48,
            passage_length=48,
        )
        for name in ("*", *LANGUAGES)
    )
    passages = tuple(
        Dataset(str(folder / name / "train.jsonl.gz"), name=name, weight=weight)
        for name, weight in PASSAGES.items()
    )
    return Train(
        data=DataConfig(
            mixture=(*sentences, *passages),
            batch_tokens=6_144,
            query_length=48,
            passage_length=160,
            shapes=3,
        ),
        objective=ContrastiveConfig(temperature=0.05, bidirectional=True),
        optimizer=OptimizerConfig(learning_rate=3e-4),
        steps=80,
        evaluate_every=40,
    )
