"""What a training step minimises, as pure functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from m3jax.core.types import Batch, Params, Reads


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Terms:
    """What an objective says about a batch.

    Attributes:
        loss: `[b]`.
        weight: `[b]`; the step minimises sum(weight * loss) / sum(weight).
        metrics: name -> `[b]`, averaged in the same way.
        carry: what `update` needs; no gradient flows through it.
    """

    loss: jax.Array
    weight: jax.Array
    metrics: dict[str, jax.Array]
    carry: Any = None


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def _as_it_is(params: Params, extra: Any, carry: Any) -> Any:
    del params, carry
    return extra


@dataclass(frozen=True)
class Objective:
    """Pure functions; `extra` is state that is trained with, not trained.

    Attributes:
        loss: (params, extra, batch, step, rng) -> Terms.
        init: (params, rng) -> extra.
        update: (params, extra, carry) -> extra, after the optimizer.
        layout: path regex -> partition of a leaf of `extra`; what matches none is
            replicated.
        reads: what of a row it is given.
        auxiliary: rng -> parameters that are trained beside the model's, and are no
            part of what is exported.
    """

    loss: Callable[[Params, Any, Batch, jax.Array, jax.Array], Terms]
    init: Callable[[Params, jax.Array], Any] = _nothing
    update: Callable[[Params, Any, Any], Any] = _as_it_is
    layout: Mapping[str, PartitionSpec] = field(default_factory=dict)
    reads: Reads = "apart"
    auxiliary: Callable[[jax.Array], Params] = _nothing


def for_all(loss: jax.Array, rows: int, metrics: dict[str, jax.Array]) -> Terms:
    """One number for the whole batch: every row has it, with the same weight."""
    every = {name: jnp.full(rows, x) for name, x in metrics.items()}
    every = jax.lax.stop_gradient(every)
    return Terms(jnp.full(rows, loss), jnp.ones(rows), every)
