"""What is read off the hidden states."""

import jax
from jaxtyping import Array, Bool, Float

from m3jax.ops.pooling import Pooling, normalize, pool


def dense(
    hidden: Float[Array, "b l d"], mask: Bool[Array, "b l"], pooling: Pooling
) -> Float[Array, "b d"]:
    """One vector of length 1 a text: pooled, then normalised, in float32.

    Args:
        hidden: states of the last layer.
        mask: True where a token is real.
        pooling: cls, mean or last.

    Returns:
        Unit vectors; zeros for a text without a real token.

    Example:
        >>> import jax.numpy as jnp
        >>> dense(jnp.ones((1, 2, 4)), jnp.ones((1, 2), bool), "mean").tolist()
        [[0.5, 0.5, 0.5, 0.5]]
    """
    with jax.named_scope("dense"):
        return normalize(pool(hidden, mask, pooling))
