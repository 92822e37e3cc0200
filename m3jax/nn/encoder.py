"""The encoders by their configs, and how all parameters of a model are divided."""

import flax.linen as nn
from jax.sharding import PartitionSpec as P

from m3jax.nn import bert, qwen
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.qwen import Qwen, QwenConfig

EncoderConfig = BertConfig | QwenConfig

# First match wins; heads and low-rank pairs are small, so every device has them whole.
SHARDING = {
    r"\.lora_(a|b|scale)$": P(),
    r"(^|\.)(mlp_head|sparse|multivec|classifier)\.": P(),
    # Not over the vocabulary: Qwen3-Reranker has 151,669 rows.
    r"(^|\.)lm_head\.kernel$": P("fsdp", None),
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
