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


def check_code(config: Mapping[str, Any], *, where: str) -> None:
    """Refuse a decoder whose folder brings code that may change its attention.

    Such code, of KaLM V2 and gte-Qwen2 for instance, makes a causal model
    bidirectional, and nothing else in the folder says so. For models that `nn.zoo`
    does not know: the zoo says what their attention is.

    Args:
        config: content of config.json, of a type that `by_type` knows.
        where: the file, for messages.

    Raises:
        InputError: there is code of a model, and no is_causal.

    Example:
        >>> check_code({"model_type": "qwen2"}, where="config.json")
        >>> check_code(
        ...     {"model_type": "qwen2", "auto_map": {"AutoModel": "own.Model"}},
        ...     where="config.json",
        ... )
        Traceback (most recent call last):
        m3jax.core.errors.InputError: config.json: auto_map: expected a model without \
code of its own, which is never run here, found {'AutoModel': 'own.Model'}. Name with \
`like` the model of m3jax.nn.zoo that it is trained from, or write "is_causal": true \
or "is_causal": false into config.json.
    """
    code = config.get("auto_map")
    if not code or "is_causal" in config or by_type(config, where=where) is not qwen:
        return
    raise InputError(
        "a model without code of its own, which is never run here",
        repr(code)[:80],
        where=f"{where}: auto_map",
        do="Name with `like` the model of m3jax.nn.zoo that it is trained from, or "
        'write "is_causal": true or "is_causal": false into config.json.',
    )


def by_config(config: EncoderConfig) -> ModuleType:
    """The family of an encoder.

    Example:
        >>> by_config(BertConfig()).__name__
        'm3jax.hub.bert'
    """
    return bert if isinstance(config, BertConfig) else qwen
