"""Qwen2 and Qwen3: pre-norm, rotary positions, grouped heads, gated MLP."""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from m3jax.core.errors import InputError
from m3jax.core.mesh import split_rows
from m3jax.core.types import Tokens
from m3jax.nn.layers import Dense, Dtype, Embed, Remat, positions, stack
from m3jax.ops.attention import attend


@dataclass(frozen=True)
class QwenConfig:
    """Size and behaviour of a Qwen encoder; defaults are Qwen3-Embedding-0.6B."""

    vocab_size: int = 151_669
    """Rows of the word table."""
    hidden: int = 1_024
    """Width of the states."""
    layers: int = 28
    """Number of layers."""
    heads: int = 16
    """Attention heads."""
    kv_heads: int = 8
    """Heads of keys and values; divides heads."""
    head_dim: int = 128
    """Width of a head; need not be hidden / heads."""
    mlp: int = 3_072
    """Inner width of the MLP."""
    max_positions: int = 32_768
    """Longest text, in tokens."""
    rope_theta: float = 1e6
    """Base of the rotary frequencies."""
    norm_eps: float = 1e-6
    """Added to the mean square in the norms."""
    attention: Literal["causal", "bidirectional"] = "causal"
    """What a token sees: the tokens up to itself, or all of the text (KaLM V2)."""
    qkv_bias: bool = False
    """Whether queries, keys and values have a bias: Qwen2."""
    qk_norm: bool = True
    """Whether the heads of queries and keys are normalised: Qwen3."""
    dtype: Dtype = "float32"
    """Computation dtype; parameters keep theirs, which in training is float32."""
    remat: Remat = "full"
    """What the backward pass recomputes: all of a layer, all but its matrix products,
    or nothing (the fastest, and the most memory)."""

    @property
    def max_length(self) -> int:
        """Longest text, in tokens."""
        return self.max_positions


# First match wins; as in `bert.SHARDING`.
SHARDING = {
    r"(query|key|value|gate|up)\.kernel$": P(None, "fsdp", "tensor"),
    r"(query|key|value)\.bias$": P(None, "tensor"),
    r"(output|down)\.kernel$": P(None, "tensor", "fsdp"),
    r"word\.embedding$": P(None, "fsdp"),
    r"\.scale$": P(),
}


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * scale, in float32."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalise the last dimension."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        shape = (1,) * (x.ndim - 1) + scale.shape
        return x.astype(self.dtype) * scale.reshape(shape).astype(self.dtype)


def rotate(
    x: Float[Array, "b l h c"], position: Int[Array, "b l"], theta: float
) -> Float[Array, "b l h c"]:
    """Turn the halves of every head by angles that grow with the position.

    (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), angle_i = position * theta^(-2i/c).

    Args:
        x: queries or keys.
        position: of each token.
        theta: base of the frequencies.

    Returns:
        As x; angles are float32 whatever x is.

    Source: Su et al. 2021 (arXiv:2104.09864).

    Example:
        >>> x = jnp.ones((1, 1, 1, 4))
        >>> rotate(x, jnp.array([[0]]), 1e6).tolist()
        [[[[1.0, 1.0, 1.0, 1.0]]]]
    """
    width = x.shape[-1]
    frequency = theta ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = position[:, :, None].astype(jnp.float32) * frequency[None, None]
    cos, sin = (f(angle)[:, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    )


class Attention(nn.Module):
    """Self-attention over grouped heads, without its residual and norm."""

    config: QwenConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], tokens: Tokens, position: Int[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        """Project, normalise and rotate, attend, project back."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)

        def heads(name: str, number: int) -> Float[Array, "b l h c"]:
            width = number * config.head_dim
            y = Dense(width, dtype, config.qkv_bias, name=name)(x)
            y = y.reshape(*x.shape[:-1], number, config.head_dim)
            if name == "value":
                return y
            if config.qk_norm:
                y = RmsNorm(config.norm_eps, dtype, name=f"{name}_norm")(y)
            return rotate(y, position, config.rope_theta)

        attended = attend(
            heads("query", config.heads),
            heads("key", config.kv_heads),
            heads("value", config.kv_heads),
            tokens.mask,
            causal=config.attention == "causal",
            segments=tokens.segments,
        )
        attended = attended.reshape(*x.shape[:-1], -1)
        return Dense(config.hidden, dtype, use_bias=False, name="output")(attended)


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x)), without residual and norm."""

    config: QwenConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Apply the gated layers."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        gate = Dense(config.mlp, dtype, use_bias=False, name="gate")(x)
        up = Dense(config.mlp, dtype, use_bias=False, name="up")(x)
        inner = nn.silu(gate) * up
        return Dense(config.hidden, dtype, use_bias=False, name="down")(inner)


class Layer(nn.Module):
    """One layer, in the form that `nn.scan` wants: a carry in, a carry out."""

    config: QwenConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], tokens: Tokens, position: Int[Array, "b l"]
    ) -> tuple[Float[Array, "b l d"], None]:
        """Add attention(norm(x)), then the same with the MLP."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        inner = RmsNorm(config.norm_eps, dtype, name="attention_norm")(x)
        x = x + Attention(config, name="attention")(inner, tokens, position)
        inner = RmsNorm(config.norm_eps, dtype, name="mlp_norm")(x)
        return split_rows(x + Mlp(config, name="mlp")(inner)), None


class Qwen(nn.Module):
    """Token ids to hidden states.

    Source: Yang et al. 2024 (arXiv:2407.10671), Yang et al. 2025 (arXiv:2505.09388).
    """

    config: QwenConfig

    @nn.compact
    def __call__(
        self, tokens: Tokens, rows: Int[Array, " b"] | None = None
    ) -> Float[Array, "b l d"]:
        """Encode padded texts.

        Args:
            tokens: ids and mask `[b l]`.
            rows: not used, there is no dropout in these models.

        Returns:
            Hidden states after the last norm, in the computation dtype.

        Raises:
            InputError: a text that is too long, or heads that do not divide.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        length = tokens.ids.shape[-1]
        if tokens.segments is None and length > config.max_length:
            raise InputError(f"at most {config.max_length} tokens", f"{length}")
        if config.heads % config.kv_heads:
            raise InputError(
                f"kv_heads that divide heads={config.heads}", f"{config.kv_heads}"
            )
        if config.head_dim % 2:
            raise InputError("an even head_dim", f"{config.head_dim}")
        x = split_rows(
            Embed(config.vocab_size, config.hidden, dtype, name="word")(tokens.ids)
        )
        layers = stack(Layer, config.layers, config.remat)(config, name="layers")
        x, _ = layers(x, tokens, positions(tokens))
        return RmsNorm(config.norm_eps, dtype, name="norm")(x)
