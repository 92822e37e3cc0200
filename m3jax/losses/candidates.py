"""Who is a negative of whom: the blocks of an InfoNCE denominator and their masks."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

from m3jax.core.types import Leaf
from m3jax.ops.product import product

BLOCKS = (
    "own",
    "passages",
    "queries",
    "positive_positive",
    "positive_passage",
    "positive_query",
)
# Blocks that need the queries, and the passages, of the other groups.
WITH_QUERIES = ("queries", "positive_query")
WITH_PASSAGES = ("passages", "positive_passage")
# (rows, name of an array of `Columns`) -> all inner products
Score = Callable[[jax.Array, str], jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Facts:
    """What is known of groups, beside their embeddings.

    Attributes:
        group: int32 `[n]`, number of the group among those of all devices.
        exists: bool `[n g]`, False where there is no such passage.
        in_batch: bool `[n]`, False where a query meets its own group only.
        query_ids: uint32 `[n w]` or None.
        passage_ids: uint32 `[n g w]` or None.
    """

    group: Leaf
    exists: Leaf
    in_batch: Leaf
    query_ids: Leaf
    passage_ids: Leaf


def facts(
    b: int,
    g: int,
    axis_name: str | tuple[str, ...] | None,
    where: Bool[Array, "b g"] | None,
    in_batch: Bool[Array, " b"] | None,
    query_ids: UInt32[Array, "b w"] | None,
    passage_ids: UInt32[Array, "b g w"] | None,
) -> Facts:
    """What is known of the groups of this device; None = nothing against it.

    Example:
        >>> facts(2, 1, None, None, None, None, None).group.tolist()
        [0, 1]
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * b
    return Facts(
        group=first + jnp.arange(b, dtype=jnp.int32),
        exists=jnp.ones((b, g), bool) if where is None else where,
        in_batch=jnp.ones(b, bool) if in_batch is None else in_batch,
        query_ids=query_ids,
        passage_ids=passage_ids,
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Columns:
    """Embeddings of groups that serve as candidates.

    Attributes:
        passage: `[n*g e]`, of each group the positive first, or None where no block
            needs it.
        query: `[n e]`, or None where no block needs it.
        positive: `[n e]`, the positives once more, or None where no block needs them.
    """

    passage: Leaf
    query: Leaf
    positive: Leaf


@dataclass(frozen=True)
class Block:
    """Scores of one block of the denominator.

    Attributes:
        score: float32 `[t c]`.
        counts: bool `[t c]`, True for a negative.
        own: bool `[t c]`, True for a passage of the own group.
        possible: bool `[t c]`, True for what would be one if no id and no margin said
            that it is none.
        name: of the block; passages of the own group are called "own".
        positive: bool `[t c]`, True for the positive; None where it is not among them.
    """

    score: jax.Array
    counts: jax.Array
    own: jax.Array
    possible: jax.Array
    name: str
    positive: jax.Array | None = None


def blocks(
    negatives: Sequence[str],
    query: Float[Array, "t e"],
    positive: Float[Array, "t e"] | None,
    mine: Facts,
    columns: Columns,
    theirs: Facts,
    score: Score,
) -> Iterator[Block]:
    """Score and mark the candidates of some queries among some groups.

    Args:
        negatives: names of the blocks.
        query: queries.
        positive: their positives, or None where no block needs them.
        mine: of the groups of the queries.
        columns: embeddings of the candidates.
        theirs: of the groups of the candidates.
        score: scores all of `columns` that it is given the name of.

    Returns:
        The blocks, scores before the temperature.
    """
    own = mine.group[:, None] == theirs.group[None]  # [t n]
    other = mine.in_batch[:, None] & ~own & theirs.exists[:, 0][None]
    same_query, same_passage = _same(mine, theirs)
    right = same_passage[:, :, 0] | same_query  # positives that are no negatives
    real = mine.exists[:, :1]

    def wide(x: Array) -> Array:
        return x.reshape(len(x), math.prod(x.shape[1:]))

    mixed, rest = among_passages(mine, theirs)
    ours = jnp.broadcast_to(own[:, :, None], mixed.shape)
    lead = ours & (jnp.arange(mixed.shape[2]) == 0)[None, None]
    there = theirs.exists[None] & real[:, :, None]
    there &= ours | mine.in_batch[:, None, None]
    if "passages" in negatives:
        whole = "own" in negatives
        yield Block(
            score(query, "passage"),
            wide(mixed | rest if whole else mixed),
            wide(ours),
            wide(there & (~lead if whole else ~ours)),
            "passages",
            positive=wide(lead),
        )
    if "positive_passage" in negatives:
        assert positive is not None
        found = score(positive, "passage")
        none = jnp.zeros(found.shape, bool)
        possible = wide(there & ~lead)
        yield Block(found, wide(mixed | rest), none, possible, "positive_passage")
    # What is a right answer: of the same query, or to the same positive.
    for name, row, column, wrong in (
        ("positive_positive", positive, "positive", ~right),
        ("queries", query, "query", ~same_query),
        ("positive_query", positive, "query", ~right),
    ):
        if name in negatives:
            assert row is not None
            none = jnp.zeros(own.shape, bool)
            there = other & real
            yield Block(score(row, column), there & wrong, none, there, name)


def among_passages(
    mine: Facts, theirs: Facts
) -> tuple[Bool[Array, "t n g"], Bool[Array, "t n g"]]:
    """Passages that are negatives of a query, of the other groups and of its own.

    Args:
        mine: of the groups of the queries.
        theirs: of the groups of the passages.

    Returns:
        Two masks.
    """
    own = (mine.group[:, None] == theirs.group[None])[:, :, None]  # [t n 1]
    lead = (jnp.arange(theirs.exists.shape[1]) == 0)[None, None]  # [1 1 g], positives
    same_query, same_passage = _same(mine, theirs)
    wrong = ~(same_passage | (same_query[:, :, None] & lead))
    counts = theirs.exists[None] & wrong & mine.exists[:, :1, None]
    return counts & mine.in_batch[:, None, None] & ~own, counts & own & ~lead


def own_block(
    query: Float[Array, "t e"], group: Float[Array, "t g e"], mine: Facts
) -> Block:
    """Score the own group alone, which needs no product of all with all.

    Args:
        query: queries.
        group: their passages.
        mine: of their groups.

    Returns:
        The block "own".
    """
    score = product("te,tge->tg", query, group)
    rest = jnp.broadcast_to((jnp.arange(score.shape[1]) > 0)[None], score.shape)
    counts = there = mine.exists & rest & mine.exists[:, :1]
    if mine.passage_ids is not None:
        counts &= ~jnp.all(mine.passage_ids[:, :1] == mine.passage_ids, -1)
    return Block(score, counts, jnp.ones_like(counts), there, "own")


def _same(
    mine: Facts, theirs: Facts
) -> tuple[Bool[Array, "t n"], Bool[Array, "t n g"]]:
    """Equal queries, and passages that equal the own positive."""
    t, (n, g) = len(mine.group), theirs.exists.shape
    query, passage = jnp.zeros((t, n), bool), jnp.zeros((t, n, g), bool)
    if mine.query_ids is not None:
        query = jnp.all(mine.query_ids[:, None] == theirs.query_ids[None], -1)
    if mine.passage_ids is not None:
        positive = mine.passage_ids[:, 0]
        passage = jnp.all(positive[:, None, None] == theirs.passage_ids[None], -1)
    return query, passage
