"""The fingerprint of a model, wherever its parameters are."""

import dataclasses

import jax
import numpy as np

from m3jax.core import mesh as meshes
from m3jax.core import tree
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.prompts import Prompts
from m3jax.inference.embedder import Embedder
from m3jax.inference.fingerprint import fingerprint
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.nn.encoder import SHARDING
from m3jax.testing import tiny_config, tiny_tokenizer


def test_the_place_does_not_matter_and_no_copy_stays_on_the_host() -> None:
    module = EmbeddingModule(tiny_config())
    params = jax.tree.map(np.asarray, init(module, jax.random.key(0)))
    one = Embedder(module, params, tiny_tokenizer(), Prompts(), 32)
    layouts = meshes.shardings(make_mesh(MeshConfig(2, 2, 2)), params, SHARDING)
    placed = jax.device_put(params, layouts)
    many = dataclasses.replace(one, params=placed)
    assert fingerprint(one, "q: ") == fingerprint(many, "q: ") != fingerprint(one)
    for path, leaf in tree.paths(placed).items():
        assert leaf._npy_value is None, path
