"""Hosts are processes of their own, and together make the batch of one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.data import tokenize
from m3jax.testing import TEXTS, write_jsonl
from tests.hosts import batcher
from tests.mixtures import tokenizer_of, write_beir

ROOT = Path(__file__).parent.parent.parent
PAIRS = [
    {
        "query": f"q {i} {TEXTS[i % 3][: 3 * i]}",
        "pos": [f"p {i}", TEXTS[i % 3][i % 9 :]],
    }
    for i in range(60)
]
LABELS = [
    {"text": f"{TEXTS[i % 3][i % 20 :]} {i}", "label": f"{i % 5}"} for i in range(50)
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config of a run, with nothing in its cache yet."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer = tokenizer_of({"pairs": PAIRS, "labels": LABELS})
    tokenize.save(tokenizer, folder, max_length=64)
    pairs = write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    labels = write_jsonl(tmp_path / "labels.jsonl", LABELS)
    mixture = [
        {"path": str(pairs), "fill": "random", "weight": 2, "shuffle_ratio": 0.1},
        {"path": str(labels), "labels": "same", "weight": 1},
    ]
    data = {
        "dev": str(write_beir(tmp_path / "dev")),
        "batch_size": 8,
        "negatives": 2,
        "shapes": 3,
    }
    data |= {"query_length": 24, "passage_length": 32, "homogeneity": 0.5}
    data |= {"cache": str(tmp_path / "cache")}
    path = tmp_path / "config.json"
    run = {"tokenizer": str(folder), "seed": 3, "steps": 40}
    path.write_text(json.dumps(run | {"mixture": mixture, "data": data}))
    return path


def run_hosts(config: Path, hosts: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """Let all hosts begin at once; put their rows together."""
    outputs = [config.parent / f"{hosts}-{start}-{host}.npz" for host in range(hosts)]
    words = [(host, hosts, start, stop, output) for host, output in enumerate(outputs)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.hosts", str(config), *map(str, one)], cwd=ROOT
        )
        for one in words
    ]
    assert [one.wait(timeout=300) for one in running] == [0] * hosts
    parts = [dict(np.load(output)) for output in outputs]
    return {
        name: parts[0][name]
        if name.endswith("/size")
        else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }


def assert_same(found: dict[str, np.ndarray], whole: Any, steps: range) -> None:
    for step in steps:
        for name, array in whole(step).items():
            np.testing.assert_array_equal(found[f"{step}/{name}"], array)


@pytest.mark.parametrize(
    "hosts",
    [
        2,
        pytest.param(4, marks=pytest.mark.slow),
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_processes_together_make_the_batch_of_one(config: Path, hosts: int) -> None:
    found = run_hosts(config, hosts, 0, 4)
    # Half as many take over after a restart.
    found |= run_hosts(config, hosts // 2, 4, 8)
    whole = batcher(json.loads(config.read_text()), 0, 1)
    assert_same(found, whole, range(8))
