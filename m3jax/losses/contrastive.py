"""InfoNCE in its variants."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from m3jax.core.errors import InputError
from m3jax.ops import scores

BLOCKS = ("own", "passages")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contrast:
    """What `contrast` found for each query.

    Attributes:
        loss: float32 `[b]`, in nats.
        positive: float32 `[b]`, score of the positive, before the temperature.
        negative_mean: float32 `[b]`, mean score of the negatives that counted.
        masked_share: float32 `[b]`, share of the candidates that did not count.
        rank: int32 `[b]`, negatives that score higher than the positive.
    """

    loss: jax.Array
    positive: jax.Array
    negative_mean: jax.Array
    masked_share: jax.Array
    rank: jax.Array


def info_nce(
    query: Float[Array, "b e"],
    passage: Float[Array, "b g e"],
    *,
    temperature: float | Float[Array, ""],
    axis_name: str | tuple[str, ...] | None = None,
    negatives: Sequence[str] = BLOCKS,
    where: Bool[Array, "b g"] | None = None,
    query_ids: UInt32[Array, "b w"] | None = None,
    passage_ids: UInt32[Array, "b g w"] | None = None,
) -> Float[Array, " b"]:
    """InfoNCE with hard and in-batch negatives, per query.

    l_i = log sum_{c in C_i} exp(s_ic / tau) - s_i+ / tau, with s_ic = <q_i, p_c>, p_+
    the first passage of the own group, and C_i the positive and the negatives:
    block "own" is the rest of the own group, block "passages" every passage of the
    other queries, on all devices when `axis_name` is given. A query without a
    positive (`where[i, 0]` False) has loss 0 and no gradient.

    Inside another project's step, with `axis_name` given, two forms are right:
    under `jax.shard_map` as it is by default, `grad(pmean(loss.mean()))`; under
    `jax.pmap`, or `shard_map(..., check_vma=False)`, `pmean(grad(loss.mean()))`. Each
    form in the other place is wrong by the number of devices. Differentiating
    outside of `shard_map`, as m3jax does, is always right.

    Args:
        query: query embeddings, normalised if cosines are wanted.
        passage: passage embeddings, the positive first.
        temperature: tau, divides the scores; > 0.
        axis_name: mapped axis or axes over which `b` is divided.
        negatives: blocks of the denominator, of "own" and "passages".
        where: False = there is no such passage.
        query_ids: content hash in w words; a positive of an equal query is never
            a negative.
        passage_ids: content hash in w words; a passage equal to the own positive
            is never a negative.

    Returns:
        The loss of each local query, in nats.

    Raises:
        InputError: temperature <= 0, an unknown block, shapes that do not fit.

    Source: van den Oord et al. 2018 (arXiv:1807.03748); E5 (arXiv:2212.03533);
    BGE-M3 (arXiv:2402.03216).

    Example:
        >>> query, passage = jnp.eye(3), jnp.eye(3)[:, None]
        >>> info_nce(query, passage, temperature=1.0).round(3).tolist()
        [0.5509999990463257, 0.5509999990463257, 0.5509999990463257]
    """
    return contrast(
        query,
        passage,
        temperature=temperature,
        axis_name=axis_name,
        negatives=negatives,
        where=where,
        query_ids=query_ids,
        passage_ids=passage_ids,
    ).loss


def contrast(
    query: Float[Array, "b e"],
    passage: Float[Array, "b g e"],
    *,
    temperature: float | Float[Array, ""],
    axis_name: str | tuple[str, ...] | None = None,
    negatives: Sequence[str] = BLOCKS,
    where: Bool[Array, "b g"] | None = None,
    query_ids: UInt32[Array, "b w"] | None = None,
    passage_ids: UInt32[Array, "b g w"] | None = None,
) -> Contrast:
    """`info_nce` together with what one wants to watch; the same arguments.

    Returns:
        Loss, positive score, mean negative score, share masked and rank per query.

    Raises:
        InputError: temperature <= 0, an unknown block, shapes that do not fit.

    Source: as `info_nce`.

    Example:
        >>> contrast(jnp.eye(2), jnp.eye(2)[:, None], temperature=1.0).rank.tolist()
        [0, 0]
    """
    _check(query, passage, temperature, negatives, where, query_ids, passage_ids)
    b, g, _ = passage.shape
    exists = jnp.ones((b, g), bool) if where is None else where
    if "passages" not in negatives:
        return _own_group(query, passage, temperature, exists, passage_ids)

    def everyones(x: Array) -> Array:
        if axis_name is None:
            return x
        return jax.lax.all_gather(x, axis_name, axis=0, tiled=True)

    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * b
    all_passage, all_exists = everyones(passage), everyones(exists)
    score = scores.dense(query, all_passage.reshape(-1, query.shape[-1]))
    score = score.reshape(b, -1, g)  # [b B g], B queries on all devices
    place = first + jnp.arange(b)  # of each local query among all
    own = place[:, None] == jnp.arange(score.shape[1])[None]  # [b B]
    lead = (jnp.arange(g) == 0)[None, None]  # [1 1 g], the positive of each group
    positive = own[:, :, None] & lead
    allowed = jnp.broadcast_to(all_exists[None], score.shape)
    if "own" not in negatives:
        allowed &= ~own[:, :, None]
    if query_ids is not None:
        same = jnp.all(query_ids[:, None] == everyones(query_ids)[None], -1)
        allowed &= ~(same[:, :, None] & lead)
    if passage_ids is not None:
        same = jnp.all(passage_ids[:, :1, None] == everyones(passage_ids)[None], -1)
        allowed &= ~same
    return _contrast(
        score.reshape(b, -1),
        temperature,
        jnp.take_along_axis(score[:, :, 0], place[:, None], axis=1)[:, 0],
        exists[:, 0],
        (allowed & ~positive).reshape(b, -1),
    )


def _own_group(
    query: Float[Array, "b e"],
    passage: Float[Array, "b g e"],
    temperature: float | Float[Array, ""],
    exists: Bool[Array, "b g"],
    passage_ids: UInt32[Array, "b g w"] | None,
) -> Contrast:
    """Without in-batch negatives: each query meets its own g passages, no others."""
    score = jnp.einsum(
        "be,bge->bg",
        query,
        passage,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    negative = exists & (jnp.arange(exists.shape[1]) > 0)[None]
    if passage_ids is not None:
        negative &= ~jnp.all(passage_ids[:, :1] == passage_ids, -1)
    return _contrast(score, temperature, score[:, 0], exists[:, 0], negative)


def _contrast(
    score: Float[Array, "b n"],
    temperature: float | Float[Array, ""],
    positive: Float[Array, " b"],
    has_positive: Bool[Array, " b"],
    negative: Bool[Array, "b n"],
) -> Contrast:
    """Everything from scores, with the positive apart and the negatives marked."""
    counts = negative & has_positive[:, None]
    # The positive's own term is exp(0) in these units: never masked, never lost.
    margin = (score - positive[:, None]) / temperature
    margin = jnp.where(counts, margin, -jnp.inf)
    zero = jnp.zeros((score.shape[0], 1), score.dtype)
    loss = jax.nn.logsumexp(jnp.concatenate([zero, margin], 1), axis=1)
    number = counts.sum(1)
    return Contrast(
        loss=loss,
        positive=positive,
        negative_mean=jnp.where(counts, score, 0).sum(1) / jnp.maximum(number, 1),
        masked_share=1 - (number + 1) / score.shape[1],
        rank=jnp.sum(counts & (score > positive[:, None]), axis=1),
    )


def _check(
    query: Array,
    passage: Array,
    temperature: float | Array,
    negatives: Sequence[str],
    where: Array | None,
    query_ids: Array | None,
    passage_ids: Array | None,
) -> None:
    if isinstance(temperature, int | float) and not temperature > 0:
        raise InputError("a temperature above 0", f"{temperature}", where="temperature")
    unknown = sorted(set(negatives) - set(BLOCKS))
    if unknown or not negatives:
        raise InputError(
            f"one or more of {', '.join(BLOCKS)}",
            ", ".join(unknown) or "none",
            where="negatives",
        )
    (b, e), g = query.shape, passage.shape[1]
    _check_shape("passage", passage, (b, g, e))
    if where is not None:
        _check_shape("where", where, (b, g))
    if query_ids is not None:
        _check_shape("query_ids", query_ids, (b, query_ids.shape[-1]))
    if passage_ids is not None:
        _check_shape("passage_ids", passage_ids, (b, g, passage_ids.shape[-1]))


def _check_shape(name: str, array: Array, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise InputError(f"shape {expected}", f"{array.shape}", where=name)
