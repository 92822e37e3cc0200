"""BGE-M3's unified training of dense, sparse and multi-vector heads."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.mesh import BATCH_AXES
from m3jax.core.types import Batch, Embeddings, Params
from m3jax.losses.bge_m3 import HEADS
from m3jax.nn.embedding import EmbeddingModule
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.contrastive import watched
from m3jax.training.objectives.texts import WHOLE, SubBatches, encode_batch


@dataclass(frozen=True)
class UnifiedConfig:
    """BGE-M3's training of all heads: `losses.m3` on the negatives of all devices.

    Where the data has teacher_scores, every loss learns from them too.
    """

    temperature: float = 0.02
    """Divides the scores of every head."""
    heads: tuple[str, ...] = ("dense", "sparse", "multivec")
    """Heads to train; the others are left as they are."""
    score_weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """Of dense, sparse and multivec in the ensemble."""
    loss_weights: tuple[float, float, float] = (1.0, 0.1, 1.0)
    """Of their losses."""
    ensemble_weight: float = 1.0
    """Of the ensemble's loss."""
    distill: float = 1.0
    """How much the heads learn from their ensemble: 0 not at all, 1 as published."""
    distill_from: int = 0
    """Updates before they do."""
    teacher_loss: Literal["kl", "m3_kd"] = "m3_kd"
    """How teacher_scores are learned from: beside the contrastive loss, or in its
    place (BGE-M3's scripts)."""
    multivec_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which token vectors travel and are multiplied, with float32 sums. bfloat16
    takes a sixth of the time on a TPU; rounding moves a cosine of 1,024 numbers by
    about 1e-4. The gradients of all devices are summed in float32."""
    dims: tuple[int, ...] = ()
    """Widths of the dense head for Matryoshka, ascending; none = the whole."""
    dim_weights: tuple[float, ...] = ()
    """Weights of their losses; 1 each by default."""
    compat: Literal["none", "flagembedding"] = "none"
    """flagembedding: sparse, multivec and ensemble meet the passages of one device
    only, and the dense loss weighs 1/devices, as in FlagEmbedding."""


def unified(
    module: EmbeddingModule,
    mesh: Mesh,
    config: UnifiedConfig,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """BGE-M3's loss, with the negatives of all devices for every head.

    Args:
        module: a model with the heads.
        mesh: over which the batch is divided.
        config: weights, and when self-distillation starts.
        sub_batches: parts in which a batch is encoded.

    Returns:
        The objective; it has no extra state: the step tells it whether to distil.

    Source: BGE-M3 (arXiv:2402.03216v4).
    """

    def local(
        query: Embeddings, passage: Embeddings, batch: Batch, distill: jax.Array
    ) -> Terms:
        told = batch.teacher_scores is not None
        found = losses.m3(
            query,
            passage,
            temperature=config.temperature,
            axis_name=BATCH_AXES,
            score_weights=config.score_weights,
            loss_weights=config.loss_weights,
            ensemble_weight=config.ensemble_weight,
            distill=distill,
            teacher_scores=batch.teacher_scores,
            teacher_loss=config.teacher_loss if told else "kl",
            where=batch.where,
            in_batch=batch.in_batch,
            query_ids=batch.query_ids,
            passage_ids=batch.passage_ids,
            dims=config.dims or None,
            dim_weights=config.dim_weights or None,
            compat=None if config.compat == "none" else config.compat,
        )
        parts = {name: getattr(found, name) for name in (*HEADS, "ensemble", "distill")}
        metrics = {f"{name}_loss": x for name, x in parts.items() if x is not None}
        if query.dense is not None:
            metrics |= _watched(query.dense, passage.dense, batch, config)
        return Terms(found.loss, batch.where[:, 0].astype(jnp.float32), metrics)

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra
        if batch.teacher_scores is not None and config.teacher_loss == "m3_kd":
            batch = best_first(batch)
        query, passage = encode_batch(
            module,
            params,
            batch,
            rng,
            mesh=mesh,
            sub_batches=sub_batches,
            outputs=config.heads,
        )
        dtype = jnp.dtype(config.multivec_dtype)
        query, passage = (with_vectors(one, dtype) for one in (query, passage))
        # A traced value: nothing is compiled anew when distillation starts.
        distill = jnp.where(step >= config.distill_from, config.distill, 0.0)
        rows = P(BATCH_AXES)
        return jax.shard_map(
            local, mesh=mesh, in_specs=(rows, rows, rows, P()), out_specs=rows
        )(query, passage, batch, distill)

    return Objective(loss)


def with_vectors(texts: Embeddings, dtype: jnp.dtype) -> Embeddings:
    """The same texts, their token vectors in another dtype; their gradient too.

    Args:
        texts: with or without token vectors.
        dtype: the other one.

    Returns:
        The texts.

    Example:
        >>> from m3jax.core.types import Multivec
        >>> vectors = Multivec(jnp.ones((1, 2, 3)), jnp.ones((1, 2), bool))
        >>> texts = Embeddings(multivec=vectors)
        >>> found = with_vectors(texts, jnp.dtype("bfloat16")).multivec
        >>> found.vectors.dtype.name, found.mask.shape
        ('bfloat16', (1, 2))
    """
    found = texts.multivec
    if found is None:
        return texts
    cast = dataclasses.replace(found, vectors=found.vectors.astype(dtype))
    return dataclasses.replace(texts, multivec=cast)


def best_first(batch: Batch) -> Batch:
    """The own passages in the order that `losses.m3_kd` presumes.

    The positive stays the first; behind it come the others from the best to the worst
    by the teacher, and what is not there.
    """
    told = jnp.where(batch.where, batch.teacher_scores, -jnp.inf)
    order = jnp.argsort(-told.at[:, 0].set(jnp.inf), axis=1, stable=True)

    def sort(x: jax.Array) -> jax.Array:
        at = order.reshape(order.shape + (1,) * (x.ndim - 2))
        return jnp.take_along_axis(x, at, axis=1)

    fields = ("passage", "where", "passage_ids", "teacher_scores")
    moved = {name: jax.tree.map(sort, getattr(batch, name)) for name in fields}
    return dataclasses.replace(batch, **moved)


def _watched(
    query: jax.Array, passage: jax.Array, batch: Batch, config: UnifiedConfig
) -> dict[str, jax.Array]:
    """What one looks at; it has no gradient."""
    found = losses.contrast(
        *jax.lax.stop_gradient((query, passage)),
        temperature=config.temperature,
        axis_name=BATCH_AXES,
        where=batch.where,
        query_ids=batch.query_ids,
        passage_ids=batch.passage_ids,
        in_batch=batch.in_batch,
    )
    return watched(found)
