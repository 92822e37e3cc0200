"""A look at data shows what the objective of the stage reads."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.data.words import stand_in
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import trained
from m3jax.pipeline.inspection import inspect
from m3jax.pipeline.stage import Train
from m3jax.testing import write_jsonl
from m3jax.training.objectives import (
    ContrastiveConfig,
    MaskedLMConfig,
    MomentumConfig,
    RerankingConfig,
    RetroMAEConfig,
    UnifiedConfig,
)
from m3jax.training.objectives.make import make_objective, reads_of

BERT = BertConfig(hidden=16, layers=1, heads=2, mlp=16, max_positions=64)


def stage(folder: Path, objective: Any, model: Any) -> Train:
    rows = [
        {"query": f"where is {n}", "pos": [f"{n} lies far far far away"]}
        for n in range(32)
    ]
    data = DataConfig(
        train=str(write_jsonl(folder / "rows.jsonl", rows)), batch_size=8,
        query_length=16, passage_length=32, pair_length=48, shapes=1,
        cache=str(folder / "cache"),
    )  # fmt: skip
    tokenizer = TokenizerConfig(vocab_size=80, mask=True)
    return Train(data=data, tokenizer=tokenizer, model=model, objective=objective)


@pytest.mark.parametrize(
    ("objective", "model"),
    [
        (ContrastiveConfig(), EmbeddingConfig(BERT)),
        (RetroMAEConfig(), EmbeddingConfig(BERT, "cls")),
        (RerankingConfig(), RerankerConfig(BERT)),
    ],
)
def test_texts_are_those_that_are_read(
    objective: Any, model: Any, tmp_path: Path
) -> None:
    one = stage(tmp_path, objective, model)
    found, drawn = inspect({"train": one}, "train", devices=1, samples=2)
    sample, reads = found.sets[0].samples[0], reads_of(objective)
    assert (sample.query is None) == (reads != "apart")
    (text,) = sample.passages
    assert text is not None
    letters = text.text.replace(" ", "").replace("▁", " ")
    assert "lies far" in letters
    assert ("where is" in letters) == (reads == "together")
    # And they are what batches are padded to.
    assert text.tokens + text.padding == drawn.plan.shapes[0].passage_length
    assert 0 < found.totals.counted_efficiency <= 1


@pytest.mark.parametrize(
    "config",
    [
        ContrastiveConfig(), UnifiedConfig(heads=("dense",)), MomentumConfig(queue=8),
        RetroMAEConfig(), MaskedLMConfig(), RerankingConfig(),
    ],
)  # fmt: skip
def test_objectives_read_what_is_said_of_them(config: Any) -> None:
    reranks = isinstance(config, RerankingConfig)
    model = RerankerConfig(BERT) if reranks else EmbeddingConfig(BERT, "cls")
    module = trained.module(dataclasses.replace(Train(), model=model))
    words = stand_in(BERT.vocab_size)
    objective = make_objective(config, module, make_mesh(MeshConfig()), words=words)
    assert objective.reads == reads_of(config)
