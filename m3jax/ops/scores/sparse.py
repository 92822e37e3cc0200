"""Inner products of sparse embeddings, without a tensor as wide as the vocabulary."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3jax.core.errors import InputError
from m3jax.core.types import Sparse
from m3jax.ops import checks
from m3jax.ops.product import product
from m3jax.ops.scores.tiles import check_tile, one_to_one, scan_tiles, vary_like

# Query tokens that share a table, and numbers in a table of passages (8 MiB).
_COLUMNS, _HELD = 2**12, 2**21


def sparse(
    query: Sparse, passage: Sparse, *, tile: int | None = None
) -> Float[Array, "q p"]:
    """Inner products of all pairs: s_qp = sum_v w_qv w_pv, w_v the largest weight of v.

    The tokens of `tile` queries become the columns of two small tables; what a passage
    holds beside them cannot count. Repeats need not be removed: the tables keep the
    largest weight, and of equal ones the first token gets the gradient.

    Args:
        query: ids and weights `[q l]`; weights are never negative, 0 = no token.
        passage: ids and weights `[p l]`.
        tile: queries that share a table; None = as many as have 4,096 tokens.

    Returns:
        float32 scores.

    Raises:
        InputError: shapes do not fit, or `tile` is not positive.

    Source: BGE-M3 (arXiv:2402.03216).

    Example:
        >>> query = Sparse(jnp.array([[5, 7]]), jnp.array([[1.0, 2.0]]))
        >>> passage = Sparse(jnp.array([[7, 7, 9]]), jnp.array([[0.5, 3.0, 8.0]]))
        >>> sparse(query, passage).tolist()
        [[6.0]]
    """
    check_tile(tile)
    _check(query, passage)
    (q, tokens), (p, longest) = query.ids.shape, passage.ids.shape
    if 0 in (q, tokens, p, longest):
        return jnp.zeros((q, p), jnp.float32)
    query, passage = vary_like((query, passage))
    queries = min(q, tile or max(1, _COLUMNS // tokens))
    passages = max(1, _HELD // max(queries * tokens, longest))
    return _in_tiles(query, passage, queries, passages)


# Outside of any program, the loops would be compiled anew at each call.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _in_tiles(
    query: Sparse, passage: Sparse, queries: int, passages: int
) -> Float[Array, "q p"]:
    # Inside of loops: the tables are made again, not kept.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def score(query: Sparse, passage: Sparse) -> Array:
        known = jnp.sort(query.ids.ravel())
        return product("qs,ps->qp", _table(query, known), _table(passage, known))

    def of_queries(carry: None, query: Sparse) -> tuple[None, Array]:
        def of_passages(carry: None, passage: Sparse) -> tuple[None, Array]:
            return carry, score(query, passage).T

        return carry, scan_tiles(of_passages, None, passage, passages)[1].T

    return scan_tiles(of_queries, None, query, queries)[1]


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
        InputError: shapes do not fit, or `tile` is not positive.

    Example:
        >>> text = Sparse(jnp.array([[5, 5]]), jnp.array([[1.0, 2.0]]))
        >>> sparse_pairs(text, text).tolist()
        [4.0]
    """
    _check(query, passage)
    return one_to_one(sparse, query, passage, tile)


def _check(query: Any, passage: Any) -> None:
    for name, text in (("query", query), ("passage", passage)):
        checks.sparse(name, text)
        if text.ids.ndim != 2:
            found = f"shape {tuple(text.ids.shape)}"
            raise InputError("[texts tokens]", found, where=f"{name}.ids")


def _table(text: Sparse, known: Int[Array, " s"]) -> Float[Array, "n s"]:
    """The largest weight of each known token in each text, 0 if it is not there.

    Equal tokens of `known`, which is sorted, meet in the first of their columns.
    """
    column = jnp.searchsorted(known, text.ids)
    there = known.at[column].get(mode="clip") == text.ids
    column = jnp.where(there, column, len(known))
    table: Any = _largest(text.weights, column, len(known))
    # A weight that is no number shall not go unseen because no query has its token.
    lost = jnp.isnan(text.weights).any(1, keepdims=True)
    return jnp.where(lost, jnp.nan, table)


def _largest_values(
    weights: Float[Array, "n l"], column: Int[Array, "n l"], columns: int
) -> Float[Array, "n s"]:
    row = jnp.arange(len(weights))[:, None]
    table = jnp.zeros((len(weights), columns), jnp.float32)
    return table.at[row, column].max(weights.astype(jnp.float32), mode="drop")


_largest = jax.custom_vjp(_largest_values, nondiff_argnums=(2,))


def _largest_forward(weights: Any, column: Any, columns: int) -> tuple[Array, Any]:
    table = _largest_values(weights, column, columns)
    row = jnp.arange(len(weights))[:, None]
    found = table.at[row, column].get(mode="fill", fill_value=-1)
    strongest = found == weights.astype(jnp.float32)
    place = jnp.arange(weights.shape[1], dtype=jnp.int32)
    place = jnp.broadcast_to(place, weights.shape)
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
