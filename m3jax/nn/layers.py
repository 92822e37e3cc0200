"""Layers that the encoders share."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3jax.core.mesh import look_up
from m3jax.core.types import Params, Tokens

Dtype = Literal["float32", "bfloat16"]
Remat = Literal["full", "dots", "none"]


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


class Dense(nn.Module):
    """A linear layer; where `nn.lora` put a low-rank pair beside the kernel, with it.

    x W + b, or x W + b + scale (x A) B.
    """

    features: int
    dtype: jnp.dtype
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... f"]:
        """Apply the layer to the last dimension, in `dtype`."""
        start = nn.initializers.normal(0.02)
        kernel = self.param("kernel", start, (x.shape[-1], self.features))
        x = x.astype(self.dtype)
        y = x @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias.reshape((1,) * (y.ndim - 1) + (-1,)).astype(self.dtype)
        if pair := low_rank_pair(self.variables["params"]):
            y = y + _times(x, *pair)
        return y


class Embed(nn.Module):
    """A table of vectors; with a low-rank pair beside it, as in `Dense`."""

    rows: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, ids: Int[Array, "..."]) -> Float[Array, "... d"]:
        """Look rows up."""
        start = nn.initializers.normal(0.02)
        table = self.param("embedding", start, (self.rows, self.features))
        x = look_up(table, ids).astype(self.dtype)
        if pair := low_rank_pair(self.variables["params"]):
            a, b, scale = pair
            x = x + _times(jnp.take(a, ids, axis=0).astype(self.dtype), None, b, scale)
        return x


def low_rank_pair(params: Params) -> tuple[jax.Array, jax.Array, jax.Array] | None:
    """A, B and their scale, which is never trained, where they stand beside a matrix.

    Example:
        >>> low_rank_pair({"kernel": jnp.ones((4, 6))}) is None
        True
    """
    if "lora_a" not in params:
        return None
    scale = jax.lax.stop_gradient(params["lora_scale"])
    return params["lora_a"], params["lora_b"], scale


def _times(
    x: jax.Array, a: jax.Array | None, b: jax.Array, scale: jax.Array
) -> jax.Array:
    low = x if a is None else x @ a.astype(x.dtype)
    return low @ b.astype(x.dtype) * scale.astype(x.dtype)


def positions(tokens: Tokens) -> Int[Array, "b l"]:
    """Number every real token of a text from 0; padding gets 0.

    Counting real tokens makes padding on the left change nothing. In a packed row
    the count starts again at every text.

    Args:
        tokens: ids and mask `[b l]`, perhaps segments.

    Example:
        >>> mask = jnp.array([[False, True, True, True]])
        >>> positions(Tokens(mask, mask)).tolist()
        [[0, 0, 1, 2]]
        >>> positions(Tokens(mask, mask, jnp.array([[0, 0, 0, 1]]))).tolist()
        [[0, 0, 1, 0]]
    """
    before = jnp.cumsum(tokens.mask, axis=-1) - tokens.mask
    if tokens.segments is None:
        return jnp.where(tokens.mask, before, 0)
    new = jnp.diff(tokens.segments, axis=-1, prepend=tokens.segments[:, :1]) != 0
    start = jax.lax.cummax(jnp.where(new, before, 0), axis=1)
    # Padding gets 0: counted on, it could fall off the end of a table.
    return jnp.where(tokens.mask, before - start, 0)


def stack(layer: type[nn.Module], length: int, remat: Remat) -> Any:
    """`length` layers as one `nn.scan`, whose parameters are stacked.

    Args:
        layer: maps (x, *shared) to (x, None); `shared` is the same for every layer.
        length: number of layers.
        remat: what the backward pass recomputes.

    Returns:
        A class to construct with the layer's fields and a name.

    Example:
        >>> stack(nn.Dense, 2, "none").__name__
        'ScanDense'
    """
    if remat != "none":
        policy = jax.checkpoint_policies.dots_saveable if remat == "dots" else None
        # prevent_cse is needless under scan, and would stop fusions.
        layer = nn.remat(layer, prevent_cse=False, policy=policy)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        length=length,
    )
