"""What a training step minimises, as three pure functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.mesh import BATCH_AXES
from m3jax.core.types import Batch, Params
from m3jax.nn.embedding import EmbeddingModule, embed


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
    carry: Any


@dataclass(frozen=True)
class Objective:
    """Three pure functions; `extra` is state that is trained with, not trained.

    Attributes:
        init: (params, rng) -> extra.
        loss: (params, extra, batch, step, rng) -> Terms.
        update: (params, extra, carry) -> extra, after the optimizer.
    """

    init: Callable[[Params, jax.Array], Any]
    loss: Callable[[Params, Any, Batch, jax.Array, jax.Array], Terms]
    update: Callable[[Params, Any, Any], Any]


# Paths of what dense embeddings depend on.
DENSE_PARAMETERS = r"^(encoder|mlp_head)\."


@dataclass(frozen=True)
class ContrastiveConfig:
    """Dense contrastive training (E5, BGE): `losses.info_nce` over all devices."""

    temperature: float = 0.02
    """Divides the cosines; E5 uses 0.01, BGE 0.02, SimCSE 0.05."""
    negatives: tuple[str, ...] = ("own", "passages")
    """Which passages a query is told apart from: its own hard negatives, and all
    passages of the other queries."""
    sub_batches: int = 1
    """Parts in which a batch is encoded, to save memory; the result is the same."""


def contrastive(
    module: EmbeddingModule, mesh: Mesh, config: ContrastiveConfig
) -> Objective:
    """InfoNCE between dense embeddings, with the negatives of all devices.

    Args:
        module: the model.
        mesh: over which the batch is divided.
        config: temperature, negatives, sub-batches.

    Returns:
        The objective; it has no extra state.
    """

    def contrast(query: jax.Array, passage: jax.Array, batch: Batch) -> losses.Contrast:
        return losses.contrast(
            query,
            passage,
            temperature=config.temperature,
            axis_name=BATCH_AXES,
            negatives=config.negatives,
            where=batch.where,
            query_ids=batch.query_ids,
            passage_ids=batch.passage_ids,
            in_batch=batch.in_batch,
        )

    def loss(
        params: Params, extra: Any, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra, step
        query_rng, passage_rng = jax.random.split(rng)
        flat = jax.tree.map(
            lambda x: einops.rearrange(x, "b g l -> (b g) l"), batch.passage
        )
        query, passage = (
            embed(module, params, tokens, rng=key, sub_batches=config.sub_batches).dense
            for tokens, key in ((batch.query, query_rng), (flat, passage_rng))
        )
        passage = einops.rearrange(passage, "(b g) e -> b g e", g=batch.where.shape[1])
        found = jax.shard_map(
            contrast, mesh=mesh, in_specs=P(BATCH_AXES), out_specs=P(BATCH_AXES)
        )(query, passage, batch)
        return Terms(
            loss=found.loss,
            weight=batch.where[:, 0].astype(jnp.float32),
            metrics={
                "positive": found.positive,
                "negative": found.negative_mean,
                "masked_share": found.masked_share,
                "accuracy": (found.rank == 0).astype(jnp.float32),
            },
            carry=None,
        )

    return Objective(
        init=lambda params, rng: {},
        loss=loss,
        update=lambda params, extra, carry: extra,
    )
