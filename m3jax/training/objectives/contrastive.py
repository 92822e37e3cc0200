"""Dense contrastive training: E5, BGE, SimCSE, Qwen3-Embedding, KaLM."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.mesh import BATCH_AXES
from m3jax.core.types import Batch, Params
from m3jax.losses.contrastive import Transport
from m3jax.nn.embedding import EmbeddingModule
from m3jax.ops import scores
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.texts import WHOLE, SubBatches, encode_batch


@dataclass(frozen=True)
class ContrastiveConfig:
    """Dense contrastive training: `losses.info_nce` with the negatives of all devices.

    Graded pairs are trained with `losses.cosent`.
    """

    temperature: float = 0.02
    """Divides the cosines; E5 uses 0.01, BGE 0.02, SimCSE 0.05."""
    negatives: tuple[str, ...] = ("own", "passages")
    """What a query is told apart from: own (its hard negatives), passages (of the other
    queries), queries, positive_positive, positive_passage, positive_query."""
    false_negative_margin: float | None = None
    """A negative that scores higher than the positive by more than this does not count;
    Qwen3-Embedding uses 0.1."""
    hard_negative_weight: float = 0.0
    """Added to the logits of the own negatives (supervised SimCSE)."""
    hardness_weight: float = 0.0
    """Gamma: queries count (1 - p)^gamma, p being the share of their positive; 0 =
    all alike."""
    bidirectional: bool = False
    """Whether a positive has to find its query too."""
    dims: tuple[int, ...] = ()
    """Widths for Matryoshka, ascending; the whole width is trained only where it is one
    of them. None = it alone."""
    dim_weights: tuple[float, ...] = ()
    """Weights of their losses; 1 each by default."""
    teacher_weight: float = 1.0
    """Of the divergence from the teacher, where the data has teacher_scores."""
    contrastive_weight: float = 1.0
    """Of the contrastive loss beside it; E5 and SimLM use 0.2."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores."""
    graded_temperature: float = 0.05
    """Divides the cosines of graded pairs."""
    tile: int | None = None
    """Queries whose scores with all passages are in memory at once; all by default."""
    transport: Transport = "gather"
    """How passages reach the other devices: all at once, or in a ring."""
    mlm_weight: float = 0.0
    """Of a loss on masked words beside it, on the same texts; SimCSE uses 0.1."""
    mlm_ratio: float = 0.15
    """Share of the tokens that are hidden for it."""


def contrastive(
    module: EmbeddingModule,
    mesh: Mesh,
    config: ContrastiveConfig,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """InfoNCE between dense embeddings, with the negatives of all devices.

    Where the data has a teacher's scores: teacher_weight KL(teacher, student) over the
    own group + contrastive_weight InfoNCE. Graded pairs: CoSENT.

    Args:
        module: the model.
        mesh: over which the batch is divided.
        config: the loss.
        sub_batches: parts in which a batch is encoded.

    Returns:
        The objective; it has no extra state.

    Source: E5 (arXiv:2212.03533), SimLM (arXiv:2207.02578) for the teacher.
    """

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra, step
        query, passage = encode_batch(
            module,
            params,
            batch,
            rng,
            mesh=mesh,
            sub_batches=sub_batches,
            outputs=("dense",),
        )
        return score(query.dense, passage.dense, batch, mesh=mesh, config=config)

    return Objective(loss)


def score(
    query: jax.Array,
    passage: jax.Array,
    batch: Batch,
    *,
    mesh: Mesh,
    config: ContrastiveConfig,
) -> Terms:
    """The loss of embeddings `[b e]` and `[b g e]`, over all devices."""
    over = _graded if batch.label is not None else _contrast
    rows = P(BATCH_AXES)

    def local(query: jax.Array, passage: jax.Array, batch: Batch) -> Terms:
        return over(query, passage, batch, config)

    return jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows)(
        query, passage, batch
    )


def _contrast(
    query: jax.Array, passage: jax.Array, batch: Batch, config: ContrastiveConfig
) -> Terms:
    options = {
        "temperature": config.temperature,
        "axis_name": BATCH_AXES,
        "negatives": config.negatives,
        "where": batch.where,
        "query_ids": batch.query_ids,
        "passage_ids": batch.passage_ids,
        "in_batch": batch.in_batch,
        "false_negative_margin": config.false_negative_margin,
        "hard_negative_weight": config.hard_negative_weight,
        "hardness_weight": config.hardness_weight,
        "bidirectional": config.bidirectional,
        "tile": config.tile,
        "transport": config.transport,
    }
    found = losses.contrast(query, passage, **options)
    loss = found.loss
    metrics = watched(found)
    if config.dims:
        weights = config.dim_weights or None
        nested = losses.matryoshka(losses.info_nce, config.dims, weights)
        loss = nested(query, passage, **options)
    if batch.teacher_scores is not None:
        b, g, e = passage.shape
        own = scores.dense_pairs(
            jnp.repeat(query, g, axis=0), passage.reshape(b * g, e)
        )
        metrics["distill"] = losses.distill_kl(
            own.reshape(b, g),
            batch.teacher_scores,
            temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            where=batch.where & batch.where[:, :1],
        )
        metrics["contrastive"] = loss
        loss = (
            config.teacher_weight * metrics["distill"]
            + config.contrastive_weight * loss
        )
    return Terms(loss, batch.where[:, 0].astype(jnp.float32), metrics)


def watched(found: losses.Contrast) -> dict[str, jax.Array]:
    """What one looks at in a contrastive loss: metric -> `[b]`."""
    return {
        "positive": found.positive,
        "negative": found.negative_mean,
        "masked_share": found.masked_share,
        "accuracy": (found.rank == 0).astype(jnp.float32),
    }


def _graded(
    query: jax.Array, passage: jax.Array, batch: Batch, config: ContrastiveConfig
) -> Terms:
    def cosent(query: jax.Array, passage: jax.Array, *, where: jax.Array) -> jax.Array:
        return losses.cosent(
            scores.dense_pairs(query, passage[:, 0]),
            batch.label,
            temperature=config.graded_temperature,
            axis_name=BATCH_AXES,
            where=where[:, 0],
        )

    nested = cosent
    if config.dims:
        weights = config.dim_weights or None
        nested = losses.matryoshka(cosent, config.dims, weights)
    loss = nested(query, passage, where=batch.where)
    cosine = scores.dense_pairs(query, passage[:, 0])
    # One number for the batch: with every row it has the same weight.
    each = jnp.broadcast_to(loss, cosine.shape)
    return Terms(each, batch.where[:, 0].astype(jnp.float32), {"cosine": cosine})
