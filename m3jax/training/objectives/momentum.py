"""MoCo: negatives from a queue of passages that a slowly moving encoder has read."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.core.mesh import BATCH_AXES, batch_shards
from m3jax.core.types import Batch, Params
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.ops import scores
from m3jax.ops.pooling import normalize
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.texts import WHOLE, SubBatches, encode_texts


@dataclass(frozen=True)
class MomentumConfig:
    """Contrastive training with a queue of negatives (MoCo; an ablation of E5)."""

    temperature: float = 0.01
    """Divides the cosines."""
    queue: int = 65_536
    """Passages of earlier batches that are negatives."""
    momentum: float = 0.999
    """Share that the momentum encoder keeps of its parameters at an update."""


def momentum(
    module: EmbeddingModule,
    mesh: Mesh,
    config: MomentumConfig,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """InfoNCE of queries against own passages and a queue.

    Passages are read by the momentum encoder, k <- m k + (1 - m) q, without gradient;
    its positives push the oldest out of the queue. Candidates of a query are its own
    group and the queue as it was before this batch, less what equals its positive or
    answers an equal query; without in_batch, its own group alone.

    Args:
        module: the model.
        mesh: over which batch and queue are divided.
        config: temperature, length of the queue, momentum.
        sub_batches: parts in which a batch is encoded.

    Returns:
        The objective; its extra state is the momentum encoder, and the queue with the
        content hashes of its passages and of their queries.

    Raises:
        InputError: no queue or one that the devices do not divide, or a momentum that
            is no share.

    Source: He et al. 2019 (arXiv:1911.05722); E5 (arXiv:2212.03533), section 5.2.
    """
    shards = batch_shards(mesh)
    if config.queue < 1 or config.queue % shards:
        raise InputError(
            f"a multiple of {shards}, by which data x fsdp divide it",
            f"{config.queue}",
            where="objective.queue",
        )
    if not 0 <= config.momentum <= 1:
        found = f"{config.momentum}"
        raise InputError("a share from 0 to 1", found, where="objective.momentum")
    width = module.config.encoder.hidden

    def init(params: Params, rng: jax.Array) -> dict[str, Any]:
        drawn = jax.random.normal(rng, (config.queue, width))
        return {
            "momentum": jax.tree.map(jnp.copy, params),
            "queue": normalize(drawn),
            "queue_ids": jnp.zeros((config.queue, 2), jnp.uint32),
            "queue_query_ids": jnp.zeros((config.queue, 2), jnp.uint32),
            "queued": jnp.zeros((), jnp.int32),
        }

    def loss(
        params: Params, extra: Any, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del step
        query_rng, passage_rng = jax.random.split(rng)
        b, g, length = batch.passage.ids.shape
        flat = jax.tree.map(lambda x: x.reshape(b * g, length), batch.passage)
        query, passage = (
            encode_texts(
                module,
                of,
                tokens,
                key,
                mesh=mesh,
                sub_batches=sub_batches,
                outputs=("dense",),
            ).dense
            for of, tokens, key in (
                (params, batch.query, query_rng),
                (jax.lax.stop_gradient(extra["momentum"]), flat, passage_rng),
            )
        )
        passage = jax.lax.stop_gradient(passage)
        own = scores.dense_pairs(jnp.repeat(query, g, axis=0), passage).reshape(b, g)
        # Outside of shard_map: the compiler brings the queue to the queries.
        queued = scores.dense(query, extra["queue"])
        positive = batch.passage_ids[:, 0]
        there = jnp.arange(config.queue) < extra["queued"]
        # What equals the positive, or answers an equal query, is no negative.
        equal = (positive[:, None] == extra["queue_ids"][None]).all(-1)
        equal |= (batch.query_ids[:, None] == extra["queue_query_ids"][None]).all(-1)
        negative = there[None] & ~equal & batch.in_batch[:, None]
        # Its own group: all but what equals the positive.
        same = (positive[:, None] == batch.passage_ids).all(-1)
        group = batch.where & batch.where[:, :1]
        group &= ~same | (jnp.arange(g) == 0)[None]
        each = losses.softmax_cross_entropy(
            jnp.concatenate([own, queued], axis=1),
            jnp.zeros(b, jnp.int32),
            temperature=config.temperature,
            where=jnp.concatenate([group, negative & group[:, :1]], axis=1),
        )
        number = jnp.maximum(negative.sum(1), 1)
        positives = passage.reshape(b, g, width)[:, 0]
        metrics = {
            "positive": own[:, 0],
            "negative": jnp.where(negative, queued, 0).sum(1) / number,
            "masked_share": (there[None] & equal).sum(1) / jnp.maximum(there.sum(), 1),
        }
        weight = batch.where[:, 0].astype(jnp.float32)
        # A row without a positive leaves nothing in the queue but what is never met.
        return Terms(
            each,
            weight,
            jax.lax.stop_gradient(metrics),
            {
                "queue": positives,
                "queue_ids": positive,
                "queue_query_ids": batch.query_ids,
                "real": batch.where[:, 0],
            },
        )

    def update(params: Params, extra: Any, carry: Any) -> dict[str, Any]:
        kept = config.momentum
        slow = jax.tree.map(
            lambda old, new: (kept * old + (1 - kept) * new).astype(old.dtype),
            extra["momentum"],
            params,
        )
        # Real ones first, so that what is not there never enters.
        order = jnp.argsort(~carry["real"], stable=True)
        number = carry["real"].sum()
        size = config.queue
        place = jnp.arange(size)
        fresh = order[jnp.minimum(place, len(order) - 1)]
        old = jnp.maximum(place - number, 0)
        new = (place < number)[:, None]
        return {
            "momentum": slow,
            "queued": jnp.minimum(extra["queued"] + number, size),
            **{
                name: jnp.where(new, carry[name][fresh], extra[name][old])
                for name in ("queue", "queue_ids", "queue_query_ids")
            },
        }

    rows = P(BATCH_AXES, None)
    return Objective(
        loss,
        init,
        update,
        layout={r"^queue(_query)?(_ids)?$": rows, **SHARDING},
    )
