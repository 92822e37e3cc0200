"""Batches that do not fit into memory are named before the first step."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch
from m3jax.data.training_sets import open_data
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import fit, memory
from m3jax.pipeline.learner import make_learner
from m3jax.pipeline.stage import SCRATCH, Train
from m3jax.pipeline.stages import resolve
from m3jax.pipeline.train import run_stages
from m3jax.testing import tiny_config, tiny_tokenizer, write_jsonl
from m3jax.training.abstract import abstract_batch
from m3jax.training.ahead import compile_all
from m3jax.training.objectives import (
    ContrastiveConfig,
    RerankingConfig,
    contrastive,
)
from m3jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from m3jax.training.state import abstract_state, new_state, starting
from m3jax.training.step import make_step
from m3jax.training.writer import read

TINY = tiny_config(layers=1, dropout=0.0, remat="none")


def stage(folder: Path) -> Train:
    """Two shapes: half of the passages are longer."""
    rows = [
        {"query": f"where is {n}", "pos": [f"{n} lies " + "far " * (n % 2 * 9)]}
        for n in range(48)
    ]
    default = Train(model=TINY, steps=4, evaluate_every=4)
    data = dataclasses.replace(
        default.data, train=str(write_jsonl(folder / "rows.jsonl", rows)),
        batch_size=8, query_length=8, passage_length=16, buckets=(8, 16), workers=0,
        cache=str(folder / "cache"),
    )  # fmt: skip
    tokenizer = dataclasses.replace(default.tokenizer, vocab_size=60)
    return dataclasses.replace(default, data=data, tokenizer=tokenizer)


def test_what_does_not_fit_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: 50_000)
    with pytest.raises(InputError) as found:
        run_stages({"train": stage(tmp_path)}, tmp_path / "run")
    told = str(found.value)
    assert "batches of 8 queries, texts of 8 tokens: expected a step within" in told
    assert "--sub-batches.count 2" in told
    assert not list((tmp_path / "run").rglob("metrics.jsonl"))


def test_a_later_stage_is_named_before_the_first_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its texts, of which half are longer than those of the first, do not fit."""
    last = stage(tmp_path)
    short = dataclasses.replace(last.data, passage_length=8, buckets=(8,))
    first = dataclasses.replace(last, data=short)
    needed: list[int] = []

    def compiled(step: object, like: object, batch: Batch) -> tuple[object, int]:
        needed.append(batch.passage.ids.shape[-1])
        return object(), needed[-1]

    for module in (memory, fit):
        monkeypatch.setattr(module, "memory_limit", lambda: 10)
    monkeypatch.setattr(memory, "compile_step", compiled)
    with pytest.raises(InputError, match=r"^last: batches of 8 queries, texts of 16 "):
        run_stages({"first": first, "last": last}, tmp_path / "run")
    assert needed == [8, 16]
    assert not list((tmp_path / "run").rglob("metrics.jsonl"))


def test_pairs_of_a_later_stage_are_as_long_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reranker reads both together: its texts may fill the position table."""
    embeds = stage(tmp_path)
    data = dataclasses.replace(embeds.data, pair_length=32, buckets=(32,))
    encoder = dataclasses.replace(TINY.encoder, max_positions=32)
    model = RerankerConfig(encoder)
    last = dataclasses.replace(
        embeds, init=SCRATCH, data=data, model=model, objective=RerankingConfig()
    )
    seen: list[tuple[int, ...]] = []

    def compiled(step: Any, like: object, batch: Batch) -> tuple[object, int]:
        jax.eval_shape(step, like, batch)
        assert batch.pair is not None
        seen.append(batch.pair.ids.shape)
        return object(), 11

    for module in (memory, fit):
        monkeypatch.setattr(module, "memory_limit", lambda: 10)
    monkeypatch.setattr(memory, "compile_step", compiled)
    tokenizer = tiny_tokenizer()
    (one,) = resolve({"last": last}, tmp_path / "run")
    words = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size)
    last = dataclasses.replace(
        one.stage, model=dataclasses.replace(model, encoder=words)
    )
    mesh = make_mesh(last.mesh)
    learner = make_learner(last, tokenizer, mesh)
    with pytest.raises(InputError, match="batches of 8 queries, texts of 32 tokens"):
        fit.check_later(last, open_data(last.data), learner, tokenizer, mesh)
    assert seen == [(8, 1, 32)]


@pytest.mark.slow
def test_what_fits_trains_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a device tells its memory, every shape is compiled once, and first."""
    run_stages({"train": stage(tmp_path)}, tmp_path / "plain")
    monkeypatch.setattr(memory, "memory_limit", lambda: 10**12)
    run_stages({"train": stage(tmp_path)}, tmp_path / "ahead")
    plain, ahead = (
        [row["loss"] for row in read(tmp_path / name) if "loss" in row]
        for name in ("plain", "ahead")
    )
    assert len(plain) == 4 and plain == ahead


@pytest.mark.slow
def test_the_programs_that_were_compiled_are_run() -> None:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    module = EmbeddingModule(TINY)
    objective = contrastive(module, mesh, ContrastiveConfig())
    tx = make_optimizer(OptimizerConfig(), 4)
    like = abstract_state(starting(module), objective, tx, mesh, SHARDING)
    plain = make_step(objective, tx, make_schedule(OptimizerConfig(), 4), mesh, like)

    def batch(length: int) -> Batch:
        shapes = abstract_batch(mesh, 8, 1, query_length=8, passage_length=length)
        return jax.tree.map(
            lambda x: jax.device_put(np.ones(x.shape, x.dtype), x.sharding), shapes
        )

    def refuse(batch: Batch, needed: int) -> InputError:
        return InputError("less", f"{needed}", where=f"{batch.passage.ids.shape}")

    each = [functools.partial(batch, length) for length in (8, 16)]
    with pytest.raises(InputError, match=r"\(8, 1, 8\): expected less, found [1-9]"):
        compile_all(plain, like, each, 10, refuse)
    step = compile_all(plain, like, each, 10**12, refuse)
    state = new_state(starting(module), objective, tx, like, 0)
    for length in (16, 8, 16):
        state, _ = step(state, batch(length))
    assert plain._cache_size() == 0  # type: ignore[attr-defined]
    state, metrics = step(state, batch(24))
    assert np.isfinite(metrics["loss"])
    assert plain._cache_size() == 1  # type: ignore[attr-defined]
