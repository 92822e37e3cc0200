"""BERT, RoBERTa, XLM-R: bidirectional, post-norm, learned absolute positions."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from m3jax.core.errors import InputError
from m3jax.core.mesh import split_rows
from m3jax.core.types import Tokens
from m3jax.nn.layers import Dense, Dtype, Embed, Remat, RowDropout, positions, stack
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
    """Rows of the position table."""
    type_vocab: int = 2
    """Rows of the token type table; single texts are all of type 0."""
    dropout: float = 0.1
    """Share of the units dropped in training."""
    norm_eps: float = 1e-12
    """Added to the variance in layer norm."""
    dtype: Dtype = "float32"
    """Computation dtype; parameters keep theirs, which in training is float32."""
    remat: Remat = "full"
    """What the backward pass recomputes: all of a layer, all but its matrix products,
    or nothing (the fastest, and the most memory)."""
    first_position: int = 0
    """Row of a text's first token: 0 in BERT; in RoBERTa and XLM-R the padding id and
    1, that is 2, so that 8,194 rows are enough for 8,192 tokens."""

    @property
    def max_length(self) -> int:
        """Longest text, in tokens."""
        return self.max_positions - self.first_position


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
        tokens: Tokens,
        rows: Int[Array, " b"] | None,
    ) -> Float[Array, "b l d"]:
        """Norm(x + attention(x))."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        heads = (*x.shape[:-1], config.heads, config.hidden // config.heads)
        query, key, value = (
            Dense(config.hidden, dtype, name=name)(x).reshape(heads)
            for name in ("query", "key", "value")
        )
        attended = attend(query, key, value, tokens.mask, segments=tokens.segments)
        attended = Dense(config.hidden, dtype, name="output")(attended.reshape(x.shape))
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
        inner = nn.gelu(Dense(config.mlp, dtype, name="up")(x), approximate=False)
        inner = Dense(config.hidden, dtype, name="down")(inner)
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
        tokens: Tokens,
        rows: Int[Array, " b"] | None,
    ) -> tuple[Float[Array, "b l d"], None]:
        """Attention, then MLP."""
        x = Attention(self.config, name="attention")(x, tokens, rows)
        return split_rows(Mlp(self.config, name="mlp")(x, rows)), None


class Bert(nn.Module):
    """Token ids to hidden states.

    Source: Devlin et al. 2018 (arXiv:1810.04805); Liu et al. 2019 (arXiv:1907.11692).
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
        if tokens.segments is None and length > config.max_length:
            raise InputError(f"at most {config.max_length} tokens", f"{length}")
        if config.hidden % config.heads:
            raise InputError(
                f"heads that divide hidden={config.hidden}", f"{config.heads}"
            )
        position = config.first_position + positions(tokens)
        types = jnp.zeros_like(tokens.ids) if tokens.types is None else tokens.types

        def look_up(name: str, rows: int, ids: Int[Array, "b l"]) -> Array:
            return Embed(rows, config.hidden, dtype, name=name)(ids)

        x = (
            look_up("word", config.vocab_size, tokens.ids)
            + look_up("position", config.max_positions, position)
            + look_up("token_type", config.type_vocab, types)
        )
        x = nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(x)
        x = split_rows(RowDropout(config.dropout)(x, rows))
        layers = stack(Layer, config.layers, config.remat)(config, name="layers")
        x, _ = layers(x, tokens, rows)
        return x
