"""A reranker scores the passages of every batch while a model trains."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data import batching
from m3jax.data.batches import Batcher
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.pipeline import on_devices
from m3jax.data.prompts import Prompts
from m3jax.data.training_sets import measure, open_data
from m3jax.pipeline.stage import TeacherConfig, Train
from m3jax.pipeline.teacher import check_teacher, open_teacher
from m3jax.pipeline.train import run_stages
from m3jax.testing import tiny_config, tiny_tokenizer, write_jsonl
from m3jax.training.objectives import RetroMAEConfig, SubBatches
from m3jax.training.writer import read

GOLDEN = Path(__file__).parent.parent / "golden"
TEACHER = GOLDEN / "reranker_bert"


def stage(folder: Path) -> Train:
    rows = [
        {
            "query": f"what is {n}",
            "pos": [f"{n} is a number"],
            "neg": [f"{n + 1} is another", "no answer"][: 1 + n % 2],
        }
        for n in range(32)
    ]
    default = Train()
    data = DataConfig(
        train=str(write_jsonl(folder / "rows.jsonl", rows)),
        batch_size=16, negatives=2, query_length=8, passage_length=16, shapes=1,
        workers=0, prompts=Prompts("query: "), cache=str(folder / "cache"),
    )  # fmt: skip
    return dataclasses.replace(
        default,
        data=data,
        tokenizer=dataclasses.replace(default.tokenizer, vocab_size=60),
        model=tiny_config(layers=1, dropout=0.0, remat="none"),
        teacher=TeacherConfig(str(TEACHER), pair_length=32),
        sub_batches=SubBatches(count=2),
        steps=2,
        evaluate_every=2,
    )


def test_it_says_what_the_reranker_says(tmp_path: Path) -> None:
    """On the same pairs, without the prompts of the model that learns."""
    config, mesh = stage(tmp_path), make_mesh(MeshConfig())
    teacher = open_teacher(config, mesh)
    assert teacher is not None
    tokenizer = tiny_tokenizer()
    sets = measure(config.data, open_data(config.data), tokenizer)
    plan = batching.make_plan(config.data, sets, seed=0, multiple=8)
    batcher = Batcher(
        sets, plan, tokenizer, {16: np.arange(16)}, pairing=teacher.pairing
    )
    batch = on_devices(batcher(0), batch_sharding(mesh))
    found = teacher.score(batch)
    assert found.pair is None and found.query is batch.query
    scores = np.asarray(found.teacher_scores)
    where, rows = np.asarray(batch.where), np.asarray(batch.row)
    assert not where.all() and (scores[~where] == 0).all()
    reranker = m3jax.Reranker.load(TEACHER)
    pairs = [(f"what is {n}", f"{n} is a number") for n in rows]
    told = reranker.logits(pairs, max_length=32)
    np.testing.assert_allclose(scores[:, 0], told, atol=1e-5)
    assert np.ptp(told) > 1e-4


@pytest.mark.slow
def test_the_model_learns_from_it(tmp_path: Path) -> None:
    run_stages({"train": stage(tmp_path)}, tmp_path / "run")
    rows = [row for row in read(tmp_path / "run") if "loss" in row]
    assert len(rows) == 2
    for row in rows:
        assert row["distill"] > 0
        total = row["distill"] + row["contrastive"]
        assert row["loss"] == pytest.approx(total, rel=1e-5)


def test_what_it_cannot_teach(tmp_path: Path) -> None:
    config = stage(tmp_path)
    words = dataclasses.replace(config, objective=RetroMAEConfig())
    with pytest.raises(InputError, match=r"teacher\.model: expected an objective"):
        check_teacher(words)
    data = dataclasses.replace(config.data, reading=Dataset(teacher_scores=True))
    with pytest.raises(InputError, match="both"):
        check_teacher(dataclasses.replace(config, data=data))
    bert = dataclasses.replace(config, teacher=TeacherConfig(str(GOLDEN / "bert")))
    with pytest.raises(InputError, match="expected a reranker, found an embedding"):
        check_teacher(bert)
    long = TeacherConfig(str(TEACHER), pair_length=9_999)
    with pytest.raises(InputError, match=r"teacher\.pair_length: expected at most"):
        check_teacher(dataclasses.replace(config, teacher=long))
