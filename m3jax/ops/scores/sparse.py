"""Inner products of sparse embeddings, without a tensor as wide as the vocabulary."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3jax.core.types import Sparse
from m3jax.ops.scores.tiles import check_tile, one_to_one, scan_tiles

# Queries that share a table of their tokens when no tile is given.
_QUERIES, _PASSAGES = 64, 512


def sparse(
    query: Sparse, passage: Sparse, *, tile: int | None = None
) -> Float[Array, "q p"]:
    """Inner products of all pairs: s_qp = sum_v max_{i: q_i = v} w_qi max_{j: p_j = v} w_pj.

    The distinct tokens of `tile` queries become the columns of two small tables; what
    a passage holds beside them cannot count. Repeats need not be removed: the tables
    keep the largest weight, and of equal ones the first token gets the gradient.

    Args:
        query: ids and weights `[q l]`.
        passage: ids and weights `[p l]`.
        tile: queries that share a table; None = 64. Memory grows with
            tile x tokens of a query x 512 passages.

    Returns:
        float32 scores.

    Raises:
        InputError: `tile` is not positive.

    Source: BGE-M3 (arXiv:2402.03216).

    Example:
        >>> query = Sparse(jnp.array([[5, 7]]), jnp.array([[1.0, 2.0]]))
        >>> passage = Sparse(jnp.array([[7, 7, 9]]), jnp.array([[0.5, 3.0, 8.0]]))
        >>> sparse(query, passage).tolist()
        [[6.0]]
    """
    check_tile(tile)

    @jax.checkpoint  # the tables are made again, not kept
    def columns(query: Sparse, passage: Sparse) -> Array:
        known = jnp.sort(query.ids.ravel())
        # Equal ids meet in the first of their columns.
        return jnp.einsum(
            "qs,ps->qp",
            _table(query, known),
            _table(passage, known),
            precision=jax.lax.Precision.HIGHEST,
        )

    def of_queries(carry: None, query: Sparse) -> tuple[None, Array]:
        def of_passages(carry: None, passage: Sparse) -> tuple[None, Array]:
            return carry, columns(query, passage).T

        return carry, scan_tiles(of_passages, None, passage, _PASSAGES)[1].T

    return scan_tiles(of_queries, None, query, tile or _QUERIES)[1]


def sparse_pairs(
    query: Sparse, passage: Sparse, *, tile: int | None = None
) -> Float[Array, " n"]:
    """Inner products one to one; else as `sparse`.

    Args:
        query: ids and weights `[n l]`.
        passage: ids and weights `[n l]`.
        tile: pairs at once; None = all.

    Returns:
        float32 scores.

    Raises:
        InputError: `tile` is not positive.

    Example:
        >>> text = Sparse(jnp.array([[5, 5]]), jnp.array([[1.0, 2.0]]))
        >>> sparse_pairs(text, text).tolist()
        [4.0]
    """
    return one_to_one(sparse, query, passage, tile)


def _table(text: Sparse, known: Int[Array, " s"]) -> Float[Array, "n s"]:
    """The largest weight of each known token in each text, 0 if it is not there."""
    column = jnp.searchsorted(known, text.ids, method="sort")
    column = jnp.minimum(column, len(known) - 1)
    there = known[column] == text.ids
    return _largest(text.weights, jnp.where(there, column, len(known)), len(known))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _largest(
    weights: Float[Array, "n l"], column: Int[Array, "n l"], columns: int
) -> Float[Array, "n s"]:
    row = jnp.arange(len(weights))[:, None]
    table = jnp.zeros((len(weights), columns), jnp.float32)
    return table.at[row, column].max(weights.astype(jnp.float32), mode="drop")


def _largest_forward(weights: Any, column: Any, columns: int) -> tuple[Array, Any]:
    table = _largest(weights, column, columns)
    row = jnp.arange(len(weights))[:, None]
    strongest = table.at[row, column].get(mode="fill", fill_value=-1) == weights
    place = jnp.broadcast_to(jnp.arange(weights.shape[1]), weights.shape)
    first = jnp.full(table.shape, weights.shape[1], jnp.int32)
    first = first.at[row, jnp.where(strongest, column, columns)].min(place, mode="drop")
    chosen = strongest & (first.at[row, column].get(mode="fill") == place)
    return table, (chosen, column, weights[:0])


def _largest_backward(columns: int, kept: Any, cotangent: Float[Array, "n s"]) -> Any:
    chosen, column, like = kept
    row = jnp.arange(len(column))[:, None]
    slope = cotangent.at[row, column].get(mode="fill", fill_value=0)
    return jnp.where(chosen, slope, 0).astype(like.dtype), None


_largest.defvjp(_largest_forward, _largest_backward)
