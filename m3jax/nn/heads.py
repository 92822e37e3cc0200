"""What is read off the hidden states."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.types import Multivec, Sparse, Tokens
from m3jax.ops.pooling import normalize, pool

Pooling = Literal["cls", "mean", "last", "mcls"]


def pooled(
    hidden: Float[Array, "b l d"],
    tokens: Tokens,
    pooling: Pooling,
    *,
    mcls_every: int = 256,
) -> Float[Array, "b d"]:
    """Reduce the states to one vector a text, in float32.

    cls, mean and last as in `ops.pooling.pool`. mcls: the mean over the first token
    and all that equal it at the places where `data.tokenize.repeat_first` put it; a
    CLS that the text itself spells elsewhere does not count.

    Args:
        hidden: states of the last layer.
        tokens: ids and mask.
        pooling: which reduction.
        mcls_every: tokens from one CLS to the next.

    Returns:
        Vectors of any length; zeros for a text without a real token.

    Source: BGE-M3, section 3.4 (arXiv:2402.03216) for mcls.

    Example:
        >>> tokens = Tokens(jnp.array([[7, 3, 7, 2]]), jnp.ones((1, 4), bool))
        >>> hidden = jnp.array([[[1.0], [5.0], [3.0], [9.0]]])
        >>> pooled(hidden, tokens, "mcls", mcls_every=1)
        Array([[2.]], dtype=float32)
    """
    if pooling != "mcls":
        return pool(hidden, tokens.mask, pooling)
    first = jnp.take_along_axis(tokens.ids, tokens.mask.argmax(-1)[:, None], axis=1)
    place = jnp.cumsum(tokens.mask, axis=-1) - 1
    due = tokens.mask & (place % (mcls_every + 1) == 0)
    return pool(hidden, due & (tokens.ids == first), "mean")


def dense(vectors: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Scale pooled states to length 1.

    Example:
        >>> dense(jnp.array([[3.0, 4.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """
    with jax.named_scope("dense"):
        return normalize(vectors)


def sparse(
    projected: Float[Array, "b l 1"], tokens: Tokens, special_ids: Sequence[int]
) -> Sparse:
    """Weigh every token: relu of its projection, 0 for special tokens and padding.

    A token that a text repeats has several weights; the largest counts. Whoever scores
    takes it, as `Encoded` does on the host and `strongest` here, so that nothing as
    wide as the vocabulary is ever made.

    Args:
        projected: one number a token, from the sparse head.
        tokens: ids and mask.
        special_ids: tokens without a weight: CLS, EOS, padding, unknown.

    Returns:
        Ids and float32 weights.

    Source: BGE-M3 (arXiv:2402.03216), `_sparse_embedding` of FlagEmbedding.

    Example:
        >>> tokens = Tokens(jnp.array([[0, 5, 5]]), jnp.ones((1, 3), bool))
        >>> projected = jnp.array([[[9.0], [2.0], [-1.0]]])
        >>> sparse(projected, tokens, [0]).weights.tolist()
        [[0.0, 2.0, 0.0]]
    """
    with jax.named_scope("sparse"):
        keep = tokens.mask
        for special in special_ids:
            keep &= tokens.ids != special
        weights = jax.nn.relu(projected[..., 0].astype(jnp.float32))
        return Sparse(tokens.ids, jnp.where(keep, weights, 0))


def strongest(
    ids: Int[Array, "b l"], weights: Float[Array, "b l"]
) -> Float[Array, "b l"]:
    """Keep the largest weight of every token of a text, and put 0 for its repeats.

    Args:
        ids: of the tokens.
        weights: never negative.

    Returns:
        Weights of which each id has at most one above 0, the first of equal ones.

    Example:
        >>> strongest(jnp.array([[4, 6, 4]]), jnp.array([[1.0, 2.0, 3.0]])).tolist()
        [[0.0, 2.0, 3.0]]
    """
    place = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    # By id, the strongest of each first; a stable sort leaves equal ones in order.
    ids, falling, place = jax.lax.sort((ids, -weights, place), num_keys=2)
    first = jnp.diff(ids, axis=1, prepend=ids[:, :1] - 1) != 0
    kept = jnp.where(first, -falling, 0)
    rows = jnp.arange(len(ids))[:, None]
    return jnp.zeros_like(weights).at[rows, place].set(kept)


def multivec(projected: Float[Array, "b l e"], mask: Bool[Array, "b l"]) -> Multivec:
    """Make a vector of length 1 of every token but the first, CLS.

    Args:
        projected: a vector a token, from the multi-vector head.
        mask: True where a token is real.

    Returns:
        float32 vectors, zeros where their mask is False.

    Source: BGE-M3 (arXiv:2402.03216), `_colbert_embedding` of FlagEmbedding.

    Example:
        >>> found = multivec(jnp.ones((1, 3, 4)), jnp.array([[True, True, False]]))
        >>> found.mask.tolist(), found.vectors[0, 1].tolist()
        ([[False, True, False]], [0.5, 0.5, 0.5, 0.5])
    """
    with jax.named_scope("multivec"):
        # The first real token, wherever the padding is.
        mask = mask & (jnp.cumsum(mask, axis=-1) > 1)
        vectors = jnp.where(mask[..., None], projected.astype(jnp.float32), 0)
        return Multivec(normalize(vectors), mask)
