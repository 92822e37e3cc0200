"""What a training that goes on from a model refuses before it writes anything."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.plan import make_plan
from m3jax.data.shapes import Lengths, Shape
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.lora import LoraConfig
from m3jax.pipeline.fit import check_plan
from m3jax.pipeline.stage import Train
from m3jax.pipeline.train import run_stages
from m3jax.training.objectives import MomentumConfig
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
        run_stages({"train": dataclasses.replace(STAGE, **changes)}, tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def rows(folder: Path, *keys: str) -> str:
    path = folder / "rows.jsonl"
    values = ["salt", "sea", 3.0]
    lines = [json.dumps(dict(zip(keys, values, strict=False))) for _ in range(9)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("keys", "options", "said"),
    [
        (("sentence1", "sentence2", "score"), {}, "found graded pairs"),
        (("query", "positive"), {"teacher_scores": True}, "row 0: expected pos_scores"),
        (("query", "positive"), {"prompts": ("a " * 99,)}, "query_length: expected"),
        (("query", "positive"), {"passage_length": 999}, "at most 64 tokens"),
    ],
)
def test_data_that_the_stage_cannot_take(
    tmp_path: Path, keys: Any, options: Any, said: str
) -> None:
    one = Dataset(rows(tmp_path, *keys), **options)
    data = dataclasses.replace(
        STAGE.data, train="builtin", mixture=(one,), dev="builtin", batch_size=8
    )
    stage = dataclasses.replace(STAGE, data=data, objective=MomentumConfig(queue=64))
    with pytest.raises(InputError, match=said):
        run_stages({"train": stage}, tmp_path / "run")


def test_a_run_goes_on_with_the_batches_it_began_with(tmp_path: Path) -> None:
    plans = []
    for size in (4, 8):
        lengths = Lengths(np.full(9, 3), np.full(9, 3))
        plans.append(make_plan([lengths], shapes=[Shape(3, 3)], sizes=[size], seed=0))
    path = tmp_path / "plan.json"
    for _ in range(2):
        check_plan(path, plans[0])
    with pytest.raises(InputError, match=r"a change of sizes: .4. -> .8.\. A preset"):
        check_plan(path, plans[1])


def test_a_prompt_leaves_room_for_the_query(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, init=str(GOLDEN / "qwen3"))
    with pytest.raises(InputError, match=r"tokens of the query prompt, found 16"):
        run_stages({"train": stage}, tmp_path / "run")
