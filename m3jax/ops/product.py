"""Products that scores and losses can rely on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def product(how: str, one: Array, two: Array) -> Float[Array, "..."]:
    """`jnp.einsum` in full precision, with float32 sums.

    float32 operands are not rounded, as they are by default on TPU and GPU: at
    temperature 0.01 an error of 2e-3 in a cosine moves a logit by 0.2. Other operands
    keep their precision.

    Example:
        >>> product("td,vd->tv", jnp.ones((1, 2)), jnp.ones((3, 2))).tolist()
        [[2.0, 2.0, 2.0]]
    """
    return jnp.einsum(
        how,
        one,
        two,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
