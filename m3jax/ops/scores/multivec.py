"""MaxSim: scores between texts of which every token has a vector."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from m3jax.core.errors import InputError
from m3jax.core.types import Multivec
from m3jax.ops import checks
from m3jax.ops.product import product
from m3jax.ops.scores.tiles import (
    add_tiles,
    check_tile,
    map_tiles,
    one_to_one,
    vary_like,
)

# Numbers held at once, products forward and vectors backward: 8 MiB. Query tokens
# that are multiplied at once before more passages are.
_HELD, _ROWS = 2**21, 2**11


def multivec(
    query: Multivec,
    passage: Multivec,
    *,
    tile: int | None = None,
    padding_is_zero: bool = False,
) -> Float[Array, "q p"]:
    """MaxSim of all pairs: s_qp = 1/|q| sum_i max_j <q_i, p_j>, over real tokens.

    The products `[q p i j]` never exist whole, neither forward nor backward: they are
    made for a few passages and query tokens at a time, and only which token was the
    nearest is kept for the gradient, which then costs no product. Of equally near
    tokens the first one gets the gradient. A text without a token scores 0.

    Args:
        query: vectors `[q i e]`, mask `[q i]`.
        passage: vectors `[p j e]`, mask `[p j]`.
        tile: passages at once; None = as many as make products of 8 MiB. Where one
            passage makes more, query tokens are taken in parts.
        padding_is_zero: padding of a passage counts as a vector of zeros, so that no
            token of a query scores below 0 there. FlagEmbedding's training has it so.

    Returns:
        float32 scores; float32 operands are multiplied in full precision.

    Raises:
        InputError: shapes do not fit, or `tile` is not positive.

    Source: ColBERT (arXiv:2004.12832); the mean over i as in BGE-M3
    (arXiv:2402.03216).

    Example:
        >>> query = Multivec(jnp.eye(2)[None], jnp.ones((1, 2), bool))
        >>> passage = Multivec(jnp.ones((3, 4, 2)), jnp.ones((3, 4), bool))
        >>> multivec(query, passage).tolist()
        [[1.0, 1.0, 1.0]]
    """
    check_tile(tile)
    _check(query, passage)
    (q, i), (p, j) = query.mask.shape, passage.mask.shape
    if 0 in (q, i, p, j):
        return jnp.zeros((q, p), jnp.float32)
    if tile is None:
        tile = max(1, _HELD // (j * min(q * i, _ROWS)))
    arrays = query.vectors, query.mask, passage.vectors, passage.mask
    return _compiled(*vary_like(arrays), min(tile, p), padding_is_zero)


def multivec_pairs(
    query: Multivec, passage: Multivec, *, tile: int | None = None
) -> Float[Array, " n"]:
    """MaxSim one to one; else as `multivec`.

    Args:
        query: vectors `[n i e]`, mask `[n i]`.
        passage: vectors `[n j e]`, mask `[n j]`.
        tile: pairs at once; None = as many as make products of 8 MiB.

    Returns:
        float32 scores.

    Raises:
        InputError: shapes do not fit, or `tile` is not positive.

    Example:
        >>> texts = Multivec(jnp.ones((3, 4, 1)), jnp.ones((3, 4), bool))
        >>> multivec_pairs(texts, texts).tolist()
        [1.0, 1.0, 1.0]
    """
    _check(query, passage)
    if tile is None:
        products = query.mask.shape[-1] * passage.mask.shape[-1]
        tile = max(1, _HELD // max(1, products))
    return one_to_one(multivec, query, passage, tile)


def _check(query: Any, passage: Any) -> None:
    for name, text in (("query", query), ("passage", passage)):
        checks.multivec(name, text)
        if text.vectors.ndim != 3 or not text.vectors.shape[2]:
            found = f"shape {tuple(text.vectors.shape)}"
            expected = "[texts tokens e], e at least 1"
            raise InputError(expected, found, where=f"{name}.vectors")
    width, found = query.vectors.shape[2], passage.vectors.shape[2]
    if width != found:
        raise InputError(f"width {width}", f"{found}", where="passage.vectors")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _maxsim(
    query: Float[Array, "q i e"],
    query_mask: Bool[Array, "q i"],
    passage: Float[Array, "p j e"],
    passage_mask: Bool[Array, "p j"],
    tile: int,
    padding_is_zero: bool,
) -> Float[Array, "q p"]:
    def score(passage: tuple[Array, Array]) -> Float[Array, "t q"]:
        def best(products: Float[Array, "t j r"]) -> Array:
            return products.max(1).T

        found = _by_tokens(best, query, *passage, padding_is_zero)
        return _mean(found, query_mask, passage[1])

    return map_tiles(score, (passage, passage_mask), tile).T


def _forward(
    query: Any,
    query_mask: Any,
    passage: Any,
    passage_mask: Any,
    tile: int,
    padding_is_zero: bool,
):
    def best(products: Float[Array, "t j r"]) -> tuple[Array, Array]:
        found = products.max(1)
        # The first j that reaches the maximum; faster here than argmax.
        last = products.shape[1] - 1
        place = jnp.arange(last + 1, dtype=jnp.int32)[None, :, None]
        at = jnp.where(products == found[:, None], place, last).min(1)
        return found.T, at.astype(jnp.int16 if last < 2**15 else jnp.int32).T

    def score(passage: tuple[Array, Array]) -> tuple[Array, Array]:
        found, at = _by_tokens(best, query, *passage, padding_is_zero)
        return _mean(found, query_mask, passage[1]), at.T

    scores, at = map_tiles(score, (passage, passage_mask), tile)
    return scores.T, (query, query_mask, passage, passage_mask, at)


def _backward(
    tile: int, padding_is_zero: bool, kept: Any, cotangent: Float[Array, "q p"]
):
    query, query_mask, passage, passage_mask, at = kept
    width = query.shape[2]
    count = jnp.maximum(query_mask.sum(1, keepdims=True), 1).astype(jnp.float32)
    share = query_mask / count  # [q i]
    tokens, real = query.reshape(-1, width), query_mask.reshape(-1, 1)

    # One passage at a time: rows gathered from or added to several are slow.
    def step(total: Array, rows: Any) -> tuple[Array, Array]:
        vectors, mask, at, cotangent = rows
        weight = (cotangent[:, None] * share * mask.any()).reshape(-1, 1)
        weight = weight.astype(jnp.float32)
        vectors = jnp.where(mask[:, None], vectors, 0)

        def part(found: Any, start: Any, size: int) -> tuple[Array, Array]:
            total, theirs = found

            def cut(array: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(array, start, size)

            j, by = cut(at).astype(jnp.int32), cut(weight)
            ours = cut(total) + by * vectors[j].astype(jnp.float32)
            total = jax.lax.dynamic_update_slice_in_dim(total, ours, start, 0)
            rows = jnp.where(cut(real), cut(tokens), 0).astype(jnp.float32)
            return total, theirs.at[j].add(by * rows)

        theirs = vary_like(jnp.zeros(vectors.shape, jnp.float32), total)
        size = max(1, _HELD // width)
        total, theirs = add_tiles(part, (total, theirs), len(total), size)
        return total, jnp.where(mask[:, None], theirs, 0).astype(vectors.dtype)

    total = vary_like(jnp.zeros(tokens.shape, jnp.float32), tokens)
    rows = passage, passage_mask, at, cotangent.T
    total, theirs = jax.lax.scan(step, total, rows)
    return total.reshape(query.shape).astype(query.dtype), None, theirs, None


_maxsim.defvjp(_forward, _backward)
# Outside of any program, the loops would be compiled anew at each call.
_compiled = jax.jit(_maxsim, static_argnums=(4, 5))


def _by_tokens(
    best: Callable[[Float[Array, "t j r"]], Any],
    query: Float[Array, "q i e"],
    passage: Float[Array, "t j e"],
    mask: Bool[Array, "t j"],
    padding_is_zero: bool,
) -> Any:
    """What `best` finds, `[r t]`, for all query tokens r of all queries."""
    absent = 0 if padding_is_zero else -jnp.inf

    def part(tokens: Float[Array, "r e"]) -> Any:
        # A maximum over a major axis is fast.
        products = product("tje,re->tjr", passage, tokens)
        return best(jnp.where(mask[:, :, None], products, absent))

    tokens = query.reshape(-1, query.shape[2])
    return map_tiles(part, tokens, max(1, _HELD // mask.size))


def _mean(
    nearest: Float[Array, "r t"],
    query_mask: Bool[Array, "q i"],
    mask: Bool[Array, "t j"],
) -> Float[Array, "t q"]:
    counts = query_mask[None] & mask.any(1)[:, None, None]
    nearest = nearest.T.reshape(-1, *query_mask.shape)
    total = jnp.where(counts, nearest, 0).sum(2)
    return total / jnp.maximum(query_mask.sum(1), 1)[None]
