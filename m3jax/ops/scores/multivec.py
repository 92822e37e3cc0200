"""MaxSim: scores between texts of which every token has a vector."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.types import Multivec
from m3jax.ops.scores.tiles import check_tile, one_to_one, scan_tiles, vary_like

# Products of token vectors that are held at once when no tile is given: 32 MiB.
_PRODUCTS = 2**23


def multivec(
    query: Multivec, passage: Multivec, *, tile: int | None = None
) -> Float[Array, "q p"]:
    """MaxSim of all pairs: s_qp = 1/|q| sum_i max_j <q_i, p_j>, over real tokens.

    The products `[q p i j]` never exist whole, neither forward nor backward: they are
    made for `tile` passages at a time, and only which token was the nearest is kept
    for the gradient, which then costs no product. Of equally near tokens the first
    one gets the gradient. A text without a token scores 0.

    Args:
        query: vectors `[q i e]`, mask `[q i]`.
        passage: vectors `[p j e]`, mask `[p j]`.
        tile: passages at once; None = as many as make products of 32 MiB.

    Returns:
        float32 scores; float32 operands are multiplied in full precision.

    Raises:
        InputError: `tile` is not positive.

    Source: ColBERT (arXiv:2004.12832); the mean over i as in BGE-M3
    (arXiv:2402.03216).

    Example:
        >>> query = Multivec(jnp.eye(2)[None], jnp.ones((1, 2), bool))
        >>> passage = Multivec(jnp.ones((3, 4, 2)), jnp.ones((3, 4), bool))
        >>> multivec(query, passage).tolist()
        [[1.0, 1.0, 1.0]]
    """
    check_tile(tile)
    if tile is None:
        products = query.mask.size * passage.mask.shape[1]
        tile = max(1, _PRODUCTS // max(1, products))
    arrays = query.vectors, query.mask, passage.vectors, passage.mask
    return _maxsim(*vary_like(arrays), min(tile, len(passage.mask)))


def multivec_pairs(
    query: Multivec, passage: Multivec, *, tile: int | None = None
) -> Float[Array, " n"]:
    """MaxSim one to one; else as `multivec`.

    Args:
        query: vectors `[n i e]`, mask `[n i]`.
        passage: vectors `[n j e]`, mask `[n j]`.
        tile: pairs at once; None = all.

    Returns:
        float32 scores.

    Raises:
        InputError: `tile` is not positive.

    Example:
        >>> texts = Multivec(jnp.ones((3, 4, 1)), jnp.ones((3, 4), bool))
        >>> multivec_pairs(texts, texts).tolist()
        [1.0, 1.0, 1.0]
    """
    return one_to_one(multivec, query, passage, tile)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _maxsim(
    query: Float[Array, "q i e"],
    query_mask: Bool[Array, "q i"],
    passage: Float[Array, "p j e"],
    passage_mask: Bool[Array, "p j"],
    tile: int,
) -> Float[Array, "q p"]:
    def step(carry: None, rows: Any) -> tuple[None, Array]:
        nearest = _products(query, *rows).max(1)
        return carry, _mean(nearest, query_mask, rows[1])

    return scan_tiles(step, None, (passage, passage_mask), tile)[1].T


def _forward(query: Any, query_mask: Any, passage: Any, passage_mask: Any, tile: int):
    def step(carry: None, rows: Any) -> tuple[None, tuple[Array, Array]]:
        products = _products(query, *rows)  # [t j q i]: max along a major axis
        nearest = products.max(1)
        # The first j that reaches the maximum; faster here than argmax.
        place = jnp.arange(products.shape[1], dtype=jnp.int32)[:, None, None]
        at = jnp.where(products == nearest[:, None], place, products.shape[1] - 1)
        short = jnp.int16 if products.shape[1] <= 2**15 else jnp.int32
        return carry, (_mean(nearest, query_mask, rows[1]), at.min(1).astype(short))

    _, (scores, at) = scan_tiles(step, None, (passage, passage_mask), tile)
    return scores.T, (query, query_mask, passage, passage_mask, at)


def _backward(tile: int, kept: Any, cotangent: Float[Array, "q p"]):
    query, query_mask, passage, passage_mask, at = kept
    share = query_mask / jnp.maximum(query_mask.sum(1, keepdims=True), 1)  # [q i]

    def step(total: Array, rows: Any) -> tuple[Array, Array]:
        vectors, mask, at, cotangent = rows
        weight = cotangent[:, :, None] * share * mask.any(1)[:, None, None]  # [t q i]
        flat = at.reshape(len(at), -1).astype(jnp.int32)  # [t q*i]
        weight = weight.reshape(*flat.shape, 1)
        chosen = jnp.take_along_axis(vectors, flat[:, :, None], axis=1)
        total += (weight * chosen).sum(0)
        row = jnp.arange(len(flat))[:, None]
        theirs = jnp.zeros(vectors.shape, jnp.float32)
        theirs = theirs.at[row, flat].add(weight * query.reshape(1, -1, query.shape[2]))
        return total, theirs.astype(vectors.dtype)

    total = jnp.zeros((query_mask.size, query.shape[2]), jnp.float32)
    rows = passage, passage_mask, at, cotangent.T
    total, theirs = scan_tiles(step, vary_like(total, rows, query), rows, tile)
    return total.reshape(query.shape).astype(query.dtype), None, theirs, None


_maxsim.defvjp(_forward, _backward)


def _products(
    query: Float[Array, "q i e"], passage: Float[Array, "t j e"], mask: Bool[Array, "t j"]
) -> Float[Array, "t j q i"]:
    products = jnp.einsum(
        "tje,qie->tjqi",
        passage,
        query,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return jnp.where(mask[:, :, None, None], products, -jnp.inf)


def _mean(
    nearest: Float[Array, "t q i"], query_mask: Bool[Array, "q i"], mask: Bool[Array, "t j"]
) -> Float[Array, "t q"]:
    counts = query_mask[None] & mask.any(1)[:, None, None]
    total = jnp.where(counts, nearest, 0).sum(2)
    return total / jnp.maximum(query_mask.sum(1), 1)
