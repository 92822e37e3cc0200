"""Training of rerankers, which read a query and a passage together."""

from dataclasses import dataclass
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards
from m3jax.core.types import Batch, Params
from m3jax.nn.reranker import RerankerModule, score
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.texts import WHOLE, SubBatches, parts


@dataclass(frozen=True)
class RerankingConfig:
    """Training of a reranker: each query with its own passages, the positive first."""

    loss: Literal["listwise", "pointwise"] = "listwise"
    """Cross-entropy over the passages of a query, or yes and no for each pair."""
    temperature: float = 1.0
    """Divides the logits of the listwise loss."""
    teacher_weight: float = 1.0
    """Of the divergence from teacher_scores, where the data has them."""


def reranking(
    module: RerankerModule,
    mesh: Mesh,
    config: RerankingConfig,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """Cross-entropy of pairs, listwise or pointwise.

    Pointwise, the loss of a query is the mean over its pairs, positives labelled 1 and
    all others 0, and weighs as many as they are: the batch minimises the mean over
    pairs.

    Args:
        module: the reranker.
        mesh: over which the batch is divided.
        config: which loss.
        sub_batches: parts in which the pairs are read.

    Returns:
        The objective; it has no extra state.

    Source: bge-reranker (FlagEmbedding); Qwen3-Reranker (arXiv:2506.05176).
    """

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra, step
        if batch.pair is None:
            raise InputError("pairs, read together", "none", where="batch")
        b, g, length = batch.pair.ids.shape
        flat = jax.tree.map(
            lambda x: einops.rearrange(x, "b g l -> (b g) l"), batch.pair
        )
        count = parts(sub_batches, b * g, length, batch_shards(mesh))
        logits = score(module, params, flat, rng=rng, sub_batches=count)
        where = batch.where & batch.where[:, :1]
        each = logits.reshape(b, g)
        there = where.sum(1)
        weight = where[:, 0].astype(jnp.float32)
        others = jnp.where(where, each, 0)[:, 1:].sum(1)
        metrics = {
            "positive": jnp.where(where[:, 0], each[:, 0], 0),
            "negative": others / jnp.maximum(there - 1, 1),
            "accuracy": (jnp.where(where, each, -jnp.inf).argmax(1) == 0) * weight,
        }
        if config.loss == "listwise":
            found = losses.rerank_listwise(
                each, temperature=config.temperature, where=where
            )
        else:
            labels = jnp.broadcast_to(jnp.arange(g) == 0, (b, g))
            pairs = losses.rerank_pointwise(
                logits,
                jnp.zeros_like(logits),
                labels.reshape(-1).astype(jnp.float32),
                where=where.reshape(-1),
            )
            found = pairs.reshape(b, g).sum(1) / jnp.maximum(there, 1)
            weight = there.astype(jnp.float32)
        if batch.teacher_scores is not None and config.teacher_weight:
            lack = losses.distill_kl(
                each,
                batch.teacher_scores,
                temperature=config.temperature,
                where=where,
            )
            metrics["distill"] = lack
            found = found + config.teacher_weight * lack
        return Terms(found, weight, jax.lax.stop_gradient(metrics))

    return Objective(loss, reads="together")
