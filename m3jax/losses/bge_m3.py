"""BGE-M3's loss: three heads, their ensemble, and what they learn from it."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, UInt32

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings, Leaf, Multivec, Sparse
from m3jax.losses import checks
from m3jax.losses.candidates import Facts, among_passages, facts
from m3jax.losses.classification import softmax_cross_entropy
from m3jax.losses.distillation import m3_kd
from m3jax.losses.nested import check_dims, prefix
from m3jax.losses.travel import Axis, everyones, home
from m3jax.ops import scores
from m3jax.ops.checks import multivec as check_multivec
from m3jax.ops.checks import sparse as check_sparse

HEADS: tuple[str, ...] = ("dense", "sparse", "multivec")


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
    and nothing to learn from, its loss is lambda_h CE(positive, s_h). Negatives are
    the own ones and all passages of all devices, for every head: the queries travel
    and the scores come home, vectors of passages never leave their device.

    Args:
        query: dense `[b e]`, sparse `[b l]`, multivec `[b i e]`; any may be None.
        passage: the same heads: `[b g e]`, `[b g l]`, `[b g j e]`, the positive first.
        temperature: divides all scores; > 0.
        axis_name: mapped axis or axes over which `b` is divided; gradients as told
            in `info_nce`.
        score_weights: w, of dense, sparse, multivec in the ensemble; always three, that
            of a head that is None is not used.
        loss_weights: lambda, of the three, likewise.
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
        InputError: no head, a head on one side only, shapes that do not fit, other
            than three weights, an option of what is not given (`dim_weights` without
            `dims`, m3_kd without a teacher), temperature <= 0, `axis_name` outside of
            a mapped function.

    Source: BGE-M3 (arXiv:2402.03216v4), FlagEmbedding's `EncoderOnlyEmbedderM3Model`.

    Example:
        >>> query, passage = Embeddings(jnp.eye(2)), Embeddings(jnp.eye(2)[:, None])
        >>> [f"{x:.3f}" for x in m3(query, passage, temperature=1.0).loss]
        ['0.313', '0.313']
    """
    for name, texts in (("query", query), ("passage", passage)):
        if not isinstance(texts, Embeddings):
            raise InputError("Embeddings", type(texts).__name__, where=name)
    heads = [name for name in HEADS if getattr(query, name) is not None]
    b, g = _check(query, passage, heads)
    checks.facts(b, g, where, in_batch, query_ids, passage_ids)
    checks.temperature(temperature)
    checks.axis(axis_name)
    checks.one("teacher_loss", teacher_loss, ("kl", "m3_kd"))
    checks.one("compat", compat, (None, "flagembedding"))
    checks.number("ensemble_weight", ensemble_weight)
    _check_weights(score_weights, loss_weights, distill)
    if teacher_scores is not None:
        checks.shape("teacher_scores", teacher_scores, (b, g))
    elif teacher_loss == "m3_kd":
        expected = "teacher_scores with teacher_loss='m3_kd'"
        raise InputError(expected, "None", where="teacher_scores")
    if dims is not None:
        if "dense" not in heads:
            found = ", ".join(heads)
            raise InputError("a dense head with dims", found, where="query")
        dims, dim_weights = check_dims(dims, dim_weights, "dim_weights")
    elif dim_weights is not None:
        raise InputError("dims with dim_weights", "None", where="dims")

    mine = facts(b, g, axis_name, where, in_batch, query_ids, passage_ids)
    if where is not None:
        query, passage = _present(query, where[:, 0]), _present(passage, where)
    flat = jax.tree.map(lambda x: x.reshape(b * g, *x.shape[2:]), passage)
    # What a score meets: all passages, or with compat those of this device, where the
    # direct loss of the dense scores still meets all.
    wide = _sight(mine, axis_name)
    near = wide if not compat else _sight(mine, None)
    share = 1
    if compat and axis_name is not None:
        share = 1 / jax.lax.axis_size(axis_name)

    def score(name: str, axis: Axis, width: int | None = None) -> Array:
        one, two = getattr(query, name), getattr(flat, name)
        if width is not None:
            one, two = prefix(one, width), prefix(two, width)
        options = {"padding_is_zero": True} if compat and name == "multivec" else {}
        return home(getattr(scores, name)(everyones(one, axis), two, **options), axis)

    def views(name: str, whole: Array) -> list[_View]:
        if name != "dense":
            return [_View(1, 1, near, whole, whole)]
        found = []
        for width, weight in zip(dims or [None], dim_weights or [1.0], strict=True):
            taught = (
                whole
                if width is None
                else score(name, None if compat else axis_name, width)
            )
            seen = score(name, axis_name, width) if compat else taught
            found.append(_View(weight, share, wide, seen, taught))
        return found

    found = {name: score(name, None if compat else axis_name) for name in heads}
    seen = {name: views(name, found[name]) for name in heads}
    direct = functools.partial(
        _direct,
        exists=mine.exists,
        temperature=temperature,
        teacher_scores=teacher_scores,
        teacher_loss=teacher_loss,
    )
    losses = {
        name: _sum(
            view.weight * direct(view.seen, view.sight, view.share)
            for view in seen[name]
        )
        for name in heads
    }
    weights = dict(zip(HEADS, loss_weights, strict=True))
    total = _sum(weights[name] * losses[name] for name in heads)
    told = {name: losses.get(name) for name in HEADS}
    if len(heads) == 1:
        return M3Loss(total, **told, ensemble=None, distill=None)
    mix = dict(zip(HEADS, score_weights, strict=True))
    together = _sum(mix[name] * found[name] for name in heads)
    ensemble = direct(together, near)
    base = total + ensemble_weight * ensemble
    base /= len(heads) + (ensemble_weight != 0)
    teacher = jnp.where(near.allowed, together / temperature, -jnp.inf)
    learned = _sum(
        weights[name]
        * view.weight
        * _cross_entropy(teacher, view.taught / temperature, near.allowed)
        for name in heads
        for view in seen[name]
    )
    learned /= len(heads)
    loss = (base + distill * learned) / (1 + distill)
    return M3Loss(loss, **told, ensemble=ensemble, distill=learned)


