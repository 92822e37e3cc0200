"""Hub ids from a cache laid out by hand; no test asks the network."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

import m3jax
from m3jax.core.errors import InputError
from m3jax.hub import folder
from m3jax.hub.fetch import fetch

GOLDEN = Path(__file__).parent.parent / "golden"
COMMITS = {"main": "0" * 40, "v2": "2" * 40}


@pytest.fixture(autouse=True)
def offline(monkeypatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a test asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put(cache: Path, id: str, golden: str, *, revision: str = "main") -> Path:
    """Lay a golden folder into the cache as huggingface_hub does."""
    model = cache / f"models--{id.replace('/', '--')}"
    (model / "refs").mkdir(parents=True, exist_ok=True)
    (model / "refs" / revision).write_text(COMMITS[revision])
    snapshot = model / "snapshots" / COMMITS[revision]
    (model / "blobs").mkdir(exist_ok=True)
    for path in (GOLDEN / golden).rglob("*"):
        if path.is_file() and path.name != "expected.npz":
            blob = model / "blobs" / f"{revision}-{path.name}-{path.parent.name}"
            shutil.copy(path, blob)
            link = snapshot / path.relative_to(GOLDEN / golden)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_local_folder_is_taken_as_it_is(tmp_path, cache) -> None:
    assert fetch(tmp_path) == fetch(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match="revision v2: expected a hub id, found a loc"):
        fetch(tmp_path, revision="v2")


@pytest.mark.parametrize("golden", ["bert", "m3", "qwen3", "simcse"])
def test_a_model_in_the_cache(golden, cache) -> None:
    snapshot = put(cache, "owner/name", golden)
    assert fetch("owner/name") == snapshot
    found, expected = folder.load("owner/name"), folder.load(GOLDEN / golden)
    assert found.config == expected.config
    for one, two in zip(
        found.params["encoder"]["word"].values(),
        expected.params["encoder"]["word"].values(),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_a_reranker_in_the_cache(cache) -> None:
    put(cache, "BAAI/bge-reranker-v2-m3", "reranker_xlmr")
    model = m3jax.Reranker.load("BAAI/bge-reranker-v2-m3")
    assert model.module.config.head == "classifier"


def test_a_hub_id_is_like_itself(cache) -> None:
    put(cache, "princeton-nlp/sup-simcse-bert-base-uncased", "simcse")
    model = folder.load("princeton-nlp/sup-simcse-bert-base-uncased")
    assert (model.config.pooling, model.config.mlp_head) == ("cls", "always")
    put(cache, "intfloat/e5-small-v2", "bert")
    model = folder.load("intfloat/e5-small-v2")
    assert (model.prompts.query, model.prompts.passage) == ("query: ", "passage: ")


def test_revisions(cache) -> None:
    one = put(cache, "owner/name", "bert")
    two = put(cache, "owner/name", "qwen2", revision="v2")
    assert fetch("owner/name", revision="main") == one
    assert fetch("owner/name", revision="v2") == two
    assert fetch("owner/name", revision=COMMITS["v2"]) == two
    assert folder.load("owner/name", revision="v2").config.encoder.layers == 2
    match = "owner/name: expected a local folder, a model in the cache"
    with pytest.raises(InputError, match=match):
        fetch("owner/name", revision="v3")


class Hub:
    """Stands in for snapshot_download: puts what the patterns allow into the cache."""

    def __init__(
        self, snapshot: Path, names: list[str], contents: dict[str, str] | None = None
    ) -> None:
        self.snapshot, self.contents = snapshot, contents or {}
        self.names, self.calls = [*names, *self.contents], []

    def __call__(self, name: str, *, revision, allow_patterns, ignore_patterns) -> str:
        self.calls.append((name, revision))
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for file in huggingface_hub.utils.filter_repo_objects(
            self.names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        ):
            (self.snapshot / file).parent.mkdir(exist_ok=True)
            (self.snapshot / file).write_text(self.contents.get(file, ""))
        return str(self.snapshot)

    @property
    def files(self) -> set[str]:
        found = (path for path in self.snapshot.rglob("*") if path.is_file())
        return {str(path.relative_to(self.snapshot)) for path in found}


M3 = [
    "config.json",
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "1_Pooling/config.json",
]
HEADS = ["sparse_linear.pt", "colbert_linear.pt"]
OTHERS = [
    "onnx/model.onnx",
    "onnx/config.json",
    "imgs/nqa.jpg",
    "model.msgpack",
    "x.py",
]


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        (["pytorch_model.bin"], 2),  # BAAI/bge-m3
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], 2),
        (["model.safetensors"], 1),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], 1),
    ],
)
def test_only_what_is_needed_is_downloaded(weights, calls, tmp_path, monkeypatch):
    hub = Hub(tmp_path / "snapshot", [*M3, *HEADS, *OTHERS, *weights])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    assert fetch("BAAI/bge-m3", revision="abc") == hub.snapshot
    assert hub.calls == [("BAAI/bge-m3", "abc")] * calls
    assert hub.files == {*M3, *HEADS, *weights}


SAFE, BIN, DENSE = "model.safetensors", "pytorch_model.bin", "2_Dense"


@pytest.mark.parametrize(
    ("encoder", "weights", "calls"),
    [
        ("", [BIN, f"{DENSE}/{SAFE}"], 2),
        ("", [SAFE, f"{DENSE}/{BIN}"], 2),
        ("", [BIN, f"{DENSE}/{BIN}"], 2),
        ("", [SAFE, f"{DENSE}/{SAFE}"], 1),
        ("0_T", [f"0_T/{SAFE}", f"{DENSE}/{SAFE}"], 1),
        ("0_T", [f"0_T/{BIN}", f"{DENSE}/{SAFE}"], 2),
        ("0_T", [f"0_T/{BIN}.index.json", "0_T/pytorch_model-1.bin"], 2),
    ],
)
def test_weights_are_looked_for_where_modules_json_says(
    encoder, weights, calls, tmp_path, monkeypatch
) -> None:
    rows = [("Transformer", encoder), ("Pooling", "1_Pooling")]
    rows += [("Dense", DENSE)] if any(DENSE in name for name in weights) else []
    content = json.dumps(
        [{"type": f"sentence_transformers.{kind}", "path": path} for kind, path in rows]
    )
    others = [f"other/{BIN}", *([BIN] if encoder else [])]
    names = [*M3, *OTHERS, *weights, *others]
    hub = Hub(tmp_path / "snapshot", names, {"modules.json": content})
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    fetch("owner/name")
    assert len(hub.calls) == calls
    assert hub.files == {*M3, "modules.json", *weights}


def test_the_older_weights_are_left_where_there_are_both(tmp_path, monkeypatch) -> None:
    both = ["model.safetensors", "pytorch_model.bin", "pytorch_model.h5"]
    hub = Hub(tmp_path / "snapshot", [*M3, *both])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    fetch("owner/name")
    assert hub.files == {*M3, "model.safetensors"}


def test_neither_network_nor_cache(cache) -> None:
    with pytest.raises(InputError) as error:
        m3jax.Embedder.load("BAAI/bge-m3")
    assert str(error.value) == (
        "BAAI/bge-m3: expected a local folder, a model in the cache, or a network to "
        "fetch it, found neither: HF_HUB_OFFLINE is set. No such folder is here; try "
        "again with a network."
    )


def test_a_network_that_does_not_answer(cache, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known\nand much more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        InputError, match=r"neither: Name or service not known\. No such"
    ):
        fetch("owner/name")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("RepositoryNotFoundError", "a model of the Hugging Face hub, found neither"),
        ("GatedRepoError", "a model that asks for a login. Run `hf auth login`"),
        ("RevisionNotFoundError", "expected a revision of it, found v9"),
    ],
)
def test_what_the_hub_says(kind, message, monkeypatch) -> None:
    error_type = getattr(huggingface_hub.errors, kind)

    def refuse(*_: Any, **__: Any) -> None:
        raise error_type.__new__(error_type, "no\nno")  # without an answer of the hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=message) as error:
        fetch("owner/name", revision="v9")
    assert error.value.where == "owner/name" and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["nowhere", "a/b/c", "./name", "../name", "owner/", "own er/na:me"]
)
def test_what_is_no_hub_id(name, cache, tmp_path, monkeypatch) -> None:
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(
        InputError, match=r"expected a local folder, or a .*, found nei"
    ):
        fetch(name)


def test_the_variable_itself(tmp_path) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "JAX_PLATFORMS": "cpu",
    }
    program = "from m3jax.hub.fetch import fetch; fetch('BAAI/bge-m3')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "neither: HF_HUB_OFFLINE is set" in done.stderr.splitlines()[-1]
