"""Weights and config of BERT, against what torch says of the same folder."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Tokens
from m3jax.data import tokenize
from m3jax.hub import bert, families, weights
from m3jax.hub.folder import Model, load, save
from m3jax.hub.model_files import names_of
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init

GOLDEN = Path(__file__).parent.parent / "golden" / "bert"
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


@pytest.fixture(scope="module")
def model() -> Model:
    return load(GOLDEN)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(GOLDEN / "model.safetensors")


def shapes(config: EmbeddingConfig):
    return jax.eval_shape(lambda: init(EmbeddingModule(config), jax.random.key(0)))


def from_published(tensors: dict, config: EmbeddingConfig, where: str = ""):
    return weights.fill(tensors, shapes(config), names_of(config.encoder), where=where)


def padded(ids: np.ndarray, mask: np.ndarray) -> Tokens:
    return Tokens(jnp.asarray(ids), jnp.asarray(mask))


def dense(model: Model, tokens: Tokens, pooling, *, sub_batches=1, **encoder):
    config = dataclasses.replace(model.config.encoder, **encoder)
    module = EmbeddingModule(EmbeddingConfig(config, pooling))
    return np.asarray(
        embed(module, model.params, tokens, sub_batches=sub_batches).dense
    )


def test_tokens(model, expected) -> None:
    rows = tokenize.encode(
        model.tokenizer, list(expected["texts"]), max_length=model.max_length
    )
    ids, mask = tokenize.pad(rows, expected["ids"].shape[1], model.tokenizer.pad_id)
    np.testing.assert_array_equal(ids, expected["ids"])
    np.testing.assert_array_equal(mask, expected["mask"])
    # The golden holds what it should: the shortest, and one that was cut.
    assert sorted({2, model.max_length} & set(mask.sum(1))) == [2, 20]


def test_hidden_states(model, expected) -> None:
    tokens = padded(expected["ids"], expected["mask"])
    params = {"params": model.params["encoder"]}
    hidden = np.asarray(Bert(model.config.encoder).apply(params, tokens))
    real = expected["mask"]
    np.testing.assert_allclose(
        hidden[real], expected["hidden"][real], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embeddings(pooling, model, expected) -> None:
    tokens = padded(expected["ids"], expected["mask"])
    found = dense(model, tokens, pooling)
    np.testing.assert_allclose(found, expected[POOLINGS[pooling]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_on_the_left(pooling, model, expected) -> None:
    ids, mask = np.array(expected["ids"]), np.array(expected["mask"])
    for row, length in enumerate(mask.sum(1)):
        ids[row] = np.roll(ids[row], -length)
        mask[row] = np.roll(mask[row], -length)
    assert not mask[:, 0].all() and mask[:, -1].all()
    found = dense(model, padded(ids, mask), pooling)
    np.testing.assert_allclose(found, expected[POOLINGS[pooling]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("how", [{"sub_batches": 7}, {"remat": "none"}])
def test_how_it_is_computed_does_not_matter(how, model, expected) -> None:
    tokens = padded(expected["ids"], expected["mask"])
    found = dense(model, tokens, "mean", **how)
    np.testing.assert_allclose(found, expected["mean"], atol=1e-5, rtol=0)


def test_round_trip_is_exact(model, tensors, tmp_path) -> None:
    save(model, tmp_path / "one")
    again = load(tmp_path / "one")
    assert again.config == model.config
    assert (again.max_length, again.prompts) == (model.max_length, model.prompts)
    before, after = tree.paths(model.params), tree.paths(again.params)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype == np.float32
        np.testing.assert_array_equal(value, after[name])
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    assert config["pad_token_id"] == model.tokenizer.pad_id == 3
    # What is written is what was read, but for the pooler, which nothing uses.
    written = safetensors.numpy.load_file(tmp_path / "one" / "model.safetensors")
    assert {n for n in tensors if not n.startswith("pooler.")} == written.keys()
    for name, value in written.items():
        np.testing.assert_array_equal(value, tensors[name])


def test_many_layers_keep_their_order() -> None:
    config = EmbeddingConfig(BertConfig(8, 4, 12, 2, 8, 4))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(config)
    )
    published = dict(weights.tensors(params, names_of(config.encoder)))
    kernel = params["encoder"]["layers"]["mlp"]["up"]["kernel"]
    for layer in range(12):
        name = f"encoder.layer.{layer}.intermediate.dense.weight"
        np.testing.assert_array_equal(published[name], kernel[layer].T)
    again = from_published(published, config)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("Norm.weight", "Norm.gamma"),
        lambda name: f"bert.{name}".replace("Norm.bias", "Norm.beta"),
    ],
    ids=["prefix", "gamma", "prefix and beta"],
)
def test_other_names(rename, model, tensors) -> None:
    renamed = {rename(name): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    renamed["cls.predictions.bias"] = np.zeros(60)
    renamed["bert.embeddings.position_ids"] = np.arange(64)[None]
    params = from_published(renamed, model.config)
    jax.tree.map(np.testing.assert_array_equal, params, model.params)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_dtypes(dtype, model, tensors) -> None:
    cast = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    params = from_published(cast, model.config)
    for found, exact in zip(
        jax.tree.leaves(params), jax.tree.leaves(model.params), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, exact.astype(dtype).astype(np.float32))


KEY = "encoder.layer.1.attention.self.key.weight"
UP = "encoder.layer.2.intermediate.dense.weight"


def without(tensors: dict, name: str) -> dict:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, KEY), f"expected a tensor {KEY}, found none"),
        (
            lambda t: {**t, "encoder.layer.3.output.dense.bias": np.zeros(24)},
            "found none for encoder.layer.3.output.dense.bias",
        ),
        (lambda t: {**t, "classifier.weight": np.zeros(2)}, "none for classifier.w"),
        (lambda t: {**t, "poolerish": np.zeros(2)}, "none for poolerish"),
        (lambda t: {**t, f"bert.{KEY}": t[KEY]}, f"each tensor once, found bert.{KEY}"),
        (
            lambda t: {**t, UP: t[UP].T},
            rf"shape \(48, 24\) for {UP}, found \(24, 48\)",
        ),
    ],
    ids=["missing", "layer", "head", "no pooler", "twice", "shape"],
)
def test_wrong_tensors(change, message, model, tensors) -> None:
    with pytest.raises(InputError, match=message) as error:
        from_published(change(tensors), model.config, where="w.file")
    assert error.value.where == "w.file"


@pytest.mark.parametrize(
    ("config", "pad_id", "kind"),
    [
        (BertConfig(9, 8, 7, 2, 6, 5, 3, 0.25, 1e-7), 4, "bert"),
        (BertConfig(9, 8, 7, 2, 6, 9, 1, first_position=2), 1, "xlm-roberta"),
        (BertConfig(9, 8, 7, 2, 6, 9, 1, first_position=5), 4, "xlm-roberta"),
    ],
)
def test_config_round_trip(config, pad_id, kind) -> None:
    written = bert.to_config(config, pad_id=pad_id)
    assert bert.from_config(written) == config
    assert (written["pad_token_id"], written["model_type"]) == (pad_id, kind)


def test_what_config_json_leaves_out_is_bert_base() -> None:
    assert bert.from_config({"model_type": "bert"}) == BertConfig()


def test_positions_that_no_published_model_has() -> None:
    config = BertConfig(9, 8, 7, 2, 6, 9, 1, first_position=2)
    with pytest.raises(InputError, match="first_position 1, after the padding"):
        bert.to_config(config, pad_id=0)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_act", "gelu_new", "expected 'gelu', found 'gelu_new'"),
        ("position_embedding_type", "relative_key", "expected 'absolute'"),
        ("is_decoder", True, "expected False, found True"),
        ("hidden_size", "768", "expected a positive integer, found '768'"),
        ("num_hidden_layers", 0, "expected a positive integer, found 0"),
        ("vocab_size", 2**31, "expected at most 2147483647, found 2147483648"),
        ("max_position_embeddings", 10**30, "expected at most 2147483647, found 1000"),
        ("vocab_size", None, "expected a positive integer, found None"),
        ("type_vocab_size", True, "expected a positive integer, found True"),
        ("layer_norm_eps", "1e-12", "expected a number from 0 to below 1"),
        ("hidden_dropout_prob", 1, "expected a number from 0 to below 1"),
    ],
)
def test_wrong_config(key, value, message) -> None:
    config = {**bert.to_config(BertConfig(), pad_id=0), key: value}
    with pytest.raises(InputError, match=message) as error:
        bert.from_config(config, where="a/config.json")
    assert error.value.where == f"a/config.json: {key}"


@pytest.mark.parametrize("pad_id", [None, "1", True, -1, 511])
def test_wrong_padding_token_of_an_xlm_roberta(pad_id) -> None:
    config = {"model_type": "xlm-roberta", "pad_token_id": pad_id}
    with pytest.raises(InputError, match="the id of the padding token, found"):
        bert.from_config(config)


@pytest.mark.parametrize("kind", ["gpt2", None, 3])
def test_other_model_types(kind) -> None:
    known = "bert, roberta, xlm-roberta, qwen2, qwen3"
    config = {"hidden_size": 4, **({} if kind is None else {"model_type": kind})}
    with pytest.raises(InputError, match=f"expected one of {known}, found {kind!r}"):
        families.by_type(config, where="config.json")
