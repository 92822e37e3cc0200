"""A run of several stages, killed at ten random moments, ends bit for bit the same."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from m3jax.training.writer import read
from tests.test_train import finish, start, weights, write_data

STAGES = """

import dataclasses

from m3jax.training.objectives import RetroMAEConfig, UnifiedConfig

_one = get_config


def get_config():
    one = _one()
    tokenizer = dataclasses.replace(one.tokenizer, mask=True)
    encoder = one.model.encoder
    first = dataclasses.replace(
        one, tokenizer=tokenizer, model=EmbeddingConfig(encoder, "cls"), steps=8
    )
    return {
        "retromae": dataclasses.replace(first, objective=RetroMAEConfig()),
        "pairs": first,
        "unified": dataclasses.replace(
            first,
            model=EmbeddingConfig(encoder, "cls", sparse=True, multivec=8),
            objective=UnifiedConfig(temperature=0.1, distill_from=4),
        ),
    }
"""


def write(folder: Path) -> Path:
    folder.mkdir()
    write_data(folder)
    with open(folder / "tiny.py", "a") as file:
        file.write(STAGES)
    return folder


def losses(folder: Path) -> list[list[float]]:
    runs = [folder / "run" / name for name in ("retromae", "pairs", "unified")]
    return [[row["loss"] for row in read(run) if "loss" in row] for run in runs]


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    """By SIGKILL or by SIGTERM, in whatever stage, in the start or in the export."""
    undisturbed = write(tmp_path / "undisturbed")
    finish(start(undisturbed))
    began = time.time()
    (undisturbed / "run").rename(undisturbed / "cold")
    finish(start(undisturbed))  # what it takes when all is compiled
    whole = time.time() - began
    assert weights(undisturbed) == weights(undisturbed, "cold")
    rng = np.random.default_rng(0)
    kills, finished = 0, 0
    stages = set()
    while kills < 10 or not finished:
        folder = tmp_path / f"killed-{finished}"
        if not folder.exists():
            write(folder)
        until = time.time() + rng.uniform(0.2, 0.8) * whole
        process = start(folder)
        while kills < 10 and time.time() < until and process.poll() is None:
            time.sleep(0.01)
        if kills < 10 and process.poll() is None:
            stages.add(sum(map(bool, losses(folder))))
            which = signal.SIGKILL if rng.random() < 0.7 else signal.SIGTERM
            begun = (folder / "run" / "lineage.json").exists()
            os.kill(process.pid, which)
            said = "".join(x or "" for x in process.communicate(timeout=200))
            if which == signal.SIGTERM and begun:
                assert process.returncode == 0, said
                done = (folder / "run" / "results.json").exists()
                assert done or "preempted: " in said
            kills += 1
            continue
        finish(process)
        assert weights(folder) == weights(undisturbed)
        assert losses(folder) == losses(undisturbed)
        assert not list((folder / "run").rglob(".*")), "leftovers"
        finished += 1
    assert len(stages) > 1, "always in the same stage"