@dataclass(frozen=True)
class _Sight:
    """Candidates of the local queries.

    Attributes:
        allowed: bool `[b n]`, the positive and the negatives.
        own: int32 `[b g]`, columns of the own group.
    """

    allowed: jax.Array
    own: jax.Array


@dataclass(frozen=True)
class _View:
    """Scores of a head, or of a prefix of the dense one.

    Attributes:
        weight: of its losses.
        share: of its cross-entropy with what its direct loss meets.
        sight: what its direct loss meets.
        seen: `[b n]`, for the direct loss.
        taught: `[b n]`, for what is learned from the ensemble.
    """

    weight: float | int
    share: float | int
    sight: _Sight
    seen: jax.Array
    taught: jax.Array


def _sight(mine: Facts, axis: Axis) -> _Sight:
    theirs = everyones(mine, axis)
    b, g = mine.exists.shape
    mixed, rest = among_passages(mine, theirs)
    # Numbers among all groups, or with no other device in sight among the own.
    place = jnp.arange(b) if axis is None else mine.group
    own = place[:, None] * g + jnp.arange(g)[None]
    allowed = (mixed | rest).reshape(b, -1)
    allowed = allowed.at[jnp.arange(b), own[:, 0]].set(mine.exists[:, 0])
    return _Sight(allowed, own)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, terms)


def _direct(
    score: Float[Array, "b n"],
    sight: _Sight,
    share: float | int = 1,
    *,
    exists: Bool[Array, "b g"],
    temperature: Any,
    teacher_scores: Float[Array, "b g"] | None,
    teacher_loss: str,
) -> Float[Array, " b"]:
    """The loss of one head or of the ensemble; `share` is of what meets all devices."""
    if teacher_scores is not None and teacher_loss == "m3_kd":
        where = sight.allowed
        return share * m3_kd(
            score, teacher_scores, sight.own, temperature=temperature, where=where
        )
    plain = share * softmax_cross_entropy(
        score, sight.own[:, 0], temperature=temperature, where=sight.allowed
    )
    if teacher_scores is None:
        return plain
    own = jnp.take_along_axis(score, sight.own, axis=1)
    exists &= exists[:, :1]
    told = jnp.where(exists, teacher_scores, -jnp.inf)
    return plain + _cross_entropy(told, own / temperature, exists)


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


def _present(texts: Embeddings, where: Bool[Array, "..."]) -> Embeddings:
    """Nothing in texts that are not there; else 0 x NaN would be in the gradients."""
    dense, sparse, multivec = texts.dense, texts.sparse, texts.multivec
    where = where[..., None]
    if dense is not None:
        dense = jnp.where(where, dense, jnp.zeros_like(dense))
    if sparse is not None:
        weights = jnp.where(where, sparse.weights, jnp.zeros_like(sparse.weights))
        sparse = Sparse(sparse.ids, weights)
    if multivec is not None:
        multivec = Multivec(multivec.vectors, multivec.mask & where)
    return Embeddings(dense, sparse, multivec)


def _check(query: Embeddings, passage: Embeddings, heads: list[str]) -> tuple[int, int]:
    """Sizes b and g, from whichever head is there."""
    theirs = [name for name in HEADS if getattr(passage, name) is not None]
    if heads != theirs or not heads:
        raise InputError(
            f"the heads of query: {', '.join(heads) or 'at least one'}",
            ", ".join(theirs) or "none",
            where="passage",
        )
    for side, texts in (("query", query), ("passage", passage)):
        for name in heads:
            value, where = getattr(texts, name), f"{side}.{name}"
            if name == "dense":
                checks.array(where, value, "floats")
            elif name == "sparse":
                check_sparse(where, value)
            else:
                check_multivec(where, value)
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
    for name in [x for x in heads if x != "sparse"]:
        one, two = (jax.tree.leaves(getattr(x, name))[0] for x in (query, passage))
        if one.shape[-1] != two.shape[-1]:
            expected, found = f"width {one.shape[-1]}", f"{two.shape[-1]}"
            raise InputError(expected, found, where=f"passage.{name}")
    return b, g


def _check_weights(
    score_weights: Any,
    loss_weights: Any,
    distill: Any,
) -> None:
    for name, weights in (
        ("score_weights", score_weights),
        ("loss_weights", loss_weights),
    ):
        expected = f"a tuple of {len(HEADS)} weights, of {', '.join(HEADS)}"
        if not isinstance(weights, tuple | list):
            raise InputError(expected, repr(weights), where=name)
        if len(weights) != len(HEADS):
            raise InputError(expected, f"{len(weights)}", where=name)
        for weight in weights:
            checks.number(name, weight)
    if getattr(distill, "shape", ()) != ():
        raise InputError("one number", f"shape {tuple(distill.shape)}", where="distill")
    if distill is None or isinstance(distill, str):
        raise InputError("a number from 0 to 1", repr(distill), where="distill")
    if not isinstance(distill, Tracer) and not 0 <= float(distill) <= 1:
        raise InputError("a number from 0 to 1", f"{distill}", where="distill")
