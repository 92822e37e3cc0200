"""BERT: bidirectional, post-norm, learned absolute positions."""

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
from m3jax.nn.layers import RowDropout, dense
from m3jax.ops.attention import attend


@dataclass(frozen=True)
class BertConfig:
    """Size and behaviour of a BERT encoder; defaults are bert-base."""

    vocab_size: int = 30_522
    """Rows of the word table; a tokenizer trained for the run decides it."""
    hidden: int = 768
    """Width of the states."""
    layers: int = 12
    """Number of layers."""
    heads: int = 12
    """Attention heads; divides hidden."""
    mlp: int = 3_072
    """Inner width of the MLP."""
    max_positions: int = 512
    """Longest text, in tokens."""
    type_vocab: int = 2
    """Rows of the token type table; texts here are all of type 0."""
    dropout: float = 0.1
    """Share of the units dropped in training."""
    norm_eps: float = 1e-12
    """Added to the variance in layer norm."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype; parameters are always float32."""
    remat: Literal["full", "dots", "none"] = "full"
    """What the backward pass recomputes: all of a layer, all but its matrix products,
    or nothing (the fastest, and the most memory)."""


# First match wins. [y, in, out] kernels: fsdp divides the hidden width, tensor the
# heads and the MLP.
SHARDING = {
    r"(query|key|value|up)\.kernel$": P(None, "fsdp", "tensor"),
    r"(query|key|value|up)\.bias$": P(None, "tensor"),
    r"(output|down)\.kernel$": P(None, "tensor", "fsdp"),
    r"(word|position|token_type)\.embedding$": P(None, "fsdp"),
    r"\.(bias|scale)$": P(),
}


class Attention(nn.Module):
    """Self-attention with its residual and norm."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: jax.Array,
        rows: Int[Array, " b"] | None,
    ) -> Float[Array, "b l d"]:
        """Norm(x + attention(x))."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        heads = (*x.shape[:-1], config.heads, config.hidden // config.heads)
        query, key, value = (
            dense(config.hidden, dtype, name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, mask).reshape(x.shape)
        attended = dense(config.hidden, dtype, "output")(attended)
        attended = RowDropout(config.dropout)(attended, rows)
        return nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(
            x + attended
        )


class Mlp(nn.Module):
    """Two linear layers around an exact GELU, with residual and norm."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], rows: Int[Array, " b"] | None
    ) -> Float[Array, "b l d"]:
        """Norm(x + down(gelu(up(x))))."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        inner = nn.gelu(dense(config.mlp, dtype, "up")(x), approximate=False)
        inner = dense(config.hidden, dtype, "down")(inner)
        inner = RowDropout(config.dropout)(inner, rows)
        return nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(
            x + inner
        )


class Layer(nn.Module):
    """One layer, in the form that `nn.scan` wants: a carry in, a carry out."""

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        mask: jax.Array,
        rows: Int[Array, " b"] | None,
    ) -> tuple[Float[Array, "b l d"], None]:
        """Attention, then MLP."""
        x = Attention(self.config, name="attention")(x, mask, rows)
        return split_rows(Mlp(self.config, name="mlp")(x, rows)), None


class Bert(nn.Module):
    """Token ids to hidden states.

    Source: Devlin et al. 2018 (arXiv:1810.04805).
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, tokens: Tokens, rows: Int[Array, " b"] | None = None
    ) -> Float[Array, "b l d"]:
        """Encode padded texts.

        Args:
            tokens: ids and mask `[b l]`.
            rows: one number a text, for its dropout mask; None drops nothing.

        Returns:
            Hidden states in the computation dtype.

        Raises:
            InputError: a text longer than the position table, heads that do not
                divide the width.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        length = tokens.ids.shape[-1]
        if length > config.max_positions:
            raise InputError(
                f"at most max_positions={config.max_positions} tokens", f"{length}"
            )
        if config.hidden % config.heads:
            raise InputError(
                f"heads that divide hidden={config.hidden}", f"{config.heads}"
            )

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(
                rows,
                config.hidden,
                dtype=dtype,
                embedding_init=nn.initializers.normal(0.02),
                name=name,
            )

        # Positions count real tokens, so padding on the left changes nothing.
        position = jnp.maximum(jnp.cumsum(tokens.mask, axis=-1) - 1, 0)
        x = (
            table(config.vocab_size, "word")(tokens.ids)
            + table(config.max_positions, "position")(position)
            + table(config.type_vocab, "token_type")(jnp.zeros_like(tokens.ids))
        )
        x = nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(x)
        x = split_rows(RowDropout(config.dropout)(x, rows))
        layer = Layer
        if config.remat != "none":
            # prevent_cse is needless under scan, and would stop fusions.
            policy = (
                jax.checkpoint_policies.dots_saveable
                if config.remat == "dots"
                else None
            )
            layer = nn.remat(Layer, prevent_cse=False, policy=policy)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
            length=config.layers,
        )
        x, _ = stack(config, name="layers")(x, tokens.mask, rows)
        return x
