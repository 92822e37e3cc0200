"""Every family trains from its published folder, whole or by low-rank pairs."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core import tree
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch, Tokens
from m3jax.hub import folder
from m3jax.nn import lora
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.nn.lora import LoraConfig
from m3jax.training.objectives import ContrastiveConfig, contrastive
from m3jax.training.optimizer import (
    OptimizerConfig,
    all_but,
    make_optimizer,
    make_schedule,
)
from m3jax.training.state import abstract_state, new_state, starting
from m3jax.training.step import make_step

GOLDEN = Path(__file__).parent.parent / "golden"
SIZE = 8


def batch() -> Batch:
    rng = np.random.default_rng(0)

    def tokens(*shape: int) -> Tokens:
        return Tokens(rng.integers(5, 60, shape).astype(np.int32), np.ones(shape, bool))

    return Batch(
        query=tokens(SIZE, 4),
        passage=tokens(SIZE, 1, 8),
        where=np.ones((SIZE, 1), bool),
        query_ids=np.arange(2 * SIZE, dtype=np.uint32).reshape(SIZE, 2),
        passage_ids=np.arange(2 * SIZE, dtype=np.uint32).reshape(SIZE, 1, 2),
        in_batch=np.ones(SIZE, bool),
        row=np.arange(SIZE, dtype=np.int32),
        dataset=np.zeros(SIZE, np.int32),
    )


def trained(name: str, mesh_config: MeshConfig, pairs: LoraConfig | None, **options):
    """Losses of some steps, and the parameters before and after."""
    mesh = make_mesh(mesh_config, jax.devices()[:4])
    model = folder.load(GOLDEN / name, to=mesh)
    module = EmbeddingModule(model.config)
    objective = contrastive(module, mesh, ContrastiveConfig(temperature=0.1))
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=0.0, schedule="constant")
    optimizer = dataclasses.replace(optimizer, **options)
    start, tx = starting(module, pairs), make_optimizer(optimizer, steps=9)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    state = new_state(start, objective, tx, like, 0, params=model.params)
    before = jax.tree.map(np.asarray, tree.paths(state.params))
    schedule = make_schedule(optimizer, steps=9)
    step = make_step(objective, tx, schedule, mesh, like, trainable=optimizer.trainable)
    losses = []
    for _ in range(4):
        state, metrics = step(state, jax.device_put(batch(), batch_sharding(mesh)))
        losses.append(float(metrics["loss"]))
    after = {name: np.asarray(leaf) for name, leaf in tree.paths(state.params).items()}
    return losses, before, after, state


def moved(before, after) -> set[str]:
    return {name for name in before if np.any(before[name] != after[name])}


LATER = [pytest.param(x, marks=pytest.mark.slow) for x in ("bert", "qwen2", "qwen3")]


@pytest.mark.parametrize("name", ["m3", *LATER])
def test_training_goes_on_from_a_folder(name) -> None:
    losses, before, after, _ = trained(
        name,
        MeshConfig(data=2, fsdp=2),
        None,
        trainable=all_but(["sparse", "multivec"]),
    )
    assert losses[-1] < losses[0] - 0.02, losses
    heads = {path for path in before if path.startswith(("sparse", "multivec"))}
    assert (name == "m3") == bool(heads)
    # Heads that the loss does not see stay as they are, weight decay or not.
    assert moved(before, after) == set(before) - heads


@pytest.mark.slow  # `tests/nn/test_lora.py` is quick
@pytest.mark.parametrize("name", ["m3", "qwen3"])
def test_low_rank_pairs_alone_are_trained(name) -> None:
    losses, before, after, state = trained(
        name,
        MeshConfig(data=1, fsdp=2, tensor=2),
        LoraConfig(rank=2, alpha=8.0),
        trainable=lora.TRAINABLE,
    )
    assert losses[-1] < losses[0] - 0.02, losses
    pairs = {path for path in before if path.endswith(("lora_a", "lora_b"))}
    assert pairs and moved(before, after) == pairs
    # And the optimizer keeps nothing for the rest.
    kept = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert kept == 2 * sum(before[path].size for path in pairs)
    # Merged, it is the same model without pairs.
    merged = tree.paths(lora.merge(state.params))
    assert set(merged) == {path for path in before if "lora_" not in path}
    key = next(path for path in merged if path.endswith("attention.query.kernel"))
    assert jnp.abs(merged[key] - before[key]).max() > 1e-4
