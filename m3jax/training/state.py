"""All that a training step changes, and where it lies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from m3jax.core.mesh import replicated, shardings
from m3jax.core.types import Leaf, Params
from m3jax.nn import embedding, lora, reranker
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.lora import LoraConfig
from m3jax.nn.reranker import RerankerModule
from m3jax.training.objectives.base import Objective

# (rng, parameters to go on from, or None) -> the first parameters.
Start = Callable[[jax.Array, Params | None], Params]


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


def starting(
    module: EmbeddingModule | RerankerModule,
    pairs: LoraConfig | None = None,
    *,
    auxiliary: Callable[[jax.Array], Params] = lambda _: {},
) -> Start:
    """How the parameters of a training begin: given or drawn, with low-rank pairs.

    Heads of the module that what is given does not have are drawn.

    Args:
        module: the model.
        pairs: which parameters get a low-rank pair; None = none.
        auxiliary: draws what is trained beside the model, as an objective asks.

    Returns:
        A function for `abstract_state` and `new_state`.

    Example:
        >>> from m3jax.nn.bert import BertConfig
        >>> from m3jax.nn.embedding import EmbeddingConfig
        >>> module = EmbeddingModule(EmbeddingConfig(BertConfig(8, 4, 1, 1, 8, 4)))
        >>> sorted(starting(module)(jax.random.key(0), None))
        ['encoder']
    """

    def start(rng: jax.Array, given: Params | None) -> Params:
        params = {**_drawn(module, rng), **(given or {})}
        if pairs is not None:
            params = lora.add(params, pairs, jax.random.fold_in(rng, 1))
        return {**params, **auxiliary(jax.random.fold_in(rng, 2))}

    return start


def abstract_state(
    start: Start,
    objective: Objective,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    rules: dict[str, PartitionSpec],
) -> TrainState:
    """Shapes and shardings of the state, without an array.

    Args:
        start: makes the parameters.
        objective: decides `extra`.
        tx: decides `opt_state`.
        mesh: the devices.
        rules: path regex -> partition of a parameter; the optimizer's copies of a
            parameter lie as it does, what it sums over a dimension of one lies as the
            others do, and everything else is replicated.

    Returns:
        A state of `jax.ShapeDtypeStruct`.

    Raises:
        InputError: a parameter matches no rule, or an axis does not divide it.
    """
    shapes = jax.eval_shape(lambda: _create(start, objective, tx, jax.random.key(0)))
    whole = replicated(mesh)
    of_params = shardings(mesh, shapes.params, rules)
    layout = TrainState(
        step=whole,
        params=of_params,
        opt_state=_beside(shapes.opt_state, shapes.params, of_params, whole),
        extra=shardings(mesh, shapes.extra, {**objective.layout, "": PartitionSpec()}),
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
    start: Start,
    objective: Objective,
    tx: optax.GradientTransformation,
    like: TrainState,
    seed: int,
    *,
    params: Params | None = None,
) -> TrainState:
    """Make the first state, each device its own part.

    Args:
        start: makes the parameters.
        objective: decides `extra`.
        tx: decides `opt_state`.
        like: what `abstract_state` returned.
        seed: of the parameters and of everything drawn in training.
        params: of the model to go on from, which are gone afterwards; None = `start`
            draws them.

    Returns:
        The state; equal for every mesh.
    """
    layout = jax.tree.map(lambda leaf: leaf.sharding, like)
    create = jax.jit(
        lambda given: _create(start, objective, tx, jax.random.key(seed), given),
        donate_argnums=0,  # or a large model would be there twice
        out_shardings=layout,
    )
    return create(params)


def _beside(
    opt_state: Any, params: Params, of_params: Params, whole: NamedSharding
) -> Any:
    """Lay the arrays of an optimizer beside the parameters whose paths they end in."""
    shapes = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
    layouts = dict(jax.tree_util.tree_leaves_with_path(of_params))

    def one(path: Any, leaf: Any) -> NamedSharding:
        ends = (path[start:] for start in range(len(path)))
        end = next((end for end in ends if end in shapes), None)
        return whole if end is None else _like(leaf.shape, shapes[end], layouts[end])

    return jax.tree_util.tree_map_with_path(one, opt_state)


def _like(
    shape: tuple[int, ...], of_param: tuple[int, ...], layout: NamedSharding
) -> NamedSharding:
    """The layout of a parameter, also for what is summed over one of its dimensions."""
    if shape == of_param:
        return layout
    spec = [*layout.spec, *[None] * (len(of_param) - len(layout.spec))]
    for dim in reversed(range(len(of_param))):
        if shape == of_param[:dim] + of_param[dim + 1 :]:
            return NamedSharding(
                layout.mesh, PartitionSpec(*spec[:dim], *spec[dim + 1 :])
            )
    return NamedSharding(layout.mesh, PartitionSpec())


def _create(
    start: Start,
    objective: Objective,
    tx: optax.GradientTransformation,
    rng: jax.Array,
    given: Params | None = None,
) -> TrainState:
    params_rng, extra_rng, rng = jax.random.split(rng, 3)
    params = start(params_rng, given)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=tx.init(params),
        extra=objective.init(params, extra_rng),
        rng=rng,
    )


def _drawn(module: EmbeddingModule | RerankerModule, rng: jax.Array) -> Params:
    if isinstance(module, EmbeddingModule):
        return embedding.init(module, rng)
    return reranker.init(module, rng)
