import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, make_mesh, shardings
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Embeddings, Params, Tokens
from m3jax.nn import embedding, lora, reranker
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed
from m3jax.nn.encoder import SHARDING
from m3jax.nn.layers import Dense, Embed
from m3jax.nn.lora import LoraConfig, add, merge
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig, RerankerModule

BERT = BertConfig(64, 16, 2, 2, 32, max_positions=16, dropout=0.0, remat="none")
QWEN = QwenConfig(64, 16, 2, 4, 2, 8, 32, 16, remat="none")
FAMILIES: dict[str, EmbeddingConfig | RerankerConfig] = {
    "bert": EmbeddingConfig(BERT, "mean", "always", sparse=True, multivec=8),
    "qwen": EmbeddingConfig(QWEN, "last"),
    "classifier": RerankerConfig(BERT),
    "tied": RerankerConfig(QWEN, "yes_no", (5, 9)),
    "untied": RerankerConfig(QWEN, "yes_no", (5, 9), tied=False),
}
EVERYTHING = LoraConfig(rank=2, alpha=3.0, targets=r"(kernel|embedding)$")


def tokens() -> Tokens:
    rng = np.random.default_rng(1)
    mask = np.arange(7)[None] < rng.integers(1, 8, 8)[:, None]
    ids = rng.integers(0, 64, (8, 7))
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def shapes(config: Any) -> Params:
    key = jax.random.key(0)
    if isinstance(config, EmbeddingConfig):
        return jax.eval_shape(lambda: embedding.init(EmbeddingModule(config), key))
    return jax.eval_shape(lambda: reranker.init(RerankerModule(config), key))


@functools.cache
def plain(family: str) -> Params:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32),
        shapes(FAMILIES[family]),
    )


def with_pairs(params: Params, *, random: bool) -> Params:
    """A pair beside every matrix of the model; B is 0 unless random."""
    rng = np.random.default_rng(2)

    def fill(path: Any, leaf: Any) -> Any:
        name = path[-1].key
        if name == "lora_scale":
            return jnp.full(leaf.shape, EVERYTHING.alpha / EVERYTHING.rank)
        size = 0.3 if random or name == "lora_a" else 0.0
        return jnp.asarray(size * rng.standard_normal(leaf.shape), jnp.float32)

    # In shape only, since random numbers of every shape take long to compile.
    added = jax.eval_shape(lambda: add(params, EVERYTHING, jax.random.key(0)))
    flat = traverse_util.flatten_dict(params)
    pairs = traverse_util.flatten_dict(jax.tree_util.tree_map_with_path(fill, added))
    return traverse_util.unflatten_dict({**pairs, **flat})


def outputs(config: Any, params: Params, tokens: Tokens, sub_batches: int = 1) -> Any:
    if isinstance(config, EmbeddingConfig):
        return embed(
            EmbeddingModule(config),
            params,
            tokens,
            outputs=config.outputs,
            sub_batches=sub_batches,
        )
    return reranker.score(RerankerModule(config), params, tokens)


@functools.partial(jax.jit, static_argnums=0)
def values(config: Any, params: Params, tokens: Tokens) -> Any:
    return outputs(config, params, tokens)


def loss(found: Any) -> Any:
    """Sum of the squares of all outputs' distances to 1."""
    if isinstance(found, Embeddings):
        heads = found.sparse and found.sparse.weights, found.multivec
        leaves = [found.dense, *jax.tree.leaves(heads)]
    else:
        leaves = [found]
    return sum(((x - 1) ** 2).sum() for x in leaves if x.dtype == jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=1, has_aux=True)
def slopes(config: Any, part: Params, params: Params, tokens: Tokens) -> Any:
    """Outputs and the slope of `loss` by a part of params, in two sub-batches."""
    found = outputs(config, {**params, **part}, tokens, sub_batches=2)
    return loss(found), found


def close(found: Any, expected: Any, near: float = 1e-5) -> None:
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=near), found, expected
    )


