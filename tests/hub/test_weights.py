"""Parameters of published tensors: names, shapes, parts, and the devices of a mesh."""

import functools
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

import m3jax
from m3jax.core import mesh as meshes
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.hub import folder, reranker, weights
from m3jax.hub.model_files import names_of
from m3jax.hub.weights import Names, fill
from m3jax.nn.encoder import SHARDING

GOLDEN = Path(__file__).parent.parent / "golden"
# One of the texts is longer than what is kept.
pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")
NAMES = Names(
    {"encoder.word": "words", "encoder.layers.#.up": "layer.#.dense", "head": ""},
    prefixes=("bert.",),
    ignored=("pooler.", "ids"),
    written={"encoder": "bert."},
)
RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


PARAMS = {
    "encoder": {
        "word": {"embedding": array(5, 4)},
        "layers": {"up": {"kernel": array(11, 4, 6), "bias": array(11, 6)}},
    },
    "head": {"kernel": array(4, 2), "bias": array(2)},
}


def published() -> dict[str, np.ndarray]:
    return dict(weights.tensors(PARAMS, NAMES))


def same(found: Any, expected: Any) -> None:
    assert tree.paths(found).keys() == tree.paths(expected).keys()
    for path, leaf in tree.paths(expected).items():
        np.testing.assert_array_equal(tree.paths(found)[path], leaf, err_msg=path)


def test_names_and_shapes_of_what_is_written() -> None:
    found = published()
    assert found.keys() == weights.sizes(PARAMS, NAMES).keys()
    assert list(found) == list(weights.sizes(PARAMS, NAMES))  # in one order
    for name, (shape, dtype) in weights.sizes(PARAMS, NAMES).items():
        assert (found[name].shape, found[name].dtype) == (shape, dtype)
    assert len(found) == 1 + 2 * 11 + 2
    kernel = PARAMS["encoder"]["layers"]["up"]["kernel"]
    for layer in range(11):
        name = f"bert.layer.{layer}.dense.weight"
        np.testing.assert_array_equal(found[name], kernel[layer].T)
    np.testing.assert_array_equal(found["weight"], PARAMS["head"]["kernel"].T)


@pytest.mark.parametrize("block", [1, 50, 32 << 20])
def test_what_is_written_is_read(block, monkeypatch) -> None:
    monkeypatch.setattr(weights, "_BLOCK", block)  # a row, a few, all at once
    same(fill(published(), PARAMS, NAMES, where=""), PARAMS)


def test_a_read_is_never_larger_than_a_block(monkeypatch) -> None:
    sizes = []

    class Spy:
        def __init__(self, tensor: np.ndarray) -> None:
            self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

        def __getitem__(self, index: Any) -> np.ndarray:
            sizes.append(self.tensor[index].nbytes)
            return self.tensor[index]

    monkeypatch.setattr(weights, "_BLOCK", 40)
    spies: Any = {name: Spy(tensor) for name, tensor in published().items()}
    same(fill(spies, PARAMS, NAMES, where=""), PARAMS)
    assert max(sizes) <= 40 and len(sizes) > len(spies)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_dtypes_are_converted_both_ways(dtype) -> None:
    cast = {name: tensor.astype(dtype) for name, tensor in published().items()}
    found = fill(cast, PARAMS, NAMES, where="")
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    same(found, jax.tree.map(lambda leaf: leaf.astype(dtype).astype("f4"), PARAMS))
    narrow = fill(published(), PARAMS, NAMES, where="", dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(narrow)} == {np.dtype(dtype)}
    same(narrow, jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS))


def test_what_is_ignored_and_prefixes() -> None:
    stored = {name.removeprefix("bert."): t for name, t in published().items()}
    stored |= {"pooler.dense.weight": np.ones(2), "bert.ids": np.arange(3)}
    same(fill(stored, PARAMS, NAMES, where=""), PARAMS)


