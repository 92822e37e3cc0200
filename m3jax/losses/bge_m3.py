"""BGE-M3's loss: three heads, their ensemble, and what they learn from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings, Leaf, Multivec
from m3jax.losses import checks
from m3jax.losses.candidates import Facts, among_passages
from m3jax.losses.classification import softmax_cross_entropy
from m3jax.losses.distillation import m3_kd
from m3jax.losses.nested import check_dims, prefix
from m3jax.losses.travel import Axis, everyones, home
from m3jax.ops import scores

HEADS = ("dense", "sparse", "multivec")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class M3Loss:
    """What `m3` found for each query; None for what is not there.

    Attributes:
        loss: float32 `[b]`, to be minimised, in nats.
        dense: `[b]`, of the dense scores, before its weight.
        sparse: `[b]`, of the sparse scores.
        multivec: `[b]`, of the multi-vector scores.
        ensemble: `[b]`, of their weighted sum.
        distill: `[b]`, what the heads lack of the ensemble, weighted and averaged.
    """

    loss: Leaf
    dense: Leaf
    sparse: Leaf
    multivec: Leaf
    ensemble: Leaf
    distill: Leaf


def m3(
    query: Embeddings,
    passage: Embeddings,
    *,
    temperature: float | int | Float[Array, ""],
    axis_name: str | tuple[str, ...] | None = None,
    score_weights: Sequence[float | int] = (1.0, 0.3, 1.0),
    loss_weights: Sequence[float | int] = (1.0, 0.1, 1.0),
    ensemble_weight: float | int = 1.0,
    distill: float | int | Float[Array, ""] = 0.0,
    teacher_scores: Float[Array, "b g"] | None = None,
    teacher_loss: Literal["kl", "m3_kd"] = "kl",
    where: Bool[Array, "b g"] | None = None,
    in_batch: Bool[Array, " b"] | None = None,
    query_ids: UInt32[Array, "b w"] | None = None,
    passage_ids: UInt32[Array, "b g w"] | None = None,
    dims: Sequence[int] | None = None,
    dim_weights: Sequence[float | int] | None = None,
    compat: Literal["flagembedding"] | None = None,
) -> M3Loss:
    """BGE-M3's loss on dense, sparse and multi-vector embeddings, per query.

    With s_h the scores of head h with the passages of all devices, w and lambda the
    score and loss weights, CE a cross-entropy at the temperature, and sg a gradient
    that is stopped:

        s = sum_h w_h s_h
        L = (sum_h lambda_h CE(positive, s_h) + ensemble_weight CE(positive, s)) / 4
        L' = (sum_h lambda_h CE(softmax(sg(s)), s_h)) / 3
        loss = (L + distill L') / (1 + distill)

    so `distill` 0 is L, and 1 is the paper's (L + L') / 2. Heads that are None drop
    out, and the divisors 4 and 3 count what is there; one head alone has no ensemble
    and nothing to learn from. Negatives are the own ones and all passages of all
    devices, for every head: the queries travel and the scores come home, vectors of
    passages never leave their device.

    Args:
        query: dense `[b e]`, sparse `[b l]`, multivec `[b i e]`; any may be None.
        passage: the same heads: `[b g e]`, `[b g l]`, `[b g j e]`, the positive first.
        temperature: divides all scores; > 0.
        axis_name: mapped axis or axes over which `b` is divided; gradients as told
            in `info_nce`.
        score_weights: w, of dense, sparse, multivec in the ensemble.
        loss_weights: lambda, of the three.
        ensemble_weight: of the ensemble's loss; 0 leaves it out of the divisor too.
        distill: 0 to 1; may be traced, so that it starts late without a new
            compilation.
        teacher_scores: of another model, for the own group.
        teacher_loss: kl adds CE(softmax(teacher_scores), s_h of the own group) to
            every loss above; m3_kd replaces each by `m3_kd`.
        where: False = there is no such passage.
        in_batch: False = this query meets its own group only.
        query_ids: content hash; as of `info_nce`.
        passage_ids: content hash; as of `info_nce`.
        dims: widths to which the dense embeddings are cut, for Matryoshka; the dense
            terms become sums over them, the ensemble takes all of the width.
        dim_weights: weights of these sums; None = 1 each.
        compat: flagembedding does as FlagEmbedding: sparse, multi-vector and ensemble
            see the passages of this device only, the direct dense loss, which sees
            all, weighs 1/devices, and padding of a passage scores 0 in MaxSim.

    Returns:
        The loss of each local query and its parts, in nats.

    Raises:
        InputError: no head, a head on one side only, shapes or weights that do not
            fit, temperature <= 0, `axis_name` outside of a mapped function.

    Source: BGE-M3 (arXiv:2402.03216v4), FlagEmbedding's `EncoderOnlyEmbedderM3Model`.

    Example:
        >>> query, passage = Embeddings(jnp.eye(2)), Embeddings(jnp.eye(2)[:, None])
        >>> m3(query, passage, temperature=1.0).loss.round(3).tolist()
        [0.31299999356269836, 0.31299999356269836]
    """
    heads = [name for name in HEADS if getattr(query, name) is not None]
    b, g = _check(query, passage, heads)
    checks.facts(b, g, where, in_batch, query_ids, passage_ids)
    checks.temperature(temperature)
    checks.axis(axis_name)
    checks.names("teacher_loss", (teacher_loss,), ("kl", "m3_kd"))
    checks.names("compat", (compat or "flagembedding",), ("flagembedding",))
    _check_weights(score_weights, loss_weights, distill)
    if teacher_scores is not None:
        checks.shape("teacher_scores", teacher_scores, (b, g))
    if dims is not None:
        dims, dim_weights = check_dims(dims, dim_weights)

    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * b
    mine = Facts(
        group=first + jnp.arange(b, dtype=jnp.int32),
        exists=jnp.ones((b, g), bool) if where is None else where,
        in_batch=jnp.ones(b, bool) if in_batch is None else in_batch,
        query_ids=query_ids,
        passage_ids=passage_ids,
    )
    flat = jax.tree.map(lambda x: x.reshape(b * g, *x.shape[2:]), passage)
    if compat:
        flat = _zeros_for_padding(flat)
    # What a score meets: all passages, or with compat those of this device, where the
    # direct loss of the dense scores still meets all.
    wide = _sight(mine, axis_name, arange_from=first)
    near = wide if not compat else _sight(mine, None, arange_from=0)
    axis = None if compat else axis_name

    def score(name: str, axis: Axis, width: int | None = None) -> Array:
        one, two = getattr(query, name), getattr(flat, name)
        if width is not None:
            one, two = prefix(one, width), prefix(two, width)
        return home(getattr(scores, name)(everyones(one, axis), two), axis)

    def direct(sight: _Sight, score: Array, share: float | int = 1.0) -> Array:
        plain = share * softmax_cross_entropy(
            score, sight.own[:, 0], temperature=temperature, where=sight.allowed
        )
        if teacher_scores is None:
            return plain
        if teacher_loss == "m3_kd":
            return share * m3_kd(
                score,
                teacher_scores,
                sight.own,
                temperature=temperature,
                where=sight.allowed,
            )
        own = jnp.take_along_axis(score, sight.own, axis=1)
        told = jnp.where(mine.exists, teacher_scores, -jnp.inf)
        return plain + _cross_entropy(told, own / temperature, mine.exists)

    found = {name: score(name, axis) for name in heads}
    # (weight, score for the direct loss, score for what is learned from the ensemble)
    views = {name: [(1.0, found[name], found[name])] for name in heads}
    if "dense" in heads and (dims is not None or compat):
        widths = [None] if dims is None else list(dims)
        views["dense"] = [
            (weight, score("dense", axis_name, width), score("dense", axis, width))
            for width, weight in zip(
                widths, dim_weights or [1.0] * len(widths), strict=True
            )
        ]
    share = 1.0
    if compat and axis_name is not None:
        share = 1 / jax.lax.axis_size(axis_name)
    losses = {
        name: sum(
            weight * direct(wide, seen, share)
            if name == "dense"
            else direct(near, seen)
            for weight, seen, _ in views[name]
        )
        for name in heads
    }
    weights = dict(zip(HEADS, loss_weights, strict=True))
    total = sum(weights[name] * losses[name] for name in heads)
    if len(heads) == 1:
        assert isinstance(total, jax.Array)
        return M3Loss(
            total,
            **{name: losses.get(name) for name in HEADS},
            ensemble=None,
            distill=None,
        )
    together = sum(
        weight * found[name]
        for name, weight in zip(HEADS, score_weights, strict=True)
        if name in heads
    )
    assert isinstance(together, jax.Array)
    ensemble = direct(near, together)
    parts = len(heads) + (ensemble_weight != 0)
    base = (total + ensemble_weight * ensemble) / parts
    teacher = jax.lax.stop_gradient(together) / temperature
    teacher = jnp.where(near.allowed, teacher, -jnp.inf)
    learned = sum(
        weights[name]
        * weight
        * _cross_entropy(teacher, seen / temperature, near.allowed)
        for name in heads
        for weight, _, seen in views[name]
    ) / len(heads)
    assert isinstance(learned, jax.Array)
    return M3Loss(
        loss=(base + distill * learned) / (1 + distill),
        **{name: losses.get(name) for name in HEADS},
        ensemble=ensemble,
        distill=learned,
    )


@dataclass(frozen=True)
class _Sight:
    """Candidates of the local queries.

    Attributes:
        allowed: bool `[b n]`, the positive and the negatives.
        own: int32 `[b g]`, columns of the own group.
    """

    allowed: jax.Array
    own: jax.Array


def _sight(mine: Facts, axis: Axis, *, arange_from: Any) -> _Sight:
    theirs = everyones(mine, axis)
    b, g = mine.exists.shape
    mixed, rest = among_passages(mine, theirs)
    place = arange_from + jnp.arange(b, dtype=jnp.int32)
    own = place[:, None] * g + jnp.arange(g)[None]
    allowed = (mixed | rest).reshape(b, -1)
    allowed = allowed.at[jnp.arange(b), own[:, 0]].set(mine.exists[:, 0])
    return _Sight(allowed, own)


def _cross_entropy(
    teacher: Float[Array, "b n"], logits: Float[Array, "b n"], where: Bool[Array, "b n"]
) -> Float[Array, " b"]:
    """-sum_c softmax(teacher)_c log softmax(logits)_c; 0 where there is no positive.

    The gradient is that of `distill_kl`, the value is larger by the entropy of the
    teacher: it is what FlagEmbedding prints.
    """
    real = where.any(1)
    teacher = jnp.where(real[:, None], teacher, 0)
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher), axis=1)
    logits = jnp.where(where | ~real[:, None], logits, -jnp.inf)
    logs = jax.nn.log_softmax(logits, axis=1)
    return jnp.where(real, -jnp.where(where, target * logs, 0).sum(1), 0)


def _zeros_for_padding(passage: Embeddings) -> Embeddings:
    """Padding as FlagEmbedding has it: a token with a vector of zeros."""
    if passage.multivec is None:
        return passage
    real = passage.multivec.mask
    vectors = jnp.where(real[..., None], passage.multivec.vectors, 0)
    return Embeddings(
        passage.dense, passage.sparse, Multivec(vectors, jnp.ones_like(real))
    )


def _check(query: Embeddings, passage: Embeddings, heads: list[str]) -> tuple[int, int]:
    """Sizes b and g, from whichever head is there."""
    theirs = [name for name in HEADS if getattr(passage, name) is not None]
    if heads != theirs or not heads:
        raise InputError(
            f"the heads of query: {', '.join(heads) or 'at least one'}",
            ", ".join(theirs) or "none",
            where="passage",
        )
    first = jax.tree.leaves(getattr(passage, heads[0]))[0]
    if first.ndim < 3:
        found = f"shape {tuple(first.shape)}"
        raise InputError("[b g ...], the positive first", found, where="passage")
    b, g = first.shape[:2]
    for name in heads:
        rows, groups = getattr(query, name), getattr(passage, name)
        for one, two in zip(
            jax.tree.leaves(rows), jax.tree.leaves(groups), strict=True
        ):
            checks.shape(f"query.{name}", one, (b, *one.shape[1:]))
            checks.shape(f"passage.{name}", two, (b, g, *two.shape[2:]))
            if two.ndim != one.ndim + 1:
                expected = f"{one.ndim + 1} dimensions, one more than the query's"
                raise InputError(expected, f"{two.ndim}", where=f"passage.{name}")
    return b, g


def _check_weights(
    score_weights: Sequence[float | int], loss_weights: Sequence[float | int], distill: Any
) -> None:
    for name, weights in (
        ("score_weights", score_weights),
        ("loss_weights", loss_weights),
    ):
        if len(weights) != len(HEADS):
            expected = f"{len(HEADS)} weights, of {', '.join(HEADS)}"
            raise InputError(expected, f"{len(weights)}", where=name)
    if not isinstance(distill, jax.core.Tracer) and not 0 <= float(distill) <= 1:
        raise InputError("a number from 0 to 1", f"{distill}", where="distill")
