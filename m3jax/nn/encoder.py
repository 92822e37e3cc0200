"""The encoders by their configs, and how all parameters of a model are divided."""

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from m3jax.core.types import Params, Tokens
from m3jax.nn import bert, masked_lm, qwen, retromae
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.qwen import Qwen, QwenConfig

EncoderConfig = BertConfig | QwenConfig

# First match wins; heads and low-rank pairs are small, so every device has them whole.
SHARDING = {
    r"\.lora_(a|b|scale)$": P(),
    r"(^|\.)(mlp_head|sparse|multivec|classifier)\.": P(),
    # Not over the vocabulary: Qwen3-Reranker has 151,669 rows.
    r"(^|\.)lm_head\.kernel$": P("fsdp", None),
    **masked_lm.SHARDING,
    **retromae.SHARDING,
    **qwen.SHARDING,
    **bert.SHARDING,
}


def make_encoder(config: EncoderConfig) -> nn.Module:
    """Make the module of a config; its parameters stand under `encoder`.

    Example:
        >>> type(make_encoder(QwenConfig())).__name__
        'Qwen'
    """
    if isinstance(config, BertConfig):
        return Bert(config, name="encoder")
    return Qwen(config, name="encoder")


def hidden_states(
    config: EncoderConfig,
    params: Params,
    tokens: Tokens,
    *,
    rng: jax.Array | None = None,
    rows: Int[Array, " b"] | None = None,
) -> Float[Array, "b l d"]:
    """Texts to the states of the last layer, without any head.

    Args:
        config: of the encoder.
        params: of the model.
        tokens: ids and mask `[b l]`.
        rng: key for dropout; None = no dropout.
        rows: one number a text that decides its dropout mask, given with `rng`.

    Returns:
        States in the computation dtype.

    Raises:
        InputError: as the encoder.
    """
    states = make_encoder(config).apply(
        {"params": params["encoder"]},
        tokens,
        None if rng is None else rows,
        rngs=None if rng is None else {"dropout": rng},
    )
    assert isinstance(states, jax.Array)  # no mutable state comes with it
    return states
