"""Layers that the encoders share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class RowDropout(nn.Module):
    """Dropout whose mask belongs to a row, not to its place in a batch.

    The key is `fold_in(site key, row)`; Linen makes the site key from the module's
    path and the layer. So a row loses the same units at every sub-batch count, on
    every mesh and in every recomputation, and two rows lose different ones.

    Attributes:
        rate: share of the units that is zeroed; the others are divided by 1 - rate.
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b ..."], rows: Int[Array, " b"] | None
    ) -> Float[Array, "b ..."]:
        """Drop units of each row; without `rows` nothing is dropped."""
        if rows is None or self.rate == 0:
            return x
        site = self.make_rng("dropout")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(site, rows)
        keep = jax.vmap(
            lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:])
        )(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype))


def dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A linear layer with BERT's initialisation, computed in `dtype`.

    Example:
        >>> dense(4, jnp.dtype("float32"), "up").features
        4
    """
    return nn.Dense(
        features, dtype=dtype, kernel_init=nn.initializers.normal(0.02), name=name
    )
