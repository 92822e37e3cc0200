"""InfoNCE in its variants."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from m3jax.core.errors import InputError
from m3jax.core.types import Leaf
from m3jax.losses import checks, partition
from m3jax.losses.by_rows import Gradient, by_rows, check_gradient
from m3jax.losses.candidates import (
    BLOCKS,
    WITH_PASSAGES,
    WITH_QUERIES,
    Columns,
    Facts,
    facts,
)
from m3jax.losses.partition import Part, Rows, Rule
from m3jax.losses.travel import everyones
from m3jax.ops import scores
from m3jax.ops.scores.tiles import check_tile

Transport = Literal["gather", "ring"]
MARGIN_ON = ("own", "passages", "queries")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contrast:
    """What `contrast` found for each query.

    Attributes:
        loss: float32 `[b]`, in nats.
        positive: float32 `[b]`, score of the positive, before the temperature.
        negative_mean: float32 `[b]`, mean score of the negatives that counted.
        masked_share: float32 `[b]`, share of the negatives that are there which did not
            count: equal to a positive by their ids, or too near by the margin.
        rank: int32 `[b]`, negatives that score higher than the positive; equal texts
            do not, whatever the last digits are.
    """

    loss: Leaf
    positive: Leaf
    negative_mean: Leaf
    masked_share: Leaf
    rank: Leaf


def info_nce(
    query: Float[Array, "b e"],
    passage: Float[Array, "b g e"],
    *,
    temperature: float | int | Float[Array, ""],
    axis_name: str | tuple[str, ...] | None = None,
    negatives: Sequence[str] = ("own", "passages"),
    where: Bool[Array, "b g"] | None = None,
    in_batch: Bool[Array, " b"] | None = None,
    query_ids: UInt32[Array, "b w"] | None = None,
    passage_ids: UInt32[Array, "b g w"] | None = None,
    false_negative_margin: float | int | None = None,
    margin_on: Sequence[str] = MARGIN_ON,
    hard_negative_weight: float | int = 0.0,
    hardness_weight: float | int = 0.0,
    bidirectional: bool = False,
    tile: int | None = None,
    transport: Transport = "gather",
    gradient: Gradient | None = None,
) -> Float[Array, " b"]:
    """InfoNCE with hard and in-batch negatives, per query.

    l_i = log sum_{c in C_i} exp(s_ic / tau) - s_i+ / tau, with s_ic = <q_i, p_c>, p_+
    the first passage of the own group, and C_i the positive and the negatives, which
    are those of all `negatives` together, on all devices when `axis_name` is given:

        own                 <q_i, p>: the rest of the own group
        passages            <q_i, p>: every passage of the other groups
        queries             <q_i, q_j>: the other queries (Qwen3, SimLM)
        positive_positive   <p_i+, p_j+>: the other positives (Qwen3, SimLM)
        positive_passage    <p_i+, p>: every passage, the own hard negatives too (Qwen3
                            as ms-swift has it)
        positive_query      <p_i+, q_j>: the other queries (SimLM)

    A query without a positive (`where[i, 0]` False) has loss 0 and no gradient, and
    so has one of which every candidate is masked. NaN stays NaN.

    Inside another project's step, with `axis_name` given, two forms are right:
    under `jax.shard_map` as it is by default, `grad(pmean(loss.mean()))`; under
    `jax.pmap`, or `shard_map(..., check_vma=False)`, `pmean(grad(loss.mean()))`. In
    the other place the second is too large by the number of devices, and the first
    gives every device a gradient of its own, so that they drift apart. Differentiating
    outside of `shard_map`, as m3jax does, is always right. Without `axis_name` the
    negatives are those of this device only.

    Args:
        query: query embeddings, normalised if cosines are wanted.
        passage: passage embeddings, the positive first.
        temperature: tau, divides the scores; > 0; may be trained.
        axis_name: mapped axis or axes over which `b` is divided.
        negatives: blocks of the denominator, see above.
        where: False = there is no such passage.
        in_batch: False = this query meets its own group only; its passages and the
            query itself still meet the others.
        query_ids: content hash in w words; a positive of an equal query is never
            a negative, nor is the equal query itself.
        passage_ids: content hash in w words; a passage equal to the own positive
            is never a negative, nor in `positive_query` is the query of such a one.
        false_negative_margin: a negative that scores higher than the positive by more
            than this is taken for a positive and does not count; Qwen3 has 0.1. What
            differs by 1e-5 of the positive's score is as high: equal texts are.
        margin_on: blocks in which the margin holds, those that are among `negatives`.
            Qwen3's paper does not say what a score between passages should be compared
            with, so they are left alone.
        hard_negative_weight: added to the logits of the own negatives, the logarithm
            of a weight (supervised SimCSE).
        hardness_weight: gamma; the loss is multiplied by (1 - exp(-l_i))^gamma, without
            a gradient of its own, so that easy queries count less (KaLM V2).
        bidirectional: the mean of this loss and of that of the positive, which has to
            find its query among all queries.
        tile: queries of which the scores with all passages in sight exist at once;
            None = all. The values stay the same; the memory is `tile` rows of scores, a
            float32 gradient by all passages in sight, and with `where` a copy of them.
            There is no forward-mode derivative (`jax.jvp`) through tiles or a ring.
        transport: gather brings the passages of all devices to each; ring hands them
            from device to device, so that each holds its own and those in flight.
        gradient: with `tile`: eager makes the gradient of a mean together with the
            value, which is fastest, and again if the queries turn out to be weighted
            otherwise; late makes it when the weights are known. None = eager, or late
            in a ring, which knows no other way.

    Returns:
        The loss of each local query, in nats.

    Raises:
        InputError: temperature <= 0, an unknown block, shapes that do not fit, options
            that exclude each other, `axis_name` outside of a mapped function.

    Source: van den Oord et al. 2018 (arXiv:1807.03748); E5 (arXiv:2212.03533); SimLM
    (arXiv:2207.02578); SimCSE (arXiv:2104.08821); BGE-M3 (arXiv:2402.03216);
    Qwen3-Embedding (arXiv:2506.05176); KaLM-Embedding (arXiv:2501.01028); the gradient
    in tiles as in GradCache (arXiv:2101.06983) and Inf-CL (arXiv:2410.17243).

    Example:
        >>> query, passage = jnp.eye(3), jnp.eye(3)[:, None]
        >>> [f"{x:.3f}" for x in info_nce(query, passage, temperature=1.0)]
        ['0.551', '0.551', '0.551']
    """
    given = dict(locals())
    return _contrast(watch=False, **given).loss


def contrast(
    query: Float[Array, "b e"],
    passage: Float[Array, "b g e"],
    *,
    temperature: float | int | Float[Array, ""],
    axis_name: str | tuple[str, ...] | None = None,
    negatives: Sequence[str] = ("own", "passages"),
    where: Bool[Array, "b g"] | None = None,
    in_batch: Bool[Array, " b"] | None = None,
    query_ids: UInt32[Array, "b w"] | None = None,
    passage_ids: UInt32[Array, "b g w"] | None = None,
    false_negative_margin: float | int | None = None,
    margin_on: Sequence[str] = MARGIN_ON,
    hard_negative_weight: float | int = 0.0,
    hardness_weight: float | int = 0.0,
    bidirectional: bool = False,
    tile: int | None = None,
    transport: Transport = "gather",
    gradient: Gradient | None = None,
) -> Contrast:
    """`info_nce` together with what one wants to watch; the same arguments.

    Only the loss has a gradient. With `bidirectional`, the other numbers are those of
    the query.

    Returns:
        Loss, positive score, mean negative score, share masked and rank per query.

    Raises:
        InputError: as `info_nce`.

    Source: as `info_nce`.

    Example:
        >>> contrast(jnp.eye(2), jnp.eye(2)[:, None], temperature=1.0).rank.tolist()
        [0, 0]
    """
    given = dict(locals())
    return _contrast(watch=True, **given)


def _contrast(
    query: Array,
    passage: Array,
    *,
    watch: bool,
    temperature: Any,
    axis_name: str | tuple[str, ...] | None,
    negatives: Any,
    where: Array | None,
    in_batch: Array | None,
    query_ids: Array | None,
    passage_ids: Array | None,
    false_negative_margin: Any,
    margin_on: Any,
    hard_negative_weight: Any,
    hardness_weight: Any,
    bidirectional: Any,
    tile: Any,
    transport: Any,
    gradient: Any,
) -> Contrast:
    query = checks.array("query", query, "floats")
    passage = checks.array("passage", passage, "floats")
    checks.groups(query, passage, where, in_batch, query_ids, passage_ids)
    checks.temperature(temperature)
    checks.number("hard_negative_weight", hard_negative_weight)
    checks.number("hardness_weight", hardness_weight, least=0)
    if false_negative_margin is not None:
        checks.number("false_negative_margin", false_negative_margin)
    checks.names("negatives", negatives, BLOCKS)
    checks.names("margin_on", margin_on, BLOCKS)
    checks.flag("bidirectional", bidirectional)
    checks.one("transport", transport, ("gather", "ring"))
    checks.axis(axis_name)
    check_tile(tile)
    check_gradient(gradient or "eager")
    _check_together(
        negatives, axis_name, transport, tile, gradient, hard_negative_weight
    )
    _check_margin(negatives, bidirectional, false_negative_margin, margin_on)
    b, g, _ = passage.shape
    if where is not None:
        # What is not there may be NaN, and 0 x NaN would be in every gradient. Queries
        # that are no candidates are cleared a tile at a time.
        passage = jnp.where(where[:, :, None], passage, jnp.zeros_like(passage))
        if transport == "ring" or bidirectional or set(negatives) & set(WITH_QUERIES):
            query = jnp.where(where[:, :1], query, jnp.zeros_like(query))
    mine = facts(b, g, axis_name, where, in_batch, query_ids, passage_ids)
    rule = Rule(
        tuple(negatives),
        None if false_negative_margin is None else float(false_negative_margin),
        tuple(margin_on),
        float(hard_negative_weight),
        watch,
    )
    run = functools.partial(
        _run,
        axis_name=axis_name,
        tile=tile,
        transport=transport,
        gradient=gradient,
        counts=None if where is None else where[:, 0],
    )
    tau = jnp.asarray(temperature, jnp.float32)
    loss, watched = run(rule, query, passage, mine, tau)
    if bidirectional:
        back = dataclasses.replace(rule, negatives=("passages",), watch=False)
        swapped = dataclasses.replace(
            mine,
            exists=mine.exists[:, :1],
            query_ids=None if passage_ids is None else passage_ids[:, 0],
            passage_ids=None if query_ids is None else query_ids[:, None],
        )
        loss = (loss + run(back, passage[:, 0], query[:, None], swapped, tau)[0]) / 2
    if hardness_weight:
        loss *= (-jnp.expm1(-jax.lax.stop_gradient(loss))) ** hardness_weight
    number, real = watched.number, mine.exists[:, 0]
    positive = jax.lax.stop_gradient(scores.dense_pairs(query, passage[:, 0]))
    return Contrast(
        loss=loss,
        positive=jnp.where(real, positive, 0),
        negative_mean=watched.total / jnp.maximum(number, 1),
        masked_share=(watched.candidates - number) / jnp.maximum(watched.candidates, 1),
        rank=watched.higher.astype(jnp.int32),
    )


def _run(
    rule: Rule,
    query: Array,
    passage: Array,
    mine: Facts,
    temperature: Array,
    *,
    axis_name: str | tuple[str, ...] | None,
    tile: Any,
    transport: Any,
    gradient: Any,
    counts: Array | None,
) -> tuple[Array, Part]:
    apart = "own" in rule.negatives and "passages" not in rule.negatives
    rows = Rows(query, passage[:, 0], passage if apart else None)
    # Flat before any loop: within one XLA copies them where there is one in a group.
    flat = passage.reshape(-1, passage.shape[-1])
    columns = Columns(
        flat if set(rule.negatives) & set(WITH_PASSAGES) else None,
        query if set(rule.negatives) & set(WITH_QUERIES) else None,
        passage[:, 0] if "positive_positive" in rule.negatives else None,
    )
    theirs, alone = mine, rule.negatives == ("own",)
    if transport == "ring" and not alone:
        assert axis_name is not None
        given = rows, mine, (columns, temperature), theirs
        return partition.ring(rule, axis_name, tile, *given)
    if axis_name is not None and not alone:
        columns, theirs = everyones((columns, theirs), axis_name)
    mixed = any(name.startswith("positive") for name in rule.negatives)
    if "passages" in rule.negatives and not mixed and tile and tile < len(query):
        # A tile finds its positives among all passages, without a gradient beside.
        rows = dataclasses.replace(rows, positive=None)
    return by_rows(
        partition.bound(partition.whole, rule),
        rows,
        mine,
        (columns, temperature),
        theirs,
        tile=tile,
        gradient=gradient or "eager",
        counts=counts,
        add=partition.bound(partition.add, rule),
    )


def _check_margin(
    negatives: Sequence[str],
    bidirectional: bool,
    margin: float | int | None,
    margin_on: Sequence[str],
) -> None:
    usual = set(margin_on) == set(MARGIN_ON)
    if margin is None:
        if not usual:
            expected = "false_negative_margin with margin_on"
            raise InputError(expected, "None", where="false_negative_margin")
        return
    met = {*negatives, *(["passages"] if bidirectional else [])}
    absent = [name for name in margin_on if name not in met]
    if len(absent) == len(margin_on) or (absent and not usual):
        expected = f"blocks among negatives: {', '.join(negatives)}"
        raise InputError(expected, ", ".join(absent), where="margin_on")


def _check_together(
    negatives: Sequence[str],
    axis_name: str | tuple[str, ...] | None,
    transport: str,
    tile: int | None,
    gradient: str | None,
    hard_negative_weight: float | int,
) -> None:
    if {"positive_positive", "positive_passage"} <= set(negatives):
        raise InputError(
            "positive_positive or positive_passage, which holds it",
            "both",
            where="negatives",
        )
    if transport == "ring" and axis_name is None:
        raise InputError("axis_name with transport='ring'", "None", where="axis_name")
    if transport == "ring" and gradient == "eager":
        raise InputError(
            "gradient='late' with transport='ring', which knows the sum of a query "
            "only when all passages have passed by",
            "'eager'",
            where="gradient",
        )
    if gradient is not None and tile is None and transport != "ring":
        expected = "a tile with gradient, which has no effect without"
        raise InputError(expected, "None", where="tile")
    if hard_negative_weight and "own" not in negatives:
        raise InputError(
            '"own" in negatives with hard_negative_weight',
            ", ".join(negatives),
            where="negatives",
        )