WEIGHT = "bert.layer.3.dense.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHT: None}, r"expected a tensor layer\.3\.dense\.weight, found none"),
        ({"bert.layer.11.dense.bias": array(6)}, r"none for bert\.layer\.11\.dense\.b"),
        ({"more": array(2)}, "a parameter for every tensor, found none for more$"),
        ({f"m{i}": array(2) for i in range(7)}, "m0, m1, m2, m3, m4 and 2 more$"),
        ({"poolerish.weight": array(2)}, r"none for poolerish\.weight"),
        ({WEIGHT: array(4, 6)}, r"shape \(6, 4\) for bert.*, found \(4, 6\)"),
        ({WEIGHT: array(24)}, r"shape \(6, 4\) for bert.*, found \(24,\)"),
        ({"weight": array(2, 4, 1)}, r"shape \(2, 4\) for weight, found \(2, 4, 1\)"),
        ({WEIGHT: np.ones((6, 4), np.int64)}, r"floats in bert.*, found int64"),
        ({WEIGHT: np.ones((6, 4), bool)}, r"floats in bert.*, found bool"),
        ({WEIGHT[5:]: array(6, 4)}, "each tensor once, found .* twice"),
    ],
)
def test_what_does_not_fit_is_named(change, message) -> None:
    stored = {**published(), **change}
    stored = {name: tensor for name, tensor in stored.items() if tensor is not None}
    with pytest.raises(InputError, match=message) as error:
        fill(stored, PARAMS, NAMES, where="w.file")
    assert error.value.where == "w.file"


@functools.cache
def mesh() -> Any:
    return make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (folder, "bert"),
        (folder, "m3"),
        (folder, "qwen3"),
        (reranker, "reranker_xlmr"),
        (reranker, "reranker_qwen3_untied"),
    ],
)
def test_weights_go_to_their_shardings(module, name) -> None:
    host = module.load(GOLDEN / name)
    found = module.load(GOLDEN / name, to=mesh())
    assert found.config == host.config
    same(found.params, host.params)
    expected = meshes.shardings(mesh(), host.params, SHARDING)
    parts = 0
    for path, leaf in tree.paths(found.params).items():
        assert leaf.sharding.is_equivalent_to(tree.paths(expected)[path], leaf.ndim)
        parts += not leaf.sharding.is_fully_replicated
    assert parts >= 6
    query = tree.paths(found.params)["encoder.layers.attention.query.kernel"]
    layers, width, out = query.shape
    assert query.sharding.shard_shape(query.shape) == (layers, width // 2, out // 2)
    one = module.load(GOLDEN / name, to="device").params
    same(one, host.params)
    first = SingleDeviceSharding(jax.devices()[0])
    assert {leaf.sharding for leaf in jax.tree.leaves(one)} == {first}


def test_a_device_reads_its_own_part_alone() -> None:
    read = []

    class Spy:
        def __init__(self, tensor: np.ndarray) -> None:
            self.tensor, self.shape, self.dtype = tensor, tensor.shape, tensor.dtype

        def __getitem__(self, index: Any) -> np.ndarray:
            read.append(self.tensor[index].shape)
            return self.tensor[index]

    params = {"encoder": {"word": {"embedding": array(8, 4)}}}
    stored: Any = {"words.weight": Spy(params["encoder"]["word"]["embedding"])}
    rows = jax.sharding.NamedSharding(
        mesh(), jax.sharding.PartitionSpec(("data", "fsdp", "tensor"))
    )
    layouts = jax.tree.map(lambda _: rows, params)
    found = fill(stored, params, NAMES, where="", shardings=layouts)
    same(found, params)
    assert read == [(1, 4)] * 8


@pytest.mark.parametrize("sizes", [(4, 2, 1), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_devices_that_hold_the_same_part_share_one_reading(name, sizes) -> None:
    read: dict[str, list[int]] = {}

    class Spy:
        def __init__(self, name: str, tensor: np.ndarray) -> None:
            self.name, self.tensor = name, tensor
            self.shape, self.dtype = tensor.shape, tensor.dtype

        def __getitem__(self, index: Any) -> np.ndarray:
            read.setdefault(self.name, []).append(self.tensor[index].nbytes)
            return self.tensor[index]

    model = folder.load(GOLDEN / name)
    names = names_of(model.config.encoder)
    published = dict(weights.tensors(model.params, names))
    layouts = meshes.shardings(make_mesh(MeshConfig(*sizes)), model.params, SHARDING)
    stored: Any = {name: Spy(name, tensor) for name, tensor in published.items()}
    found = fill(stored, model.params, names, where="", shardings=layouts)
    same(found, model.params)
    for tensor, parts in read.items():
        assert sum(parts) == published[tensor].nbytes, tensor
        assert len(parts) <= sizes[1] * sizes[2], tensor


def test_shared_parts_survive_a_donation() -> None:
    table = array(64, 64)
    layout = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec("fsdp"))
    like = {"encoder": {"word": {"embedding": table}}}
    layouts = jax.tree.map(lambda _: layout, like)
    found = fill({"words.weight": table}, like, NAMES, where="", shardings=layouts)
    more = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    for part in more(found)["encoder"]["word"]["embedding"].addressable_shards:
        np.testing.assert_array_equal(part.data, table[part.index] + 1)


def test_a_layer_too_many_is_refused_before_it_is_named() -> None:
    many = 1_000_000
    like = {
        "encoder": {"layers": {"up": {"bias": jax.ShapeDtypeStruct((many, 6), "f4")}}}
    }
    with pytest.raises(InputError, match=r"1000000 layers \(num_hidden_layers\)"):
        fill({"layer.0.dense.bias": array(6)}, like, NAMES, where="")


def test_what_is_written_leaves_no_copy_on_the_host() -> None:
    params = {
        "encoder": {
            "word": {"embedding": array(8, 4)},
            "layers": {"up": {"kernel": array(2, 4, 6), "bias": array(2, 6)}},
        },
        "head": {"kernel": array(4, 2), "bias": array(2)},
    }
    # A CPU's own memory is never copied, unless it is spread over devices.
    layout = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec())
    rows = jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec(None, "fsdp"))
    layouts = jax.tree.map(lambda leaf: rows if leaf.ndim > 1 else layout, params)
    placed = jax.device_put(params, layouts)
    found = dict(weights.tensors(placed, NAMES))
    for name, tensor in weights.tensors(params, NAMES):
        np.testing.assert_array_equal(found[name], tensor)
    for path, leaf in tree.paths(placed).items():
        assert leaf._npy_value is None, path
    assert np.asarray(placed["encoder"]["word"]["embedding"]) is not None
    assert placed["encoder"]["word"]["embedding"]._npy_value is not None  # it would


