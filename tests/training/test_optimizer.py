"""Every optimizer, and groups of parameters that move otherwise."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from m3jax.core import config as configs
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.groups import Group
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.optimizer import OptimizerConfig, check_optimizer, make_optimizer
from m3jax.training.optimizer import make_schedule as schedule_of
from m3jax.training.state import TrainState, abstract_state, new_state
from m3jax.training.step import make_step

NAMES = ("adamw", "adafactor", "lion", "lamb", "sgd")
WIDTH = 128  # from here on adafactor keeps sums of rows and columns


def start(rng: jax.Array, given: Any) -> Any:
    """Parameters of two layers, of which each tensor is drawn."""
    del given
    keys = jax.random.split(rng, 3)
    kernel = jax.random.normal(keys[0], (2, WIDTH, 2 * WIDTH)) * 0.05
    return {
        "layers": {"up": {"kernel": kernel, "bias": jnp.zeros((2, 2 * WIDTH))}},
        "norm": {"scale": jnp.ones(WIDTH)},
        "head": {"kernel": jax.random.normal(keys[1], (2 * WIDTH, 1)) * 0.05},
    }


def objective() -> Objective:
    """Learn a constant from the row numbers, with every parameter."""

    def loss(params, extra, batch: Batch, step, rng) -> Terms:
        del extra, step, rng
        x = jnp.sin(batch.row[:, None] * jnp.arange(1.0, WIDTH + 1)[None])
        x = x * params["norm"]["scale"][None]
        layers = params["layers"]["up"]
        up = jnp.einsum("bd,yde->ybe", x, layers["kernel"]) + layers["bias"][:, None]
        found = jnp.tanh(up).sum(0) @ params["head"]["kernel"]
        return Terms((found[:, 0] - 1.0) ** 2, jnp.ones(x.shape[0]), {})

    return Objective(loss)


def batch(number: int) -> Batch:
    row = np.arange(4, dtype=np.int32) + number
    return Batch(None, None, None, None, None, None, row, np.zeros(4, np.int32))


def build(config: OptimizerConfig):
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    tx = make_optimizer(config, steps=20)
    rules = {r"layers\.up\.kernel": PartitionSpec(None, "fsdp"), "": PartitionSpec()}
    like = abstract_state(start, objective(), tx, mesh, rules)
    state = new_state(start, objective(), tx, like, seed=0)
    step = make_step(
        objective(),
        tx,
        schedule_of(config, 20),
        mesh,
        like,
        trainable=config.trainable,
        groups=config.groups,
    )
    return like, state, step


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_learns_and_goes_on_bit_for_bit(
    name: Any, tmp_path: Path
) -> None:
    rate = {"sgd": 1e-2, "lamb": 1e-2}.get(name, 1e-3)
    like, state, step = build(OptimizerConfig(rate, 0.0, name=name))
    jax.tree.map(
        lambda leaf, shape: np.testing.assert_equal(leaf.sharding, shape.sharding),
        state,
        like,
    )
    checkpoints = Checkpoints(tmp_path / "c", None)
    losses = []
    for number in range(6):
        if number == 3:
            checkpoints.save(state, {}, {})
            checkpoints.wait()
        state, metrics = step(state, batch(number))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.9 * losses[0]
    again = checkpoints.restore_last(like)
    checkpoints.close()
    assert again is not None and int(again.step) == 3
    for number in range(3, 6):
        again, _ = step(again, batch(number))
    for x, y in zip(*map(values, (state, again)), strict=True):
        np.testing.assert_array_equal(x, y)


def values(state: TrainState) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves((state.params, state.opt_state))]


def test_sums_of_rows_and_columns_lie_with_their_parameter() -> None:
    like, _, _ = build(OptimizerConfig(name="adafactor"))
    found = {
        leaf.shape: leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(like.opt_state)
        if "kernel" in str(path) and "layers" in str(path)
    }
    assert found == {
        (2, WIDTH): PartitionSpec(None, "fsdp"),
        (2, 2 * WIDTH): PartitionSpec(None, None),
        (1,): PartitionSpec(),
    }
    like, _, _ = build(OptimizerConfig(name="adamw"))
    moments = [x for x in jax.tree.leaves(like.opt_state) if x.ndim == 3]
    assert len(moments) == 2
    assert all(x.sharding.spec == PartitionSpec(None, "fsdp") for x in moments)


def updates(config: OptimizerConfig, params: Any, steps: int = 3) -> Any:
    """What the optimizer says after a few gradients that change."""
    return run_updates(make_optimizer(config, steps=10), params, steps)


def run_updates(tx: optax.GradientTransformation, params: Any, steps: int = 3) -> Any:
    state, told = tx.init(params), None
    for number in range(steps):
        gradient = jax.tree.map(
            lambda x, n=number: (1 + 9 * n) * jnp.cos(3 * x + n), params
        )
        told, state = tx.update(gradient, state, params)
    return told


@pytest.mark.parametrize("name", NAMES)
def test_layers_of_a_stack_are_tensors_of_their_own(name: Any) -> None:
    """No norm is taken over layers that only happen to be stored together."""
    config = OptimizerConfig(1.0, 0.0, "constant", 0.1, clip_norm=1e9, name=name)
    width = WIDTH if name == "adafactor" else 4
    layers = jax.random.normal(jax.random.key(0), (3, width, width))
    layers = layers * jnp.array([0.01, 1.0, 30.0])[:, None, None]
    stacked = updates(config, {"layers": {"kernel": layers}})["layers"]["kernel"]
    for layer, found in zip(layers, stacked, strict=True):
        alone = updates(config, {"kernel": layer})["kernel"]
        np.testing.assert_allclose(found, alone, rtol=2e-4, atol=1e-6)


PUBLISHED = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.1),
    "lion": lambda rate: optax.lion(rate, weight_decay=0.1),
    "lamb": lambda rate: optax.lamb(rate, weight_decay=0.1),
    "sgd": lambda rate: optax.chain(
        optax.trace(0.9),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(rate),
    ),
    "adafactor": lambda rate: optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(rate),
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_is_the_published_rule(name: Any) -> None:
    config = OptimizerConfig(0.5, 0.2, "linear", 0.1, clip_norm=1e9, name=name)
    params = {"up": {"kernel": jnp.linspace(-1, 2, 12).reshape(3, 4)}}
    found = updates(config, params)["up"]["kernel"]
    rate = schedule_of(config, 10)
    expected = run_updates(PUBLISHED[name](rate), params)["up"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


GROUPS = (
    Group("^head", factor=3.0),
    Group(r"layers\.1\..*kernel", factor=0.5, weight_decay=0.0),
    Group("norm", freeze=True),
    Group(r"^layers", weight_decay=0.25),
)


def test_groups_move_what_they_should() -> None:
    """Without a gradient only weight decay moves; the first match holds."""
    params = jax.tree.map(jnp.ones_like, start(jax.random.key(0), None))
    config = OptimizerConfig(1.0, 0.0, "constant", 0.125, groups=GROUPS, name="lion")
    tx = make_optimizer(config, steps=4)
    zeros = jax.tree.map(jnp.zeros_like, params)
    found, state = tx.update(zeros, tx.init(params), params)
    moved = {name: float(x.ravel()[0]) for name, x in tree.named(found).items()}
    assert moved == {
        "head.kernel": -3 * 0.125,
        "layers.0.up.bias": 0,
        "layers.1.up.bias": 0,
        "layers.0.up.kernel": -0.25,
        "layers.1.up.kernel": 0,
        "norm.scale": 0,
    }
    assert "norm" not in str(jax.tree_util.tree_leaves_with_path(state))
    # Of a gradient, each its share: lion's direction is a sign.
    ones = jax.tree.map(jnp.ones_like, params)
    config = OptimizerConfig(1.0, 0.0, "constant", 0.0, groups=GROUPS, name="lion")
    tx = make_optimizer(config, steps=4)
    found, _ = tx.update(ones, tx.init(params), params)
    moved = {name: float(x.ravel()[0]) for name, x in tree.named(found).items()}
    assert moved == {
        "head.kernel": -3,
        "layers.0.up.bias": -1,
        "layers.1.up.bias": -1,
        "layers.0.up.kernel": -1.25,
        "layers.1.up.kernel": -0.5,
        "norm.scale": 0,
    }


def test_what_is_frozen_has_no_gradient_and_stays() -> None:
    config = OptimizerConfig(
        1e-2, 0.0, trainable="layers|norm", groups=(Group("bias|norm", freeze=True),)
    )
    _, state, step = build(config)
    before = jax.tree.map(np.asarray, state.params)
    text = str(jax.tree_util.tree_leaves_with_path(state.opt_state))
    assert "kernel" in text and "bias" not in text and "head" not in text
    state, metrics = step(state, batch(0))
    same = jax.tree.map(lambda x, y: bool((x == y).all()), before, state.params)
    assert tree.paths(same) == {
        "head.kernel": True,
        "layers.up.bias": True,
        "layers.up.kernel": False,
        "norm.scale": True,
    }
    # The norm is of the one kernel that moves.
    _, state, step = build(OptimizerConfig(1e-2, 0.0, trainable=r"layers\.up\.kernel"))
    _, alone = step(state, batch(0))
    assert float(metrics["gradient_norm"]) == float(alone["gradient_norm"])


BAD = {
    "none": ((Group("^hed"),), "groups.0.pattern", "Paths look like head.kernel"),
    "no regex": ((Group("head"), Group("(")), "groups.1.pattern", "a regex"),
    "all taken": ((Group("head|norm"), Group("head")), "groups.1", "narrower one"),
    "part of a stack": (
        (Group(r"layers\.0", freeze=True),),
        "optimizer.groups",
        "1 of 2 layers of layers.up.bias",
    ),
    "factor": ((Group("head", factor=-1.0),), "groups.0.factor", "-1.0"),
    "decay": ((Group("head", weight_decay=float("nan")),), "weight_decay", "nan"),
    "all frozen": ((Group("", freeze=True),), "optimizer.groups", "frozen"),
}


@pytest.mark.parametrize("name", BAD)
def test_groups_that_cannot_be(name: str) -> None:
    groups, *said = BAD[name]
    params = jax.eval_shape(lambda: start(jax.random.key(0), None))
    with pytest.raises(InputError) as error:
        check_optimizer(params, OptimizerConfig(groups=groups))
    for part in said:
        assert part in str(error.value)
    with pytest.raises(InputError):  # nor does such a training begin
        jax.eval_shape(make_optimizer(OptimizerConfig(groups=groups), 4).init, params)


def adamw(schedule: optax.Schedule, mask: Any) -> optax.GradientTransformation:
    return optax.adamw(schedule, weight_decay=0.01, mask=mask)


def test_any_other_transformation_of_optax() -> None:
    groups = (Group("head", factor=2.0), Group("norm", freeze=True))
    config = OptimizerConfig(0.5, 0.5, groups=groups)
    params = start(jax.random.key(0), None)
    own = OptimizerConfig(0.5, 0.5, groups=groups, transform=adamw, name="sgd")
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6),
        updates(own, params),
        updates(config, params),
    )
    # Its arrays lie where the parameters do, without being told.
    like, _, _ = build(OptimizerConfig(transform=adamw))
    moments = [x for x in jax.tree.leaves(like.opt_state) if x.ndim == 3]
    assert [x.sharding.spec for x in moments] == [PartitionSpec(None, "fsdp")] * 2
    with pytest.raises(InputError, match=r"groups\.0\.weight_decay"):
        decays = (Group("head", weight_decay=0.5),)
        check_optimizer(params, OptimizerConfig(groups=decays, transform=adamw))


@dataclass(frozen=True)
class Flags:
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


def test_flags_and_json_of_the_config() -> None:
    default = Flags(OptimizerConfig(groups=(Group("head"),), transform=adamw))
    words = ["--optimizer.name", "lion", "--optimizer.warmup-steps", "3"]
    words += ["--optimizer.groups.0.factor", "2", "--optimizer.b2", "0.98"]
    found = configs.parse_flags(
        Flags, words, prog="train", description="", default=default
    ).optimizer
    assert found == OptimizerConfig(
        groups=(Group("head", 2.0),), transform=adamw, name="lion", warmup_steps=3,
        b2=0.98,
    )  # fmt: skip
    assert configs.to_dict(found)["transform"].endswith("test_optimizer.adamw")


def test_warm_up_as_steps() -> None:
    schedule: Any = schedule_of(OptimizerConfig(2.0, 0.9, warmup_steps=2), steps=6)
    assert [float(schedule(step)) for step in (0, 1, 2, 4, 6)] == [0, 1, 2, 1, 0]
    schedule = schedule_of(OptimizerConfig(2.0, 0.9, warmup_steps=0), steps=4)
    assert [float(schedule(step)) for step in (0, 2)] == [2, 1]