def pairs_of(params: Params) -> dict[str, Any]:
    return {path: x for path, x in tree.paths(params).items() if "lora_" in path}


# All gradients of both encoders and all heads; for the rest, those of the head.
@pytest.mark.parametrize(
    ("family", "parts"),
    [
        ("bert", ("encoder", "mlp_head", "sparse", "multivec")),
        ("tied", ("encoder",)),
        ("untied", ("lm_head",)),
        ("classifier", ("classifier",)),
    ],
)
def test_pairs_change_nothing_until_trained_and_merge_as_they_are(
    family: str, parts: tuple[str, ...]
) -> None:
    config, batch = FAMILIES[family], tokens()
    params = plain(family)
    added = with_pairs(params, random=False)
    found = pairs_of(added)
    matrices = [x for x in tree.paths(params) if re.search(EVERYTHING.targets, x)]
    assert len(found) == 3 * len(matrices) >= 3 * 8

    def slope(params: Params) -> Any:
        part = {name: params[name] for name in parts}
        return jax.device_get(slopes(config, part, params, batch))

    expected = jax.device_get(values(config, params, batch))
    (_, same), first = slope(added)
    close(same, expected, 5e-7)
    # The first step reaches every B, and no A.
    for path, leaf in pairs_of(first).items():
        assert (np.abs(leaf).max() > 1e-6) == path.endswith("lora_b"), path

    trained = with_pairs(params, random=True)
    (value, pair), later = slope(trained)
    for path, leaf in pairs_of(later).items():
        assert (np.abs(leaf).max() > 1e-6) != path.endswith("lora_scale"), path
    merged = merge(trained)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    close(values(config, merged, batch), pair)
    assert abs(value - loss(expected)) > 1e-3
    # And the slope along itself is that of the merged model, by two steps.
    length = np.sqrt(sum((x**2).sum() for x in pairs_of(later).values()))

    def step(by: float) -> float:
        def move(path: Any, leaf: Any, slope: Any) -> Any:
            ours = path[-1].key in ("lora_a", "lora_b")
            return leaf + np.float32(by / length) * slope if ours else leaf

        moved = {
            name: jax.tree_util.tree_map_with_path(move, trained[name], later[name])
            for name in parts
        }
        return float(loss(values(config, merge({**trained, **moved}), batch)))

    np.testing.assert_allclose((step(1e-3) - step(-1e-3)) / 2e-3, length, rtol=0.03)


