import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings, Params, Tokens
from m3jax.hub import folder
from m3jax.nn import embedding, heads
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init

GOLDEN = Path(__file__).parent.parent / "golden"
# Widths are primes, so that a shape says what it is.
ENCODER = BertConfig(64, 16, 2, 2, 32, max_positions=16, dropout=0.0, remat="none")
M3 = EmbeddingConfig(ENCODER, "cls", sparse=True, multivec=7, special_ids=(0, 2))
ALL = ("dense", "sparse", "multivec")


def random_params(config: EmbeddingConfig) -> Params:
    """Parameters far from 0, without the cost of compiling `init`."""
    rng = np.random.default_rng(0)
    module = EmbeddingModule(config)
    shapes = jax.eval_shape(lambda: init(module, jax.random.key(0)))

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        # Norms with scales near 0 would make much of the last digits of float32.
        start = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(start + 0.3 * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def tokens(rows: int = 8, length: int = 11, vocab_size: int = 64) -> Tokens:
    rng = np.random.default_rng(1)
    mask = np.arange(length)[None] < rng.integers(1, length + 1, rows)[:, None]
    ids = rng.integers(0, vocab_size, (rows, length))
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def match_loss(found: Embeddings) -> jax.Array:
    """Something of all three heads in which every pair of texts meets."""
    total = jnp.zeros(())
    if found.dense is not None:
        total += jnp.sum((found.dense @ found.dense.T) ** 3)
    if found.sparse is not None:
        ids = found.sparse.ids
        weights = heads.strongest(ids, found.sparse.weights)
        same = ids[:, None, :, None] == ids[None, :, None, :]
        both = jnp.einsum("qi,pj,qpij->qp", weights, weights, same.astype(jnp.float32))
        total += jnp.sum(both**2)
    if found.multivec is not None:
        vectors = found.multivec.vectors
        total += jnp.sum(jnp.einsum("qie,pje->qpij", vectors, vectors).max(-1) ** 3)
    return total


def dots(function: Any, *arguments: Any) -> int:
    """Matrix products in a traced function; those of stacked layers count once."""
    return str(jax.make_jaxpr(function)(*arguments)).count(" dot_general")


@pytest.mark.parametrize(
    "outputs", [("dense",), ("sparse",), ("multivec",), ("sparse", "multivec"), ALL]
)
def test_only_what_is_asked_for_is_computed_in_one_pass(outputs: tuple) -> None:
    config = EmbeddingConfig(ENCODER, "mean", "always", sparse=True, multivec=7)
    params, module = random_params(config), EmbeddingModule(config)
    encoder = dots(lambda: Bert(ENCODER).apply({"params": params["encoder"]}, tokens()))
    assert encoder > 5
    found = functools.partial(embed, module, params, tokens(), outputs=outputs)
    # Pooling is a product, and SimCSE's head another.
    cost = {"dense": 2, "sparse": 1, "multivec": 1}
    assert dots(found) == encoder + sum(cost[name] for name in outputs)
    shapes = jax.eval_shape(found)
    there = tuple(name for name in ALL if getattr(shapes, name) is not None)
    assert there == outputs
    # No parameter of another head is needed.
    needed = {"dense": "mlp_head", "sparse": "sparse", "multivec": "multivec"}
    fewer = {name: params[name] for name in ("encoder", *map(needed.get, outputs))}
    jax.eval_shape(lambda: embed(module, fewer, tokens(), outputs=outputs))


def test_all_three_cost_little_more_than_one() -> None:
    module, params = EmbeddingModule(M3), random_params(M3)

    def cost(outputs: tuple[str, ...]) -> float:
        def found(params: Params) -> Embeddings:
            return embed(module, params, tokens(), outputs=outputs)

        analysis: Any = jax.jit(found).lower(params).cost_analysis()
        return analysis["flops"]

    assert cost(("dense",)) < cost(ALL) < 1.2 * cost(("dense",))


def test_sub_batches_change_nothing_and_nothing_is_as_wide_as_the_vocabulary() -> None:
    vocabulary = 5_003
    encoder = dataclasses.replace(ENCODER, vocab_size=vocabulary)
    config = dataclasses.replace(M3, encoder=encoder)
    module, params = EmbeddingModule(config), random_params(config)
    batch = tokens(8, 11, vocabulary)

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.value_and_grad, has_aux=True)
    def slope(params: Params, batch: Tokens, sub_batches: int) -> Any:
        found = embed(module, params, batch, outputs=ALL, sub_batches=sub_batches)
        return match_loss(found), found

    results = []
    for sub_batches in (1, 4):
        compiled = slope.lower(params, batch, sub_batches).compile()
        results.append(jax.device_get(compiled(params, batch)))
        text = compiled.as_text() or ""
        wide = set(re.findall(r"\w+\[[\d,]*\b5003\b[\d,]*\]", text))
        # The word table and its gradient, and nothing else.
        assert wide == {"f32[5003,16]"}
    ((expected_value, expected), expected_slope), ((value, found), found_slope) = (
        results
    )
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    near = functools.partial(np.testing.assert_allclose, atol=1e-5)
    jax.tree.map(near, found, expected)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected_slope))
    jax.tree.map(
        lambda x, y: near(x / largest, y / largest), found_slope, expected_slope
    )
    for head in ("sparse", "multivec"):
        assert np.abs(expected_slope[head]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("mlp_head", ["none", "training", "always"])
def test_head_of_simcse(mlp_head: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EmbeddingConfig(ENCODER, "cls", mlp_head)
    module, params = EmbeddingModule(config), random_params(config)
    assert ("mlp_head" in params) == (mlp_head != "none")
    # The encoder is no part of this, and takes long to compile.
    hidden = np.random.default_rng(0).standard_normal((8, 11, 16)).astype(np.float32)
    fake = jnp.asarray(hidden)
    monkeypatch.setattr(embedding, "make_encoder", lambda _: lambda *_: fake)
    first = through = hidden[:, 0]
    if mlp_head != "none":
        head = jax.device_get(params["mlp_head"])
        through = np.tanh(first @ head["kernel"] + head["bias"])
    # There is no dropout here, so the key means training and nothing else.
    for rng, pooled in (
        (None, through if mlp_head == "always" else first),
        (jax.random.key(0), through),
    ):
        expected = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
        found = embed(module, params, tokens(), rng=rng).dense
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_simcse_is_that_of_the_reference() -> None:
    name = "princeton-nlp/sup-simcse-bert-base-uncased"
    model = folder.load(GOLDEN / "simcse", like=name)
    assert model.config.mlp_head == "always"
    expected = np.load(GOLDEN / "simcse" / "expected.npz")
    batch = Tokens(jnp.asarray(expected["ids"]), jnp.asarray(expected["mask"]))
    module = EmbeddingModule(model.config)
    found = jax.jit(lambda: embed(module, model.params, batch).dense)()
    np.testing.assert_allclose(found, expected["pooler_normalized"], atol=1e-5)


@pytest.mark.parametrize(
    ("config", "outputs", "message"),
    [
        (
            EmbeddingConfig(ENCODER),
            ("sparse",),
            "one or more of dense, .* found sparse",
        ),
        (
            EmbeddingConfig(ENCODER, sparse=True),
            ("multivec", "sparse"),
            "one or more of dense, sparse, .* found multivec",
        ),
        (
            M3,
            ("sparse", "colbert", "x"),
            "one or more of dense, sparse, multivec, .* found colbert, x",
        ),
        (M3, (), "one or more of dense, sparse, multivec, .* found none"),
    ],
)
def test_outputs_without_a_head(config: Any, outputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"outputs: expected {message}"):
        embed(EmbeddingModule(config), {}, tokens(), outputs=outputs)


def test_packed_rows_have_no_embedding() -> None:
    batch = tokens()
    packed = Tokens(batch.ids, batch.mask, jnp.zeros_like(batch.ids))
    with pytest.raises(InputError, match="one text a row, found packed rows"):
        embed(EmbeddingModule(M3), {}, packed)


@pytest.mark.parametrize("sub_batches", [0, -1, 3, 16])
def test_sub_batches_that_do_not_divide(sub_batches: int) -> None:
    with pytest.raises(InputError, match=f"divides the 8 texts, found {sub_batches}"):
        embed(EmbeddingModule(M3), {}, tokens(), sub_batches=sub_batches)
