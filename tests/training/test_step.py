"""The training step: one result on every mesh, at every sub-batch count."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core import tree
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch, Tokens
from m3jax.nn.bert import SHARDING
from m3jax.nn.embedding import EmbeddingModule
from m3jax.testing import tiny_config
from m3jax.training.objectives import ContrastiveConfig, SubBatches, contrastive
from m3jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from m3jax.training.state import TrainState, abstract_state, new_state, starting
from m3jax.training.step import make_step

SIZE = 16


def batch(seed: int, size: int = SIZE) -> Batch:
    rng = np.random.default_rng(seed)

    def tokens(*shape: int) -> Tokens:
        ids = rng.integers(1, 64, shape).astype(np.int32)
        mask = np.arange(shape[-1]) < rng.integers(1, shape[-1] + 1, (*shape[:-1], 1))
        return Tokens(ids * mask, mask)

    where = rng.random((size, 2)) > 0.2
    where[:, 0] = True
    where[3] = False  # a row without a positive weighs nothing
    return Batch(
        query=tokens(size, 6),
        passage=tokens(size, 2, 9),
        where=where,
        query_ids=rng.integers(0, 5, (size, 2)).astype(np.uint32),
        passage_ids=rng.integers(0, 9, (size, 2, 2)).astype(np.uint32),
        in_batch=rng.random(size) > 0.3,
        row=np.arange(size, dtype=np.int32),
        dataset=np.zeros(size, np.int32),
    )


def build(mesh_config: MeshConfig, devices: int, sub_batches: int = 1, **fields: Any):
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    fields.setdefault("dropout", 0.2)
    module = EmbeddingModule(tiny_config(**fields))
    config = ContrastiveConfig(temperature=0.1)
    objective = contrastive(module, mesh, config, SubBatches(sub_batches))
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=0.2)
    tx = make_optimizer(optimizer, steps=10)
    like = abstract_state(starting(module), objective, tx, mesh, SHARDING)
    state = new_state(starting(module), objective, tx, like, seed=0)
    schedule = make_schedule(optimizer, steps=10)
    return mesh, like, state, make_step(objective, tx, schedule, mesh, like)


def run(mesh_config: MeshConfig, devices: int, sub_batches: int = 1, steps: int = 4):
    mesh, like, state, step = build(mesh_config, devices, sub_batches)
    told = []
    for number in range(steps):
        state, metrics = step(
            state, jax.device_put(batch(number), batch_sharding(mesh))
        )
        told.append({name: float(x) for name, x in metrics.items()})
    return like, state, told


# Other tests of the worker come between those of a group.
@pytest.fixture(scope="session")
def truth():
    return run(MeshConfig(), 1)


@pytest.mark.xdist_group("steps")
@pytest.mark.parametrize(
    ("mesh", "devices", "sub_batches"),
    [
        pytest.param(MeshConfig(), 1, 4, marks=pytest.mark.slow),
        pytest.param(MeshConfig(), 2, 1, marks=pytest.mark.slow),
        pytest.param(MeshConfig(), 8, 1, marks=pytest.mark.slow),
        pytest.param(MeshConfig(), 8, 2, marks=pytest.mark.slow),
        (MeshConfig(fsdp=2), 4, 2),
        pytest.param(MeshConfig(fsdp=4), 4, 2, marks=pytest.mark.slow),
        pytest.param(MeshConfig(fsdp=2, tensor=2), 8, 1, marks=pytest.mark.slow),
    ],
)
def test_any_mesh_and_sub_batches(truth, mesh, devices: int, sub_batches: int) -> None:
    _, expected, told_then = truth
    like, state, told = run(mesh, devices, sub_batches)
    for now, then in zip(told, told_then, strict=True):
        assert now.keys() == then.keys()
        for name in now:
            assert now[name] == pytest.approx(then[name], rel=1e-5, abs=1e-6), name
    # The first gradient, through Adam's first moment: no division blows errors up.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
        state.params,
        expected.params,
    )
    # Nothing has wandered off to other devices than it was given.
    jax.tree.map(
        lambda leaf, shape: (
            pytest.fail(f"{leaf.sharding}")
            if not leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
            else None
        ),
        state,
        like,
    )


@pytest.mark.xdist_group("steps")
def test_training_learns_and_counts(truth) -> None:
    _, state, told = truth
    assert int(state.step) == 4
    assert told[-1]["loss"] != told[0]["loss"]
    first = batch(0)
    assert told[0]["tokens"] == first.query.mask.sum() + first.passage.mask.sum()


def test_rows_without_a_positive_weigh_nothing() -> None:
    _, _, state, step = build(MeshConfig(), 1, dropout=0.0)
    changed = batch(0)
    changed.query.ids[3] = 1
    copy = jax.tree.map(jnp.copy, state)
    _, one = step(state, batch(0))
    _, two = step(copy, changed)
    assert float(one["loss"]) == float(two["loss"])


def test_state_is_donated_and_shapes_compile_once() -> None:
    _, _, state, step = build(MeshConfig(), 1)
    after, _ = step(state, batch(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    for number in (1, 2):
        after, _ = step(after, batch(number))
    assert step._cache_size() == 1  # type: ignore[attr-defined]
    assert int(after.step) == 3


def collectives(sub_batches: int) -> list[str]:
    mesh, _, state, step = build(MeshConfig(), 8, sub_batches)
    on_devices = jax.device_put(batch(0), batch_sharding(mesh))
    text = step.lower(state, on_devices).compile().as_text()  # type: ignore[attr-defined]
    return re.findall(r"= .*?(all-gather|all-to-all|collective-permute)\(", text)


@pytest.mark.slow
def test_sub_batches_add_no_collective() -> None:
    """Cut the wrong way, "(n b)", each part would be gathered from all devices."""
    whole = collectives(1)
    assert len(whole) > 0  # the passages of the loss
    assert len(collectives(2)) == len(whole)


def cost(mesh_config: MeshConfig) -> tuple[float, int]:
    """FLOPs and temporary bytes of one device."""
    mesh, _, state, step = build(mesh_config, 8, dropout=0.0, hidden=32)
    on_devices = jax.device_put(batch(0, size=64), batch_sharding(mesh))
    compiled = step.lower(state, on_devices).compile()  # type: ignore[attr-defined]
    return compiled.cost_analysis()[
        "flops"
    ], compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_fsdp_divides_the_work_as_data_does() -> None:
    """Not said otherwise, the compiler would give every device all rows."""
    flops, temporary = cost(MeshConfig(data=8))
    with_fsdp, temporary_with_fsdp = cost(MeshConfig(fsdp=8))
    assert with_fsdp < 1.1 * flops
    assert temporary_with_fsdp < 1.5 * temporary


@pytest.mark.slow
def test_a_mixed_mesh_looks_up_its_own_rows() -> None:
    """Not said otherwise, every device gets all rows of a lookup."""
    mesh, _, state, step = build(MeshConfig(data=4, fsdp=2), 8)
    on_devices = jax.device_put(batch(0), batch_sharding(mesh))
    text = step.lower(state, on_devices).compile().as_text()  # type: ignore[attr-defined]
    rows = [int(n) for n in re.findall(r"f32\[(\d+),9,(?:8|16)\]", text)]
    # 32 passages: 8 of every two devices that share the table, 4 of each afterwards.
    assert rows and max(rows) == 8


def test_gathered_are_embeddings_only() -> None:
    mesh, _, state, step = build(MeshConfig(), 8)
    on_devices = jax.device_put(batch(0), batch_sharding(mesh))
    text = step.lower(state, on_devices).compile().as_text()  # type: ignore[attr-defined]
    shapes = re.findall(r"= \w+\[([\d,]*)\][^ ]* all-gather\(", text)
    assert shapes
    largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)
    assert largest <= SIZE * 2 * 16  # passages x width: no token states


def test_optimizer_follows_its_schedule() -> None:
    config = OptimizerConfig(learning_rate=2.0, warmup=0.25, schedule="linear")
    schedule = make_schedule(config, steps=8)

    def rates(schedule: Any, *steps: int) -> list[float]:
        return [round(float(schedule(step)), 6) for step in steps]

    assert rates(schedule, 0, 1, 2, 5, 8) == [0, 1, 2, 1, 0]
    cosine = make_schedule(OptimizerConfig(2.0, 0.0, "cosine"), steps=8)
    assert rates(cosine, 0, 4, 8) == [2, 1, 0]
    constant = make_schedule(OptimizerConfig(2.0, 0.5, "constant"), steps=8)
    assert rates(constant, 2, 4, 8) == [1, 2, 2]


def test_decay_leaves_biases_and_norms_alone() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=0.0, weight_decay=0.5)
    tx = make_optimizer(config, steps=4)
    params = {"up": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}}
    params["norm"] = {"scale": jnp.ones(2), "bias": jnp.ones(2)}
    updates, _ = tx.update(
        jax.tree.map(jnp.zeros_like, params), tx.init(params), params
    )
    moved = {name: np.asarray(x).tolist() for name, x in tree.paths(updates).items()}
    assert moved == {
        "norm.bias": [0, 0],
        "norm.scale": [0, 0],
        "up.bias": [0, 0],
        "up.kernel": [-0.5, -0.5],
    }


def test_gradients_are_clipped() -> None:
    tx = make_optimizer(OptimizerConfig(1.0, 0.0, clip_norm=1.0, b1=0.0), steps=4)
    params = {"kernel": jnp.zeros(2)}
    state = tx.init(params)
    _, state = tx.update({"kernel": jnp.array([30.0, 40.0])}, state, params)
    moments = [x for x in jax.tree.leaves(state) if x.shape == (2,)]
    np.testing.assert_allclose(moments[0], [0.6, 0.8], rtol=1e-6)


def test_abstract_state_is_the_state() -> None:
    _, like, state, _ = build(MeshConfig(fsdp=2), 2)
    assert isinstance(state, TrainState)
    jax.tree.map(
        lambda x, y: np.testing.assert_equal((x.shape, x.dtype), (y.shape, y.dtype)),
        state,
        like,
    )
