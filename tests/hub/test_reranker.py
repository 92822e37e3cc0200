"""Folders of rerankers: what is written into them, and bad ones."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import m3jax
from m3jax.core.errors import InputError
from m3jax.hub import torch_file
from m3jax.hub.reranker import TASK, Model, load, save

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = {
    "README.md",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
KINDS = {
    "reranker_bert": "BertForSequenceClassification",
    "reranker_xlmr": "XLMRobertaForSequenceClassification",
    "reranker_qwen3": "Qwen3ForCausalLM",
    "reranker_qwen3_untied": "Qwen3ForCausalLM",
}


def edit(name: str, **values: Any) -> Callable[[Path], Any]:
    """Change keys of a JSON file; None takes a key away."""

    def change(folder: Path) -> None:
        found = {**json.loads((folder / name).read_text()), **values}
        kept = {key: value for key, value in found.items() if value is not None}
        (folder / name).write_text(json.dumps(kept))

    return change


def weights(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path)

    return write


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


@pytest.mark.parametrize("name", KINDS)
def test_what_is_written(name, tmp_path) -> None:
    save(load(GOLDEN / name), tmp_path / "model", card="## Scores\n\nMRR 0.5")
    assert {path.name for path in (tmp_path / "model").iterdir()} == FILES
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["architectures"] == [KINDS[name]]
    assert config["m3jax_version"] == m3jax.__version__
    if "qwen3" in name:
        assert config["tie_word_embeddings"] == (name == "reranker_qwen3")
    else:
        assert len(config["id2label"]) == len(config["label2id"]) == 1
    card = (tmp_path / "model" / "README.md").read_text()
    assert "pipeline_tag: text-ranking\n" in card.split("---\n")[1]
    assert "m3jax.Reranker.load" in card and card.endswith("\n## Scores\n\nMRR 0.5\n")
    assert ("CrossEncoder" in card) == ("qwen3" not in name)


def test_the_length_of_a_pair(tmp_path) -> None:
    assert load(GOLDEN / "reranker_xlmr").max_length == 80
    shutil.copytree(GOLDEN / "reranker_xlmr", tmp_path / "model")
    for stated, found in ((40, 40), (10**30, 80), (None, 80), (1e30, 80), (40.0, 40)):
        edit("tokenizer_config.json", model_max_length=stated)(tmp_path / "model")
        assert load(tmp_path / "model").max_length == found
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    assert load(tmp_path / "model").max_length == 80


def test_the_ids_of_yes_and_no() -> None:
    for name in ("reranker_qwen3", "reranker_qwen3_untied"):
        with np.load(GOLDEN / name / "expected.npz") as file:
            expected = int(file["yes_id"]), int(file["no_id"])
        model = load(GOLDEN / name)
        assert model.config.yes_no_ids == expected
        assert model.config.tied == (name == "reranker_qwen3")
    assert TASK.startswith("Given a web search query")


def test_a_reranker_as_a_bin(tmp_path) -> None:
    shutil.copytree(GOLDEN / "reranker_xlmr", tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    path.unlink()
    torch_file.write(tmp_path / "model" / "pytorch_model.bin", tensors)
    found = load(tmp_path / "model").params["classifier"]["out"]["kernel"]
    expected = load(GOLDEN / "reranker_xlmr").params["classifier"]["out"]["kernel"]
    np.testing.assert_array_equal(found, expected)


def test_a_hostile_pickle_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self) -> Any:
            return open, ("pwned", "w")

    shutil.copytree(GOLDEN / "reranker_bert", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    evil = tmp_path / "model" / "pytorch_model.bin"
    evil.write_bytes(pickle.dumps({"a": Evil()}, 2))
    with pytest.raises(InputError, match=r"pytorch_model\.bin: .* global _?io\.open"):
        m3jax.Reranker.load(tmp_path / "model")
    assert not (tmp_path / "pwned").exists()


XLMR, QWEN, BERT = "reranker_xlmr", "reranker_qwen3", "reranker_bert"
OUT = "classifier.out_proj.weight"
BAD = {
    # name: (golden folder, change, message)
    "other labels": (
        BERT,
        edit("config.json", id2label={"0": "no", "1": "yes"}),
        r"config\.json: expected one logit, found 2 labels",
    ),
    "no head": (
        BERT,
        edit("config.json", architectures=["BertModel"]),
        r"architectures: expected a BERT or XLM-R .*, found BertModel\. m3jax\.Embed",
    ),
    "no architectures": (
        XLMR,
        edit("config.json", architectures=None),
        "architectures: expected a BERT or XLM-R .*, found none",
    ),
    "other architecture": (
        XLMR,
        edit("config.json", model_type="llama"),
        "model_type: expected one of bert, .* qwen3, found 'llama'",
    ),
    "architectures that are a number": (
        XLMR,
        edit("config.json", architectures=7),
        r"config\.json: architectures: expected a list of names, found 7",
    ),
    "labels that are a number": (
        BERT,
        edit("config.json", id2label=1),
        r"config\.json: id2label: expected number -> label, found 1",
    ),
    "no config": (XLMR, remove("config.json"), r"config\.json: expected a file"),
    "no weights": (
        XLMR,
        remove("model.safetensors"),
        r"expected model\.safetensors or pytorch_model\.bin, found neither",
    ),
    "cut weights": (XLMR, cut, r"model\.safetensors: expected a whole safetensors"),
    "no tokenizer": (
        BERT,
        remove("tokenizer.json", "vocab.txt"),
        r"expected a tokenizer: .*, found none of them",
    ),
    "no tensor of the head": (
        XLMR,
        weights(lambda tensors: tensors.pop(OUT)),
        rf"model\.safetensors: expected a tensor {re.escape(OUT)}, found none",
    ),
    "a tensor left over": (
        QWEN,
        weights(lambda tensors: tensors.update(score=np.ones(3, np.float32))),
        "a parameter for every tensor, found none for score",
    ),
    "two logits": (
        XLMR,
        weights(lambda tensors: tensors.update({OUT: np.ones((2, 24), np.float32)})),
        rf"shape \(1, 24\) for {re.escape(OUT)}, found \(2, 24\)",
    ),
    "an lm_head that is not there": (
        QWEN,
        edit("config.json", tie_word_embeddings=False),
        r"expected a tensor lm_head\.weight, found none",
    ),
    "a length that is a word": (
        XLMR,
        edit("tokenizer_config.json", model_max_length="40"),
        r"tokenizer_config\.json: expected a positive length, found '40'",
    ),
    "a small vocabulary": (
        XLMR,
        edit("config.json", vocab_size=20),
        "token ids below vocab_size=20, found a tokenizer with id",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder(case, tmp_path) -> None:
    golden, change, message = BAD[case]
    shutil.copytree(GOLDEN / golden, tmp_path / "copy")
    change(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as error:
        m3jax.Reranker.load(tmp_path / "copy")
    assert str(tmp_path / "copy") in error.value.where
    assert "\n" not in str(error.value)


def test_a_vocabulary_without_yes(tmp_path) -> None:
    shutil.copytree(GOLDEN / "qwen3", tmp_path / "copy")
    (tmp_path / "copy" / "modules.json").unlink()  # which would make it an embedder
    (tmp_path / "copy" / "tokenizer.json").unlink()
    path = GOLDEN / "bert" / "tokenizer.json"
    shutil.copy(path, tmp_path / "copy")
    edit("tokenizer_config.json", pad_token="[PAD]")(tmp_path / "copy")
    with pytest.raises(InputError, match='tokens "yes" and "no", found none'):
        load(tmp_path / "copy")


@pytest.mark.parametrize("name", ["bert", "m3", "simcse"])
def test_an_embedding_model_is_no_reranker(name) -> None:
    with pytest.raises(InputError, match=r"m3jax\.Embedder opens embedding models"):
        m3jax.Reranker.load(GOLDEN / name)


@pytest.mark.parametrize("name", [BERT, XLMR])
def test_a_reranker_is_no_embedding_model(name) -> None:
    with pytest.raises(InputError, match=r"found a reranker\. Use m3jax\.Reranker"):
        m3jax.Embedder.load(GOLDEN / name)


def test_a_reranker_by_its_name_is_no_embedding_model() -> None:
    for id in ("BAAI/bge-reranker-v2-m3", "Qwen/Qwen3-Reranker-0.6B"):
        with pytest.raises(InputError, match=r"found a reranker\. Use m3jax\.Reranker"):
            m3jax.Embedder.load(id)


def test_a_model_that_contradicts_itself(tmp_path) -> None:
    model = load(GOLDEN / BERT)
    long = Model(model.config, model.params, model.tokenizer, 65)
    with pytest.raises(InputError, match=r"max_length from 1 to 64, .*, found 65"):
        save(long, tmp_path / "model")
    assert not list(tmp_path.iterdir())
