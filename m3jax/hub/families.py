"""Which module knows the names of which model."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from m3jax.core.errors import InputError
from m3jax.hub import bert, qwen
from m3jax.nn.bert import BertConfig
from m3jax.nn.encoder import EncoderConfig

# Each has TYPES, MODULES, PREFIXES, IGNORED, from_config and to_config.
_FAMILIES = (bert, qwen)


def by_type(config: Mapping[str, Any], *, where: str) -> ModuleType:
    """The family of a config.json.

    Raises:
        InputError: m3jax has no such architecture.

    Example:
        >>> by_type({"model_type": "gpt2"}, where="config.json")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: config.json: model_type: expected one of bert, \
roberta, xlm-roberta, qwen2, qwen3, found 'gpt2'
    """
    kind = config.get("model_type")
    for family in _FAMILIES:
        if kind in family.TYPES:
            return family
    known = ", ".join(kind for family in _FAMILIES for kind in family.TYPES)
    raise InputError(f"one of {known}", repr(kind), where=f"{where}: model_type")


def by_config(config: EncoderConfig) -> ModuleType:
    """The family of an encoder.

    Example:
        >>> by_config(BertConfig()).__name__
        'm3jax.hub.bert'
    """
    return bert if isinstance(config, BertConfig) else qwen
