"""What a way of merging is made of: three kinds of pure parts, on one tensor.

A published tensor is merged as

    state = setting                                     # t, weights, ...
    for each round:
        sums = reduce(block, state) over all blocks     # they add up
        state = conclude(sums, state)
    merged = combine(block, state) for each block, or one model's where it is alone

where a block is any part of the tensor, the same one of every model. So a tree in
memory (`m3jax.merging.trees`) and files that are larger than the memory are merged by
the same numbers: only how they are cut into blocks differs.

Blocks are float32. Sums are float64, also where JAX has no 64-bit types switched on:
`wide` does it for the time of a computation. Beyond a thousand million numbers, sums of
float32 would not leave six digits of an angle.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer

# The same part of a tensor in every model; float32, all of one shape.
Tensors = Sequence[jax.Array]
# Name -> small arrays: what a tensor is merged with.
State = dict[str, Any]
# What is summed; None = everything.
Axes = tuple[int, ...] | None
# What one angle, or one threshold, is taken over.
Per = Literal["tensor", "tree", "row"]

wide = functools.partial(jax.enable_x64, True)
"""A context in which float64 and int64 are what they say."""


@dataclass(frozen=True)
class Round:
    """One pass over the blocks of a tensor.

    Attributes:
        reduce: (block, state, axes) -> sums over these axes, which stay with length 1,
            or over all where axes is None; sums of two blocks, added, are those of both
            together.
        conclude: (sums, state) -> state.
    """

    reduce: Callable[[Tensors, State, Axes], jax.Array]
    conclude: Callable[[jax.Array, State], State]


@dataclass(frozen=True)
class Method:
    """A way of merging.

    Attributes:
        rounds: passes that look at the tensors first.
        combine: (block, state) -> merged block, elementwise.
        alone: state -> of the first tensors of a block, whether the result is that one.
            It is then taken as it is stored: no float32 would keep a float64, and no
            arithmetic those numbers next to 0 that XLA takes for 0.
    """

    rounds: tuple[Round, ...]
    combine: Callable[[Tensors, State], jax.Array]
    alone: Callable[[State], Iterable[jax.Array]] = lambda state: ()


@functools.partial(jax.jit, static_argnames=("method", "number", "axes", "stacked"))
def reduce(
    block: Sequence[Any],
    state: State,
    *,
    method: Method,
    number: int,
    axes: Axes = None,
    stacked: bool = False,
) -> jax.Array:
    """Sums of one round over a block; to be called within `wide`.

    Args:
        block: of each model, in any float type.
        state: before the round.
        method: the method.
        number: of the round.
        axes: what is summed, None = all; counted without the axis of the layers.
        stacked: whether the first axis of block and state is the layer.

    Returns:
        float64 or int64 sums.
    """

    def one(block: Sequence[Any], state: State) -> jax.Array:
        return method.rounds[number].reduce(_narrow(block), state, axes)

    return (jax.vmap(one) if stacked else one)(block, state)


@functools.partial(jax.jit, static_argnames=("method", "number", "stacked", "shared"))
def conclude(
    sums: jax.Array,
    state: State,
    *,
    method: Method,
    number: int,
    stacked: bool = False,
    shared: bool = False,
) -> State:
    """State after a round, by the sums over all blocks; to be called within `wide`.

    Args:
        sums: of the round.
        state: before it.
        method: the method.
        number: of the round.
        stacked: whether the first axis of the state is the layer.
        shared: whether these sums are for all layers.

    Returns:
        The state, for the next round or for `combine`.
    """
    one = method.rounds[number].conclude
    if stacked:
        one = jax.vmap(one, in_axes=(None if shared else 0, 0))
    return one(sums, state)


@functools.partial(jax.jit, static_argnames=("method", "dtype", "stacked"))
def combine(
    block: Sequence[Any],
    state: State,
    *,
    method: Method,
    dtype: Any,
    stacked: bool = False,
) -> jax.Array:
    """The merged block; to be called within `wide`.

    Args:
        block: of each model, in any float type.
        state: after all rounds.
        method: the method.
        dtype: of the result.
        stacked: whether the first axis of block and state is the layer.

    Returns:
        A block of the same shape.
    """

    def one(block: Sequence[Any], state: State) -> jax.Array:
        merged = method.combine(_narrow(block), state).astype(dtype)
        for x, alone in zip(block, method.alone(state), strict=False):
            merged = jnp.where(alone, x.astype(dtype), merged)
        return merged

    return (jax.vmap(one) if stacked else one)(block, state)


def is_traced(x: Any) -> bool:
    """Whether a value is not known yet, because a program is being traced.

    Example:
        >>> is_traced(1.0)
        False
    """
    return isinstance(x, Tracer)


def has_all(weights: jax.Array) -> jax.Array:
    """Of each model, `[k ...]`, whether it has weight 1 and the others have none.

    Example:
        >>> has_all(jnp.array([0.0, 1.0])).tolist()
        [False, True]
        >>> has_all(jnp.array([1.0, 1.0])).tolist()
        [False, False]
    """
    return (weights == 1) & (jnp.sum(weights != 0, 0, keepdims=True) == 1)


def times(weight: Any, x: jax.Array) -> jax.Array:
    """Weight x, and nothing where the weight is 0.

    "Nothing" is -0.0, which added to any number gives that number, also to -0.0. So
    what has no weight leaves no trace, not even of an infinity.

    Example:
        >>> times(jnp.float32(0), jnp.array([jnp.inf])) + jnp.array([-0.0])
        Array([-0.], dtype=float32)
    """
    return jnp.where(weight == 0, jnp.float32(-0.0), weight * x)


def _narrow(block: Sequence[Any]) -> list[jax.Array]:
    return [x.astype(jnp.float32) for x in block]
