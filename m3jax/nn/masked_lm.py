"""BERT's head for masked tokens; the word table makes logits of what it gives."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from m3jax.core.types import Params
from m3jax.nn.bert import BertConfig
from m3jax.nn.layers import Dense
from m3jax.nn.qwen import QwenConfig

# Under this name its parameters stand beside those of the encoder.
NAME = "mlm"


class MlmHead(nn.Module):
    """norm(gelu(dense(x))), in the computation dtype.

    Its parameter `bias` `[v]` belongs to the logits, which the loss makes.
    """

    config: BertConfig | QwenConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Transform hidden states."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.param("bias", nn.initializers.zeros, (config.vocab_size,))
        x = nn.gelu(Dense(config.hidden, dtype, name="dense")(x), approximate=False)
        return nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(x)


def init(config: BertConfig | QwenConfig, rng: jax.Array) -> Params:
    """Random parameters of the head, under their name.

    Example:
        >>> sorted(init(BertConfig(8, 4, 1, 1, 8, 4), jax.random.key(0))["mlm"])
        ['bias', 'dense', 'norm']
    """
    x = jnp.zeros((1, 1, config.hidden))
    return {NAME: MlmHead(config).init(rng, x)["params"]}


def transform(
    config: BertConfig | QwenConfig, params: Params, hidden: Float[Array, "b l d"]
) -> Float[Array, "b l d"]:
    """Hidden states as `losses.masked_lm` takes them.

    Args:
        config: of the encoder.
        params: of encoder and head.
        hidden: of the encoder, or of a decoder.

    Returns:
        States whose products with the word table, and the bias, are the logits.

    Source: Devlin et al. 2018 (arXiv:1810.04805), `BertLMPredictionHead` of
    transformers.

    Example:
        >>> config = BertConfig(8, 4, 1, 1, 8, 4)
        >>> params = init(config, jax.random.key(0))
        >>> transform(config, params, jnp.ones((2, 3, 4))).shape
        (2, 3, 4)
    """
    found = MlmHead(config).apply({"params": params[NAME]}, hidden)
    assert isinstance(found, jax.Array)  # no mutable state comes with it
    return found


def table(
    config: BertConfig | QwenConfig, params: Params
) -> tuple[Float[Array, "v d"], Float[Array, " v"]]:
    """The word table, which makes the logits, and their bias.

    The table is that of the encoder, in its computation dtype; a low-rank pair beside
    it is left out.

    Args:
        config: of the encoder.
        params: of encoder and head.

    Returns:
        Table and bias for `losses.masked_lm`.

    Example:
        >>> config = BertConfig(8, 4, 1, 1, 8, 4)
        >>> params = init(config, jax.random.key(0))
        >>> params["encoder"] = {"word": {"embedding": jnp.ones((8, 4))}}
        >>> [x.shape for x in table(config, params)]
        [(8, 4), (8,)]
    """
    words = params["encoder"]["word"]["embedding"]
    return words.astype(jnp.dtype(config.dtype)), params[NAME]["bias"]


# Small enough for every device to have it whole.
SHARDING = {rf"(^|\.){NAME}\.": P()}
