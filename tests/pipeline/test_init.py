"""What a training that goes on from a model refuses before it writes anything."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.lora import LoraConfig
from m3jax.pipeline.stage import Train
from m3jax.pipeline.train import run_train
from m3jax.training.optimizer import OptimizerConfig

GOLDEN = Path(__file__).parent.parent / "golden"
STAGE = Train(
    init=str(GOLDEN / "bert"),
    data=DataConfig(
        train="builtin", batch_size=8, query_length=16, passage_length=64, buckets=(64,)
    ),
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tokenizer": TokenizerConfig(pretrained=str(GOLDEN / "m3"))},
            "expected the tokenizer of the model to go on from",
        ),
        (
            {"data": dataclasses.replace(STAGE.data, passage_length=65)},
            "expected at most 64 tokens",
        ),
        ({"lora": LoraConfig(rank=2, targets="nothing")}, "lora.targets"),
        ({"optimizer": OptimizerConfig(trainable="^sparse")}, "optimizer.trainable"),
        ({"init": str(GOLDEN / "reranker_xlmr")}, "found a reranker"),
    ],
)
def test_refused(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run_train(dataclasses.replace(STAGE, **changes), tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_prompt_leaves_room_for_the_query(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, init=str(GOLDEN / "qwen3"))
    with pytest.raises(InputError, match=r"tokens of the query prompt, found 16"):
        run_train(stage, tmp_path / "run")
