"""Attention, with the kernel that suits the platform."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
    query: Float[Array, "b l h c"],
    key: Float[Array, "b l h c"],
    value: Float[Array, "b l h c"],
    mask: Bool[Array, "b l"],
) -> Float[Array, "b l h c"]:
    """Bidirectional attention: softmax(q k' / sqrt(c)) v over the real tokens.

    Scores and softmax are float32 whatever the operands are. Rows without a real
    token give the mean of the values: finite, and masked out by whoever pools.

    Args:
        query: queries of each head.
        key: keys of each head.
        value: values of each head.
        mask: True where a token is real.

    Returns:
        The attended values, in the dtype of `value`.

    Source: Vaswani et al. 2017, arXiv:1706.03762.

    Example:
        >>> x = jnp.ones((1, 2, 1, 4))
        >>> attend(x, x, x, jnp.array([[True, False]])).shape
        (1, 2, 1, 4)
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum(
        "bihc,bjhc->bhij", query * scale, key, preferred_element_type=jnp.float32
    )
    # The lowest finite number, not -inf: a row that is all padding stays finite.
    scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Dividing after the product touches [l c] numbers instead of [l l].
    attended = jnp.einsum(
        "bhij,bjhc->bhic",
        weights.astype(value.dtype),
        value,
        preferred_element_type=jnp.float32,
    )
    attended = attended / weights.sum(-1, keepdims=True)
    return jnp.swapaxes(attended, 1, 2).astype(value.dtype)
