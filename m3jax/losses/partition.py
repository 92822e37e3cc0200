"""The sum under an InfoNCE, in parts: over tiles of queries, and over shards in a ring.

A part of the sum of a query is a pair (s, m) that stands for s exp(m), with m >= 0 the
largest logit, or 0; logits are margins (score - score of the positive) / temperature,
so the positive itself is the term exp(0).
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from m3jax.core.types import Leaf
from m3jax.losses.by_rows import gradients
from m3jax.losses.candidates import Columns, Facts, Score, blocks, own_block
from m3jax.losses.products import summed
from m3jax.ops import scores
from m3jax.ops.scores.tiles import length, scan_tiles, vary_like

_ROUNDING = 1e-5


@dataclass(frozen=True)
class Rule:
    """What counts, and how much; static.

    Attributes:
        negatives: names of the blocks.
        margin: a negative that scores higher than the positive by more is none.
        margin_on: blocks for which that holds.
        own_weight: added to the logits of the own negatives.
        watch: make the numbers that `contrast` tells.
    """

    negatives: tuple[str, ...]
    margin: float | None
    margin_on: tuple[str, ...]
    own_weight: float
    watch: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """Embeddings of the queries whose loss is wanted.

    Attributes:
        query: `[b e]`.
        positive: `[b e]`, or None where they are found among the columns.
        group: `[b g e]`, or None where the own negatives are among the columns.
    """

    query: Leaf
    positive: Leaf
    group: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Part:
    """A part of the sums, and what is to be watched; all `[b]`.

    Attributes:
        most: the largest logit, or 0.
        number: of the negatives.
        candidates: negatives there could be.
        total: sum of the scores of the negatives.
        higher: negatives that score higher than the positive.
    """

    most: Leaf
    number: Leaf
    candidates: Leaf
    total: Leaf
    higher: Leaf


@functools.cache
def bound(function: Callable[..., Any], rule: Rule) -> Callable[..., Any]:
    """A function for this rule; always the same one, so that it is compiled once."""
    return functools.partial(function, rule)


def part(
    rule: Rule,
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
    score: Score | None = None,
) -> tuple[Float[Array, " b"], Part]:
    """Sum over some columns; a `PerRow` of `by_rows`.

    Args:
        rule: what counts.
        rows: queries.
        mine: of their groups.
        shared: columns, and the temperature.
        theirs: of the columns.
        score: as of `blocks`; None = `scores.dense`.

    Returns:
        s, and m with what is to be watched.
    """
    columns, temperature = shared

    def dense(row: Array, name: str) -> Array:
        return scores.dense(row, getattr(columns, name))

    given = rows.query, rows.positive, mine, columns, theirs
    found = list(blocks(rule.negatives, *given, score or dense))
    if rows.positive is not None:
        positive = scores.dense_pairs(rows.query, rows.positive)[:, None]
    else:
        first = found[0]
        assert first.positive is not None
        positive = jnp.where(first.positive, first.score, 0).sum(1)[:, None]
    # What two products of the same numbers may differ by.
    highest = jax.lax.stop_gradient(positive + _ROUNDING * jnp.abs(positive))
    if rows.group is not None:
        found.append(own_block(rows.query, rows.group, mine))
    logits, counted = [], []
    for block in found:
        counts = block.counts
        if rule.margin is not None:
            above = block.score > highest + rule.margin
            name = jnp.where(
                block.own, "own" in rule.margin_on, block.name in rule.margin_on
            )
            counts &= ~(above & name)
        logit = (block.score - positive) / temperature
        if rule.own_weight:
            logit += jnp.where(block.own, rule.own_weight, 0)
        logits.append(jnp.where(counts, logit, -jnp.inf))
        counted.append(counts)
    # 0, or NaN that would go unseen if there is no negative.
    nothing = jnp.where(mine.exists[:, 0], (positive - positive)[:, 0], 0)
    most = functools.reduce(jnp.maximum, [x.max(1) for x in logits], nothing)
    most = jax.lax.stop_gradient(most)
    total = sum(jnp.exp(x - most[:, None]).sum(1) for x in logits)
    assert isinstance(total, jax.Array)
    zero = jnp.zeros_like(most)
    if not rule.watch:
        return total, Part(most, zero, zero, zero, zero)
    pairs = [
        (jax.lax.stop_gradient(b.score), c) for b, c in zip(found, counted, strict=True)
    ]
    return total, Part(
        most,
        number=zero + sum(c.sum(1) for _, c in pairs),
        candidates=zero + sum(block.possible.sum(1) for block in found),
        total=zero + sum(jnp.where(c, s, 0).sum(1) for s, c in pairs),
        higher=zero + sum((c & ~(s <= highest)).sum(1) for s, c in pairs),
    )


def finish(total: Float[Array, " b"], most: Float[Array, " b"]) -> Float[Array, " b"]:
    """The loss of a sum: log(exp(0) + s exp(m)), exact also where it is tiny.

    Example:
        >>> finish(jnp.array([1e-9]), jnp.zeros(1)).tolist()
        [9.999999717180685e-10]
    """
    return most + jnp.log1p(jnp.expm1(-most) + total)


def whole(
    rule: Rule,
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
    score: Score | None = None,
) -> tuple[Float[Array, " b"], Part]:
    """The loss, with all columns in sight; a `PerRow` of `by_rows`."""
    total, rest = part(rule, rows, mine, shared, theirs, score)
    return finish(total, rest.most), rest


def add(
    rule: Rule,
    total: tuple[Columns, Any],
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
    weigh: Any,
) -> tuple[Any, tuple[Any, Rows]]:
    """As `add_tile` of `by_rows`, with gradients by columns added in their place."""

    def run(rows: Rows, shared: tuple[Columns, Any], sums: Columns) -> Any:
        def score(row: Array, name: str) -> Array:
            nonlocal sums
            column, before = getattr(shared[0], name), getattr(sums, name)
            found, after = summed(row, column, before)
            sums = dataclasses.replace(sums, **{name: after})
            return found

        values, more = whole(rule, rows, mine, shared, theirs, score)
        return (values, sums), more

    (values, sums), pull, more = jax.vjp(run, rows, shared, total[0], has_aux=True)
    of_rows, rest, sums = pull((weigh((values, more)), sums))
    # `rest` is what is not a product with all columns.
    total = jax.tree.map(lambda x, y: x + y.astype(x.dtype), (sums, total[1]), rest)
    return total, ((values, more), of_rows)


def ring(
    rule: Rule,
    axis_name: str | tuple[str, ...],
    tile: int | None,
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
) -> tuple[Float[Array, " b"], Part]:
    """The loss, with the columns of every device passing by; else as `whole`.

    A device holds its own columns and those in flight. Backward, the columns pass by
    once more and their gradients with them.

    Args:
        rule: what counts.
        axis_name: mapped axes that form the ring.
        tile: queries at once; None = all.
        rows: queries of this device.
        mine: of their groups.
        shared: columns of this device, and the temperature.
        theirs: of the columns of this device.

    Returns:
        The loss of each query of this device, and what is to be watched.
    """
    tile = length(rows) if tile is None else min(tile, length(rows))
    given = vary_like((rows, mine, shared, theirs))
    return _ring(rule, axis_name, tile, *given)


def _turn(axis_name: str | tuple[str, ...], tree: Any) -> Any:
    """Every device hands what it holds to the next one."""
    size = jax.lax.axis_size(axis_name)
    if isinstance(axis_name, tuple):
        # Any circle will do; jax wants the axes in the order of the mesh.
        known = jax.sharding.get_abstract_mesh().axis_names
        axis_name = tuple(sorted(axis_name, key=known.index))
    order = [(i, (i + 1) % size) for i in range(size)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axis_name, order), tree)


def _ring_values(
    rule: Rule,
    axis_name: str | tuple[str, ...],
    tile: int,
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
) -> tuple[Array, Part]:
    columns, temperature = shared

    def here(rows: Rows, columns: Columns, theirs: Facts) -> tuple[Array, Part]:
        def step(carry: None, given: tuple[Rows, Facts]) -> tuple[None, Any]:
            rows, mine = given
            return carry, part(rule, rows, mine, (columns, temperature), theirs)

        return scan_tiles(step, None, (rows, mine), tile)[1]

    def join(one: tuple[Array, Part], two: tuple[Array, Part]) -> tuple[Array, Part]:
        both = jax.tree.map(jnp.add, one[1], two[1])
        most = jnp.maximum(one[1].most, two[1].most)
        total = sum(s * jnp.exp(x.most - most) for s, x in (one, two))
        assert isinstance(total, jax.Array)
        return total, Part(most, both.number, both.candidates, both.total, both.higher)

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        passing, found = carry
        passing = _turn(axis_name, passing)
        return (passing, join(found, here(away, *passing))), None

    # The own group, if apart, is counted with the own columns only.
    first, away = here(rows, columns, theirs), dataclasses.replace(rows, group=None)
    turns = jax.lax.axis_size(axis_name) - 1
    (_, (total, rest)), _ = jax.lax.scan(turn, ((columns, theirs), first), length=turns)
    return finish(total, rest.most), rest


_ring = jax.custom_vjp(_ring_values, nondiff_argnums=(0, 1, 2))


def _ring_forward(
    rule: Rule,
    axis_name: str | tuple[str, ...],
    tile: int,
    rows: Rows,
    mine: Facts,
    shared: tuple[Columns, Any],
    theirs: Facts,
) -> tuple[tuple[Array, Part], Any]:
    found = _ring_values(rule, axis_name, tile, rows, mine, shared, theirs)
    return found, (rows, mine, shared, theirs, found[0])


def _ring_backward(
    rule: Rule,
    axis_name: str | tuple[str, ...],
    tile: int,
    kept: Any,
    cotangents: tuple[Array, Any],
) -> tuple[Any, None, Any, None]:
    rows, mine, (columns, temperature), theirs, loss = kept

    def weigh(found: tuple[Array, Part], known: tuple[Array, Array]) -> Array:
        cotangent, loss = known
        return cotangent * jnp.exp(found[1].most - loss)

    away = dataclasses.replace(rows, group=None)

    def here(rows: Rows, columns: Columns, theirs: Facts) -> tuple[Any, Any]:
        given = rows, mine, (columns, temperature), theirs
        known = cotangents[0], loss
        return gradients(functools.partial(part, rule), tile, *given, weigh, known)[1]

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        passing, slopes, total, by_temperature = carry
        # What the last device found travels while this one computes.
        passing, slopes = _turn(axis_name, passing), _turn(axis_name, slopes)
        by_rows, (by_columns, more) = here(away, *passing)
        return (
            passing,
            jax.tree.map(jnp.add, slopes, by_columns),
            jax.tree.map(lambda x, y: x + y.astype(x.dtype), total, by_rows),
            by_temperature + more,
        ), None

    by_rows, (by_columns, by_temperature) = here(rows, columns, theirs)
    by_rows = jax.tree.map(lambda x: x.astype(jnp.float32), by_rows)
    group, by_rows = by_rows.group, dataclasses.replace(by_rows, group=None)
    carry = (columns, theirs), by_columns, by_rows, by_temperature
    turns = jax.lax.axis_size(axis_name) - 1
    (_, slopes, by_rows, by_temperature), _ = jax.lax.scan(turn, carry, length=turns)
    slopes = _turn(axis_name, slopes)  # home
    by_rows = dataclasses.replace(by_rows, group=group)

    def like(x: Array, given: Array) -> Array:
        return x.astype(given.dtype)

    return (
        jax.tree.map(like, by_rows, rows),
        None,
        jax.tree.map(like, (slopes, by_temperature), (columns, temperature)),
        None,
    )


_ring.defvjp(_ring_forward, _ring_backward)
