"""What the clients themselves save today opens here, with their numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.pairs import BODY, PREFIX, SUFFIX
from m3jax.hub.reranker import TASK
from m3jax.inference import batches
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker

FAMILIES = {
    "bert": "mean",
    "roberta": "mean",
    "m3": "cls",
    "qwen2": "mean",
    "qwen3": "last",
    "bert-dense": "mean",
}
RERANKERS = ("cross-bert", "cross-xlmr", "causal-qwen3", "causal-qwen3_untied")
# Short, since what a client cuts without a stated maximum is another question.
TEXTS = [
    "what is a cell?",
    "a",
    "Ärzte, 37 °C",
    "細胞",
    "zebra \U0001f9ec",
]
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("the cell", "the cell"),
    ("細胞", "細胞は生命の単位です"),
]


@pytest.fixture(scope="module")
def made(peer, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A folder with the folders, and what the clients say."""
    folder = tmp_path_factory.mktemp("theirs")
    body = BODY.format(task=TASK, query="{query}", passage="{passage}")
    inputs = {"texts": TEXTS, "pairs": PAIRS, "chat": [PREFIX, body, SUFFIX]}
    paths = [folder / f"{name}.json" for name in inputs]
    for path, value in zip(paths, inputs.values(), strict=True):
        path.write_text(json.dumps(value), encoding="utf-8")
    peer("make_folders.py", *paths, folder)
    with np.load(folder / "expected.npz") as file:
        return folder, dict(file)


@pytest.fixture(autouse=True)
def _one_batch(monkeypatch) -> None:
    """Compiling takes the time here."""
    monkeypatch.setattr(batches, "RUNGS", ())


@pytest.mark.parametrize("name", [name for name in FAMILIES if "dense" not in name])
def test_a_folder_of_transformers_loads(name, made) -> None:
    folder, expected = made
    pooling: Any = None
    if name.startswith("qwen"):
        # Nothing in it tells an embedding model from a language model.
        with pytest.raises(InputError, match="expected a pooling, found none"):
            Embedder.load(folder / f"plain-{name}")
        pooling = "mean"
    model = Embedder.load(folder / f"plain-{name}", pooling=pooling)
    ours: Any = model.encode_passage(TEXTS, batch_tokens=1 << 20).dense
    theirs = expected[f"plain-{name}"]
    print(f"{name}: {np.abs(theirs - ours).max():.1e}")
    np.testing.assert_allclose(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "pooling"), FAMILIES.items())
def test_a_folder_of_sentence_transformers_loads(name, pooling, made) -> None:
    folder, expected = made
    model = Embedder.load(folder / f"st-{name}")
    assert model.module.config.pooling == pooling
    assert (model.prompts.query, model.prompts.passage) == ("find: ", "text: ")
    ours: Any = model.encode_passage(TEXTS, batch_tokens=1 << 20).dense
    np.testing.assert_allclose(expected[f"st-{name}"], ours, atol=1e-5, rtol=0)
    ours = model.encode_query(TEXTS, batch_tokens=1 << 20).dense
    np.testing.assert_allclose(expected[f"st-{name} query"], ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_of_the_clients_loads(name, made) -> None:
    folder, expected = made
    ours = Reranker.load(folder / name).score(PAIRS, batch_tokens=1 << 20)
    np.testing.assert_allclose(expected[name], ours, atol=1e-5, rtol=0)
