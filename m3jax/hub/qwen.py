"""Qwen2's and Qwen3's names: Hugging Face's tensors and config.json, and ours."""

import sys
from collections.abc import Mapping
from typing import Any

from m3jax.core.errors import InputError
from m3jax.hub.fields import floats, sizes
from m3jax.nn.qwen import QwenConfig

# Our module -> theirs; `#` stands for the number of a layer.
MODULES = {
    "encoder.word": "embed_tokens",
    "encoder.norm": "norm",
    "encoder.layers.#.attention.query": "layers.#.self_attn.q_proj",
    "encoder.layers.#.attention.key": "layers.#.self_attn.k_proj",
    "encoder.layers.#.attention.value": "layers.#.self_attn.v_proj",
    "encoder.layers.#.attention.output": "layers.#.self_attn.o_proj",
    "encoder.layers.#.attention.query_norm": "layers.#.self_attn.q_norm",
    "encoder.layers.#.attention.key_norm": "layers.#.self_attn.k_norm",
    "encoder.layers.#.attention_norm": "layers.#.input_layernorm",
    "encoder.layers.#.mlp.gate": "layers.#.mlp.gate_proj",
    "encoder.layers.#.mlp.up": "layers.#.mlp.up_proj",
    "encoder.layers.#.mlp.down": "layers.#.mlp.down_proj",
    "encoder.layers.#.mlp_norm": "layers.#.post_attention_layernorm",
    "lm_head": "lm_head",
}
PREFIXES = ("model.",)
# Tensors that an embedding does not depend on.
IGNORED = ("lm_head.", "rotary_emb.")

TYPES = ("qwen2", "qwen3")
_MODELS = {"qwen2": "Qwen2Model", "qwen3": "Qwen3Model"}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "max_position_embeddings": "max_positions",
}
_FIXED = {"hidden_act": "silu", "use_sliding_window": False}


def to_config(config: QwenConfig, *, pad_id: int) -> dict[str, Any]:
    """Content of config.json.

    Args:
        config: the encoder.
        pad_id: id of the padding token.

    Returns:
        JSON values under Hugging Face's keys.

    Raises:
        InputError: the encoder is neither a Qwen2 nor a Qwen3.

    Example:
        >>> to_config(QwenConfig(), pad_id=0)["model_type"]
        'qwen3'
    """
    kind = "qwen3" if config.qk_norm else "qwen2"
    if config.qkv_bias == config.qk_norm or (
        kind == "qwen2" and config.head_dim * config.heads != config.hidden
    ):
        raise InputError(
            "a Qwen2 (qkv_bias, heads x head_dim = hidden) or a Qwen3 (qk_norm)",
            f"qkv_bias={config.qkv_bias}, qk_norm={config.qk_norm}, heads x head_dim = "
            f"{config.heads * config.head_dim}, hidden={config.hidden}",
            where="encoder",
        )
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    return {
        "architectures": [_MODELS[kind]],
        "model_type": kind,
        **_FIXED,
        **{key: getattr(config, field) for key, field in _SIZES.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_eps,
        # The key before and since transformers 5.
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "initializer_range": 0.02,
        "is_causal": config.attention == "causal",
        "tie_word_embeddings": True,
        "pad_token_id": pad_id,
    }


def from_config(config: Mapping[str, Any], *, where: str = "config.json") -> QwenConfig:
    """The encoder that a config.json describes.

    Args:
        config: content of config.json, of a type in `TYPES`.
        where: the file, for messages.

    Returns:
        The configuration, computed in float32.

    Raises:
        InputError: something that this encoder does not do, or a wrong number.

    Example:
        >>> from_config({"model_type": "qwen3", "use_sliding_window": True})
        Traceback (most recent call last):
        m3jax.core.errors.InputError: config.json: use_sliding_window: expected \
False, found True
    """
    for key, value in _FIXED.items():
        if (found := config.get(key, value)) != value:
            raise InputError(repr(value), repr(found), where=f"{where}: {key}")
    third = config["model_type"] == "qwen3"
    if third and config.get("attention_bias"):
        raise InputError("False", "True", where=f"{where}: attention_bias")
    # A sizes file without them would be another model, so nothing has a default.
    for key in (*_SIZES, "num_key_value_heads", "rms_norm_eps"):
        if key not in config:
            raise InputError(f"a key {key}", "none", where=where)
    if third and "head_dim" not in config:
        raise InputError("a key head_dim", "none", where=where)
    fields: dict[str, Any] = {
        **sizes(config, _SIZES, None, where=where),
        **sizes(config, {"num_key_value_heads": "kv_heads"}, None, where=where),
        **floats(config, {"rms_norm_eps": "norm_eps"}, None, where=where, below=1),
    }
    width = config.get("head_dim") or fields["hidden"] // fields["heads"]
    fields |= sizes({"head_dim": width}, {"head_dim": "head_dim"}, None, where=where)
    causal = config.get("is_causal", True)
    if not isinstance(causal, bool):
        raise InputError("true or false", repr(causal), where=f"{where}: is_causal")
    return QwenConfig(
        **fields,
        rope_theta=_rope_theta(config, where),
        attention="causal" if causal else "bidirectional",
        qkv_bias=not third,
        qk_norm=third,
    )


def _rope_theta(config: Mapping[str, Any], where: str) -> float:
    """Base of the rotary frequencies, where they are plain."""
    rope: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        found = config.get(key) or {}
        if not isinstance(found, dict):
            raise InputError("an object", repr(found), where=f"{where}: {key}")
        kind = found.get("rope_type", found.get("type", "default"))
        if kind != "default":
            raise InputError("default", repr(kind), where=f"{where}: {key}")
        rope = found
    theta: Any = rope.get("rope_theta", config.get("rope_theta"))
    if type(theta) not in (int, float) or not 0 < theta <= sys.float_info.max:
        raise InputError("a positive number", repr(theta), where=f"{where}: rope_theta")
    return float(theta)