def test_a_pair_of_zeros_changes_no_bit() -> None:
    """Layer by layer; the compiler may fuse a whole model otherwise."""
    params = plain("bert")["encoder"]
    up = jax.tree.map(lambda x: x[0], params["layers"]["mlp"]["up"])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 16)), jnp.float32)
    rng = jax.random.key(0)
    pairs = add(up, EVERYTHING, rng), add(params["word"], EVERYTHING, rng)
    for dtype in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        cases: Any = (
            (Dense(32, dtype), up, pairs[0], x),
            (Embed(64, 16, dtype), params["word"], pairs[1], jnp.arange(64)),
        )
        for layer, base, pair, inputs in cases:
            np.testing.assert_array_equal(
                layer.apply({"params": pair}, inputs),
                layer.apply({"params": base}, inputs),
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_place_on_a_mesh(family: str) -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = with_pairs(plain(family), random=False)
    placed = tree.paths(shardings(mesh, params, SHARDING))
    assert set(placed) == set(tree.paths(params))
    whole = {path for path, x in placed.items() if not any(x.spec)}
    small = r"lora_|^(mlp_head|sparse|multivec|classifier)\.|\.(scale|bias)$"
    assert not {path for path in whole if not re.search(small, path)}
    assert all(path in whole for path in placed if ".lora_" in path)


def test_on_a_mesh_a_pair_is_as_merged_on_one_device() -> None:
    config = FAMILIES["qwen"]
    params = with_pairs(plain("qwen"), random=True)
    expected = values(config, merge(params), tokens())
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    there = jax.device_put(params, shardings(mesh, params, SHARDING))
    batch = jax.device_put(tokens(), batch_sharding(mesh))
    with jax.set_mesh(mesh):
        found = values(config, there, batch)
    assert len(found.dense.sharding.device_set) == 8
    close(found, expected)


def test_merging_is_the_sum_by_hand() -> None:
    params = with_pairs(plain("bert"), random=True)
    merged = tree.named(merge(params))
    named = tree.named(params)
    matrices = [path for path in merged if re.search(EVERYTHING.targets, path)]
    assert "encoder.layers.1.mlp.up.kernel" in matrices
    for path in matrices:
        start = path.rpartition(".")[0]
        a, b, scale = (
            np.asarray(named[f"{start}.{name}"], np.float64)
            for name in ("lora_a", "lora_b", "lora_scale")
        )
        assert a.shape[1] == 2 and scale == 1.5
        np.testing.assert_allclose(
            merged[path], named[path] + 1.5 * a @ b, atol=1e-6, err_msg=path
        )
    # Without pairs there is nothing to do, and what has no pair is the same array.
    base = plain("bert")
    jax.tree.map(np.testing.assert_array_equal, merge(base), base)
    bias = merge(params)["encoder"]["layers"]["mlp"]["up"]["bias"]
    assert bias is base["encoder"]["layers"]["mlp"]["up"]["bias"]


def test_merging_keeps_the_dtype_and_sums_in_float32() -> None:
    params = {"up": {"kernel": jnp.ones((4, 4), jnp.bfloat16)}}
    params = add(params, LoraConfig(rank=1, alpha=1.0), jax.random.key(0))
    params["up"]["lora_a"] = jnp.full((4, 1), 2**-6, jnp.float32)
    params["up"]["lora_b"] = jnp.full((1, 4), 0.5, jnp.float32)
    found = merge(params)["up"]["kernel"]
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), 1 + 2**-7)


def test_the_regex_chooses_and_only_pairs_are_trained() -> None:
    params = plain("bert")
    config = LoraConfig(
        rank=3, alpha=6.0, targets=r"layers\.attention\.(query|value)\."
    )
    with pytest.raises(InputError, match=r"paths of matrices, .* found .*query\.bias"):
        add(params, config, jax.random.key(0))
    config = dataclasses.replace(config, targets=config.targets + "kernel")
    added = add(params, config, jax.random.key(0))
    found = pairs_of(added)
    for path, leaf in tree.paths(params).items():
        assert tree.paths(added)[path] is leaf  # the very same array
    start = "encoder.layers.attention."
    assert {path: x.shape for path, x in found.items()} == {
        f"{start}{name}.{pair}": shape
        for name in ("query", "value")
        for pair, shape in (
            ("lora_a", (2, 16, 3)),
            ("lora_b", (2, 3, 16)),
            ("lora_scale", (2,)),
        )
    }
    for path, leaf in found.items():
        if path.endswith("lora_b"):
            assert not np.any(leaf)
        if path.endswith("scale"):
            assert np.all(leaf == 2)  # alpha / rank
    trained = {path for path in found if re.search(lora.TRAINABLE, path)}
    assert trained == {path for path in found if not path.endswith("scale")}
    first, second = (
        np.asarray(found[f"{start}{x}.lora_a"]) for x in ("query", "value")
    )
    assert np.abs(first).max() <= 16**-0.5 and np.abs(first).max() > 0.2
    # Every layer and every matrix has its own random numbers.
    assert (first[0] != first[1]).all() and (first != second).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, r"lora\.rank: expected a positive number, found 0"),
        ({"alpha": -1.0}, r"lora\.alpha: expected a positive number, found -1"),
        ({"targets": "("}, r"lora\.targets: expected a regex, found "),
        ({"targets": "querry"}, "found in some path, found 'querry'. Paths look like"),
        ({"targets": "norm"}, r"paths of matrices, .* found encoder\..*norm\."),
    ],
)
def test_what_does_not_fit_is_said(fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add(plain("bert"), LoraConfig(**fields), jax.random.key(0))
