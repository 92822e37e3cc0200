"""Several processes do all stages of a run as one does, and rerankers too."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from m3jax.training.writer import read
from tests.processes import ended, launch
from tests.test_train import write_data
from tests.test_train_stages import STAGES

LORA = """
from m3jax.nn.lora import LoraConfig
from m3jax.pipeline.stage import Merge
from m3jax.training.objectives import MomentumConfig

_three = get_config


def get_config():
    found = _three()
    found["momentum"] = dataclasses.replace(
        found["pairs"], objective=MomentumConfig(queue=16)
    )
    found["lora"] = dataclasses.replace(found["pairs"], lora=LoraConfig(rank=2))
    found["merged"] = Merge(("momentum", "lora"), t=0.25)
    return found
"""
RERANKER = """
import dataclasses

from m3jax.data.config import Dataset
from m3jax.nn.reranker import RerankerConfig
from m3jax.training.objectives import RerankingConfig

_one = get_config


def get_config():
    one = _one()
    data = dataclasses.replace(
        one.data, reading=Dataset(fill="random"), negatives=2, pair_length=16
    )
    return dataclasses.replace(
        one,
        data=data,
        model=RerankerConfig(one.model.encoder),
        # Listwise, a bias moves nothing, and Adam makes steps of its rounding.
        objective=RerankingConfig("pointwise"),
    )
"""


def found(run: Path, name: str) -> list[float]:
    return [row[name] for row in read(run) if name in row]


def assert_same(run: Path, other: Path, stages: tuple[str, ...]) -> None:
    for stage in stages:
        own, its = run / stage, other / stage
        for name, rtol, atol in (("loss", 1e-4, 0.0), ("dev/ndcg@10", 0.0, 1e-6)):
            ours, theirs = found(own, name), found(its, name)
            assert len(ours) == len(theirs) > 0
            np.testing.assert_allclose(ours, theirs, rtol, atol, err_msg=stage)
    first, second = (load_file(x / "model/model.safetensors") for x in (run, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize(
    ("text", "stages"),
    [
        (STAGES + LORA, ("retromae", "pairs", "unified", "momentum", "lora")),
        (RERANKER, ("",)),
    ],
    ids=["stages", "reranker"],
)
def test_two_processes_do_as_one(
    tmp_path: Path, text: str, stages: tuple[str, ...]
) -> None:
    write_data(tmp_path)
    with open(tmp_path / "tiny.py", "a") as file:
        file.write(text)
    for name, count in (("alone", 1), ("two", 2)):
        words = ["--run-dir", name, "--profile", "2:3"]
        done = ended(launch([tmp_path] * count, *words))
        assert [one.code for one in done] == [0] * count, [one.err for one in done]
    assert_same(tmp_path / "two", tmp_path / "alone", stages)
    for stage in stages:
        # Both are on one host, whose name a trace has.
        traces = (tmp_path / "two" / (stage or "train") / "profile").rglob(
            "*.xplane.pb"
        )
        assert len(list(traces)) == 2
