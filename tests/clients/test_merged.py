"""Merged models in the hands of the real clients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.inference.embedder import Embedder
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.run import opened, write
from tests.clients.test_clients import PAIRS, encode, read
from tests.pipeline.merges import models

NAMES = ("bert", "m3", "qwen3")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models merged with themselves under other numbers, one of them in many files."""
    to = tmp_path_factory.mktemp("merged")
    for name in NAMES:
        model = models.golden(name)
        places = [
            models.write(x, to / f"{name}-{n}", max_file=30_000 if n else None)
            for n, x in enumerate((models.other(model, 1), model))
        ]
        given = places[::-1] if name == "qwen3" else places
        with opened(Merge(tuple(given), t=0.3), to / name) as found:
            write(found, to / name)
    assert len(list((to / "qwen3").glob("model-*.safetensors"))) > 1
    return {name: to / name for name in NAMES}


@pytest.fixture(scope="module")
def said(
    merged: dict[str, Path], peer: Any, texts: Any, tmp_path_factory: Any
) -> dict[str, dict[str, Any]]:
    """What the clients say about every folder."""
    out = tmp_path_factory.mktemp("said")
    jobs = [
        {
            "folder": str(merged[name]),
            "texts": texts,
            "pairs": PAIRS if name == "m3" else None,
            "pooling": "cls",
        }
        for name in NAMES
    ]
    (out / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    peer("open_export.py", out / "jobs.json", out)
    return {name: read(out / f"{at}.npz") for at, name in enumerate(NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_sentence_transformers_opens_a_merged_model(
    name: str, merged: Any, said: Any, texts: Any
) -> None:
    found = said[name]
    assert set(found["wrong"]) <= {"pooler.dense.weight", "pooler.dense.bias"}
    ours = encode(Embedder.load(merged[name]), texts)
    assert ours.dense is not None
    np.testing.assert_allclose(found["plain"], ours.dense, atol=1e-5, rtol=0)


def test_flag_embedding_opens_all_heads_of_a_merged_model(
    merged: Any, said: Any, texts: Any
) -> None:
    found = said["m3"]
    ours = encode(Embedder.load(merged["m3"]), texts, "dense", "sparse", "multivec")
    assert ours.sparse is not None and ours.multivec is not None
    assert ours.dense is not None
    np.testing.assert_allclose(found["flag_dense"], ours.dense, atol=1e-5, rtol=0)
    theirs = json.loads(str(found["flag_sparse"]))
    for weights, row in zip(theirs, ours.sparse, strict=True):
        assert {int(token) for token in weights} == set(row)
        for token, weight in weights.items():
            assert row[int(token)] == pytest.approx(weight, abs=1e-5)
    vectors = np.concatenate(list(ours.multivec))
    np.testing.assert_allclose(found["flag_vectors"], vectors, atol=1e-5, rtol=0)
