"""Every family is written, and read again bit for bit; nothing of others is lost."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.hub import folder as hub
from m3jax.hub import reranker, tensors
from m3jax.hub.folder import Model, load, save
from m3jax.nn import lora
from m3jax.nn.lora import LoraConfig

GOLDEN = Path(__file__).parent.parent / "golden"
FAMILIES = ("bert", "m3", "qwen2", "qwen3", "roberta", "simcse")
RERANKERS = ("bert", "xlmr", "qwen3", "qwen3_untied")
TEXTS = ["the cell is the smallest unit of life", "", "Ärzte messen 37 °C", "細胞"]
SIMCSE = "princeton-nlp/{}-simcse-bert-base-uncased"


def same(found: Any, expected: Any) -> None:
    before, after = tree.paths(expected), tree.paths(found)
    assert before.keys() == after.keys()
    for path, leaf in before.items():
        assert after[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)


def ids(model: Any) -> list[list[int]]:
    rows = tokenize.encode(model.tokenizer, TEXTS, max_length=16)
    return [row.tolist() for row in rows]


def again(model: Model, folder: Path) -> Model:
    """The model, written and read."""
    save(model, folder)
    found = load(folder)
    assert (found.config, found.max_length) == (model.config, model.max_length)
    assert found.prompts == model.prompts
    assert ids(found) == ids(model)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_an_embedding_model(name, tmp_path) -> None:
    model = load(GOLDEN / name)
    same(again(model, tmp_path / "one").params, model.params)
    # A second export is the same files.
    save(load(tmp_path / "one"), tmp_path / "two")
    for path in (tmp_path / "one").rglob("*.*"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker(name, tmp_path) -> None:
    model = reranker.load(GOLDEN / f"reranker_{name}")
    reranker.save(model, tmp_path / "model")
    found = reranker.load(tmp_path / "model")
    assert (found.config, found.max_length) == (model.config, model.max_length)
    same(found.params, model.params)
    assert ids(found) == ids(model)
    # Their names are those of the published folder, but for BERT's unused ones.
    written = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    golden = safetensors.numpy.load_file(
        GOLDEN / f"reranker_{name}" / "model.safetensors"
    )
    assert written.keys() == golden.keys()
    for key, tensor in golden.items():
        np.testing.assert_array_equal(written[key], tensor)


def test_all_three_heads_and_where_they_are(tmp_path) -> None:
    model = load(GOLDEN / "m3")
    assert model.config.outputs == ("dense", "sparse", "multivec")
    assert {"sparse", "multivec"} <= set(model.params)
    save(model, tmp_path / "model")
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        assert (tmp_path / "model" / name).is_file()
    written = safetensors.numpy.load_file(tmp_path / "model" / "model.safetensors")
    assert not [key for key in written if "linear" in key or "pooler" in key]


@pytest.mark.parametrize("task", ["", "Instruct: {task}\nQuery:"])
def test_prompts_and_the_template_of_a_task(task, tmp_path) -> None:
    prompts = Prompts("a query: ", "ein Text: ", task)
    model = dataclasses.replace(load(GOLDEN / "qwen3"), prompts=prompts, max_length=40)
    found = again(model, tmp_path / "model")
    assert (found.prompts, found.max_length) == (prompts, 40)


@pytest.mark.parametrize(
    "like", ["Qwen/Qwen3-Embedding-0.6B", "qwen/qwen3-embedding-4b"]
)
def test_prompts_of_the_zoo(like, tmp_path) -> None:
    model = load(GOLDEN / "qwen3", like=like)
    assert model.prompts.task == "Instruct: {task}\nQuery:"
    assert model.prompts.query.startswith("Instruct: Given a web search query")
    again(model, tmp_path / "model")


@pytest.mark.parametrize(
    ("kind", "head", "file"), [("sup", "always", True), ("unsup", "training", False)]
)
def test_the_head_of_simcse(kind, head, file, tmp_path) -> None:
    model = load(GOLDEN / "simcse", like=SIMCSE.format(kind))
    assert model.config.mlp_head == head
    same(again(model, tmp_path / "model").params, model.params)
    assert (tmp_path / "model" / "2_Dense" / "config.json").is_file() == file
    card = (tmp_path / "model" / "README.md").read_text()
    assert ("model.pooler(" in card) == file


@pytest.mark.parametrize("name", ["bert", "m3", "qwen3"])
def test_files_of_little_size(name, tmp_path, monkeypatch) -> None:
    model = load(GOLDEN / name)
    monkeypatch.setattr(tensors, "MAX_FILE", 20_000)
    same(again(model, tmp_path / "model").params, model.params)
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    assert not (tmp_path / "model" / "model.safetensors").exists()
    # One file takes the place of several.
    monkeypatch.undo()
    same(again(model, tmp_path / "model").params, model.params)
    files = [path.name for path in (tmp_path / "model").glob("model*")]
    assert files == ["model.safetensors"]


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_bfloat16(name, tmp_path) -> None:
    model = load(GOLDEN / name, dtype="bfloat16")
    save(model, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    found = load(tmp_path / "model", dtype="bfloat16")
    same(found.params, model.params)
    # Opened in float32 they are the same numbers.
    wide = load(tmp_path / "model").params
    same(wide, jax.tree.map(lambda leaf: leaf.astype(np.float32), model.params))


@pytest.mark.parametrize("name", ["bert", "qwen3", "reranker_xlmr"])
def test_low_rank_pairs_are_merged(name, tmp_path) -> None:
    module: Any = reranker if name.startswith("reranker") else hub
    model = module.load(GOLDEN / name)
    params = lora.add(model.params, LoraConfig(rank=2), jax.random.key(0))
    params = jax.tree.map(
        lambda leaf: jnp.where(leaf == 0, jnp.float32(0.1), leaf), params
    )
    module.save(dataclasses.replace(model, params=params), tmp_path / "model")
    found = module.load(tmp_path / "model").params
    same(found, jax.tree.map(np.asarray, lora.merge(params)))
    kernel = "encoder.layers.attention.query.kernel"
    before, after = tree.paths(model.params)[kernel], tree.paths(found)[kernel]
    assert np.abs(before - after).max() > 0.01


def test_an_export_takes_the_place_of_one_of_another_kind(tmp_path) -> None:
    folder = tmp_path / "model"
    steps: list[tuple[Any, Any]] = [
        (hub, load(GOLDEN / "m3")),
        (hub, load(GOLDEN / "simcse", like=SIMCSE.format("sup"))),
        (reranker, reranker.load(GOLDEN / "reranker_bert")),
        (hub, load(GOLDEN / "qwen3")),
        (hub, load(GOLDEN / "m3")),
    ]
    for module, model in steps:
        module.save(model, folder)
        same(module.load(folder).params, model.params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["thesis.tex", "optimizer.pt", "runs/log"])
@pytest.mark.parametrize("kind", ["embedder", "reranker"])
def test_files_of_others_are_kept(kind, name, tmp_path) -> None:
    path = tmp_path / "model" / name
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    first = name.split("/")[0]
    with pytest.raises(InputError, match=f"export of m3jax, found other .*{first}"):
        if kind == "embedder":
            save(load(GOLDEN / "bert"), tmp_path / "model")
        else:
            model = reranker.load(GOLDEN / "reranker_bert")
            reranker.save(model, tmp_path / "model")
    assert path.read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_pooling_for_inference_alone_is_not_written(tmp_path) -> None:
    model = load(GOLDEN / "m3", pooling="mcls")
    with pytest.raises(InputError, match="a pooling that other clients know"):
        save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_published_folder_is_left_as_it_is(tmp_path) -> None:
    # Somebody's download has files that no export writes: it is not replaced.
    shutil.copytree(GOLDEN / "m3", tmp_path / "m3")
    with pytest.raises(InputError, match="found other files"):
        save(load(GOLDEN / "bert"), tmp_path / "m3")
    same(load(tmp_path / "m3").params, load(GOLDEN / "m3").params)