TEXTS = ["the cell is the smallest unit of life", "a", "", "zebra quiz"]


@pytest.mark.parametrize("name", ["bert", "m3", "qwen3"])
def test_embeddings_on_a_mesh_are_those_of_one_device(name) -> None:
    outputs = ("dense", "sparse", "multivec") if name == "m3" else ("dense",)
    one = m3jax.Embedder.load(GOLDEN / name)
    expected: Any
    found: Any
    many = m3jax.Embedder.load(GOLDEN / name, mesh=mesh())
    expected, found = (
        model.encode_passage(TEXTS, outputs=outputs, max_length=16)
        for model in (one, many)
    )
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-6)
    if name == "m3":
        offsets = found.multivec.offsets, expected.multivec.offsets
        np.testing.assert_array_equal(*offsets)
        vectors = found.multivec.vectors, expected.multivec.vectors
        np.testing.assert_allclose(*vectors, atol=1e-6)
        for ours, theirs in zip(found.sparse, expected.sparse, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("name", ["xlmr", "qwen3"])
def test_scores_on_a_mesh_are_those_of_one_device(name) -> None:
    pairs = [("what is a cell?", text) for text in TEXTS[:3]]
    one = m3jax.Reranker.load(GOLDEN / f"reranker_{name}")
    many = m3jax.Reranker.load(GOLDEN / f"reranker_{name}", mesh=mesh())
    found = many.logits(pairs)
    np.testing.assert_allclose(found, one.logits(pairs), atol=1e-5)
