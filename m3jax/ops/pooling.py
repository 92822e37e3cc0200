"""From the hidden states of a text to one vector."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Pooling = Literal["cls", "mean", "last"]


def pool(
    hidden: Float[Array, "b l d"], mask: Bool[Array, "b l"], pooling: Pooling
) -> Float[Array, "b d"]:
    """Reduce the states of the real tokens to one vector a text.

    cls: the first real token. mean: sum_l m_l h_l / sum_l m_l. last: the last real
    token. Padding may stand on either side. A text without a real token gives zeros.

    Args:
        hidden: states.
        mask: True where a token is real.
        pooling: which reduction.

    Returns:
        float32 vectors, not normalised.

    Source: BGE-M3 (cls), E5 (mean), Qwen3-Embedding (last).

    Example:
        >>> hidden = jnp.array([[[1.0], [3.0], [9.0]]])
        >>> pool(hidden, jnp.array([[True, True, False]]), "mean")
        Array([[2.]], dtype=float32)
    """
    hidden = hidden.astype(jnp.float32)
    if pooling == "mean":
        weight = mask.astype(jnp.float32)
    else:
        length = mask.shape[-1]
        # argmax finds the first True; reversed, the last one.
        at = (
            mask.argmax(-1)
            if pooling == "cls"
            else length - 1 - mask[:, ::-1].argmax(-1)
        )
        weight = jax.nn.one_hot(at, length) * mask
    total = jnp.maximum(weight.sum(-1, keepdims=True), 1)
    return jnp.einsum(
        "bl,bld->bd", weight / total, hidden, precision=jax.lax.Precision.HIGHEST
    )


def normalize(vectors: Float[Array, "... e"]) -> Float[Array, "... e"]:
    """Scale to length 1: x / |x|; a row of zeros stays zero, with a zero gradient.

    Args:
        vectors: any vectors.

    Returns:
        float32 vectors of length 1.

    Example:
        >>> normalize(jnp.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    vectors = vectors.astype(jnp.float32)
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    # The root's slope at 0 is infinite, so 0 must not reach it, even unused.
    zero = square == 0
    return jnp.where(zero, 0, vectors / jnp.sqrt(jnp.where(zero, 1, square)))
