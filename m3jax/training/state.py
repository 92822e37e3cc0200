"""All that a training step changes, and where it lies."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from m3jax.core.mesh import replicated, shardings
from m3jax.core.types import Leaf, Params
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.training.objectives import Objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """State of a training.

    Attributes:
        step: int32, updates made so far; also the position in the data.
        params: what is trained.
        opt_state: of the optimizer.
        extra: of the objective.
        rng: key from which every step derives its own.
    """

    step: Leaf
    params: Params
    opt_state: Any
    extra: Any
    rng: Leaf


def abstract_state(
    module: EmbeddingModule,
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: dict[str, PartitionSpec],
) -> TrainState:
    """Shapes and shardings of the state, without an array.

    Args:
        module: the model.
        objective: decides `extra`.
        tx: decides `opt_state`.
        mesh: the devices.
        rules: path regex -> partition of a parameter; the optimizer's copies of a
            parameter lie as it does, and everything else is replicated.

    Returns:
        A state of `jax.ShapeDtypeStruct`.

    Raises:
        InputError: a parameter matches no rule, or an axis does not divide it.
    """
    shapes = jax.eval_shape(lambda: _create(module, objective, tx, jax.random.key(0)))
    whole = replicated(mesh)
    of_params = shardings(mesh, shapes.params, rules)
    layout = TrainState(
        step=whole,
        params=of_params,
        opt_state=optax.tree.map_params(
            tx,
            lambda _, sharding: sharding,
            shapes.opt_state,
            of_params,
            transform_non_params=lambda _: whole,
        ),
        extra=jax.tree.map(lambda _: whole, shapes.extra),
        rng=whole,
    )
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=sharding
        ),
        shapes,
        layout,
    )


def new_state(
    module: EmbeddingModule,
    objective: Objective,
    tx: optax.GradientTransformation,
    like: TrainState,
    seed: int,
) -> TrainState:
    """Draw the first state, each device its own part.

    Args:
        module: the model.
        objective: decides `extra`.
        tx: decides `opt_state`.
        like: what `abstract_state` returned.
        seed: of the parameters and of everything drawn in training.

    Returns:
        The state; equal for every mesh.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, like)
    create = jax.jit(
        lambda: _create(module, objective, tx, jax.random.key(seed)),
        out_shardings=layout,
    )
    return create()


def _create(
    module: EmbeddingModule,
    objective: Objective,
    tx: optax.GradientTransformation,
    rng: jax.Array,
) -> TrainState:
    params_rng, extra_rng, rng = jax.random.split(rng, 3)
    params = init(module, params_rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        extra=objective.init(params, extra_rng),
        rng=rng,
    )
