"""Published tensors on the host: what they are, and that no copy of them stays."""

from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.host import pieces
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig

SPECS = [(), ("fsdp",), (None, "fsdp"), (None, "fsdp", "tensor"), (None, None, "data")]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("path", ["layers.up.kernel", "word.kernel"])
def test_a_sharded_leaf_comes_whole_and_is_not_kept(path: str, spec: Any) -> None:
    leaf = np.random.default_rng(0).normal(size=(4, 8, 6)).astype(np.float32)
    mesh = make_mesh(MeshConfig(2, 2, 2))
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    placed = jax.device_put(leaf, layout)
    found = list(pieces(path, placed))
    assert {type(piece) for piece in found} == {np.ndarray}
    assert len(found) == (4 if "layers" in path else 1)
    np.testing.assert_array_equal(np.stack(found).reshape(leaf.shape), leaf)
    kept = [placed, *(shard.data for shard in placed.addressable_shards)]
    assert [array._npy_value for array in kept] == [None] * len(kept)


def test_numpy_leaves_are_not_copied() -> None:
    leaf = np.ones((2, 3))
    assert next(pieces("bias", leaf)) is leaf
    assert all(np.shares_memory(piece, leaf) for piece in pieces("layers.b", leaf))


def test_one_tensor_is_fetched_at_a_time() -> None:
    read = []

    class Spy:
        shape = (3, 2)

        def __getitem__(self, layer: int) -> np.ndarray:
            read.append(layer)
            return np.full(2, layer)

    for layer, piece in enumerate(pieces("layers.bias", Spy())):
        assert read == list(range(layer + 1)) and piece[0] == layer
