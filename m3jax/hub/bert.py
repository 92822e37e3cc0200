"""BERT's names: Hugging Face's tensors and config.json, and ours.

A linear layer is `[in, out]` here and `[out, in]` there.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.ops.pooling import Pooling

# Our module -> theirs; `#` stands for the number of a layer.
_MODULES = {
    "encoder.word": "embeddings.word_embeddings",
    "encoder.position": "embeddings.position_embeddings",
    "encoder.token_type": "embeddings.token_type_embeddings",
    "encoder.norm": "embeddings.LayerNorm",
    "encoder.layers.#.attention.query": "encoder.layer.#.attention.self.query",
    "encoder.layers.#.attention.key": "encoder.layer.#.attention.self.key",
    "encoder.layers.#.attention.value": "encoder.layer.#.attention.self.value",
    "encoder.layers.#.attention.output": "encoder.layer.#.attention.output.dense",
    "encoder.layers.#.attention.norm": "encoder.layer.#.attention.output.LayerNorm",
    "encoder.layers.#.mlp.up": "encoder.layer.#.intermediate.dense",
    "encoder.layers.#.mlp.down": "encoder.layer.#.output.dense",
    "encoder.layers.#.mlp.norm": "encoder.layer.#.output.LayerNorm",
}
# Our leaf -> theirs; a kernel is transposed as well.
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "embedding": "weight",
}
# Tensors that an embedding does not depend on.
_IGNORED = ("pooler.", "cls.", "embeddings.position_ids")
# What the first BERT releases, and bert-base-uncased to this day, call the norms.
_OLD_LEAVES = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
}

# config.json -> field of BertConfig; the defaults of both are those of bert-base.
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "max_position_embeddings": "max_positions",
    "type_vocab_size": "type_vocab",
}
_NUMBERS = {"hidden_dropout_prob": "dropout", "layer_norm_eps": "norm_eps"}
# What config.json must say where it says anything: our encoder does nothing else.
_FIXED = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def to_published(params: Params) -> dict[str, np.ndarray]:
    """Parameters as the tensors of a Hugging Face `BertModel`.

    Args:
        params: parameters of an `EmbeddingModule`, on host or device.

    Returns:
        Published name -> float32 array.

    Example:
        >>> tables = {"word": {"embedding": np.ones((3, 2))}}
        >>> list(to_published({"encoder": tables}))
        ['embeddings.word_embeddings.weight']
    """
    tensors = {}
    for name, tensor in tree.named(jax.device_get(params)).items():
        tensor = tensor.T if _is_transposed(name) else tensor
        tensors[_published(name)] = np.ascontiguousarray(tensor, np.float32)
    return tensors


def from_published(
    tensors: Mapping[str, np.ndarray], like: Params, *, where: str = ""
) -> Params:
    """Parameters from the tensors of a Hugging Face `BertModel`.

    Names may begin with `bert.`, as in a model with a task head; the head itself
    (`cls.*`), the pooler and the position ids are passed over.

    Args:
        tensors: published name -> array of any float type.
        like: parameters, or their shapes, that say what is expected.
        where: the file, for messages.

    Returns:
        A tree like `like`, of float32 numpy arrays.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.

    Example:
        >>> like = {"encoder": {"word": {"embedding": np.ones((3, 2))}}}
        >>> tensors = {"bert.embeddings.word_embeddings.weight": np.zeros((3, 2))}
        >>> from_published(tensors, like)["encoder"]["word"]["embedding"].shape
        (3, 2)
    """
    left = {_plain(name): name for name in tensors}
    if len(left) != len(tensors):
        twice = sorted(set(tensors) - set(left.values()))
        raise InputError("each tensor once", f"{twice[0]} twice", where=where)
    ours = {}
    for name, expected in tree.named(_stand_ins(like)).items():
        published = _published(name)
        if published not in left:
            raise InputError(f"a tensor {published}", "none", where=where)
        tensor = tensors[left.pop(published)]
        tensor = tensor.T if _is_transposed(name) else tensor
        if tensor.shape != expected.shape:
            shapes = expected.shape, tensor.shape
            if _is_transposed(name):
                shapes = shapes[0][::-1], shapes[1][::-1]
            raise InputError(
                f"shape {shapes[0]} for {published}", f"{shapes[1]}", where=where
            )
        ours[name] = tensor.astype(np.float32)
    left = {name: found for name, found in left.items() if not _is_ignored(name)}
    if left:
        raise InputError(
            "the tensors of a BERT encoder",
            f"also {', '.join(sorted(left.values()))}",
            where=where,
        )
    return tree.from_named(ours, like)


def to_config(config: EmbeddingConfig, *, pad_id: int = 0) -> dict[str, Any]:
    """Content of config.json; the pooling is not part of it.

    Args:
        config: the model.
        pad_id: id of the padding token.

    Returns:
        JSON values under Hugging Face's keys.

    Example:
        >>> to_config(EmbeddingConfig())["num_hidden_layers"]
        12
    """
    fields = {**_SIZES, **_NUMBERS}
    return {
        "architectures": ["BertModel"],
        **_FIXED,
        **{key: getattr(config.encoder, field) for key, field in fields.items()},
        # Our attention drops no weights.
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "pad_token_id": pad_id,
        # The key before and after transformers 4.56.
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def from_config(
    config: Mapping[str, Any], pooling: Pooling, *, where: str = "config.json"
) -> EmbeddingConfig:
    """The model that a config.json describes; a key that is absent is bert-base's.

    Args:
        config: content of config.json.
        pooling: how the dense vector comes from the states.
        where: the file, for messages.

    Returns:
        The configuration, computed in float32.

    Raises:
        InputError: another kind of model, or a size that is not a positive integer.

    Example:
        >>> from_config({"model_type": "gpt2"}, "mean")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: config.json: model_type: expected 'bert', \
found 'gpt2'
    """
    for key, value in _FIXED.items():
        # Old files say nothing of most of these, but each names its model type.
        found = config.get(key, None if key == "model_type" else value)
        if found != value:
            raise InputError(repr(value), repr(found), where=f"{where}: {key}")
    fields: dict[str, Any] = {}
    for key, field in _SIZES.items():
        size = config.get(key, getattr(BertConfig, field))
        if type(size) is not int or size < 1:
            raise InputError("a positive integer", repr(size), where=f"{where}: {key}")
        fields[field] = size
    for key, field in _NUMBERS.items():
        number = config.get(key, getattr(BertConfig, field))
        if type(number) not in (int, float) or not 0 <= number < 1:
            raise InputError(
                "a number from 0 to below 1", repr(number), where=f"{where}: {key}"
            )
        fields[field] = float(number)
    return EmbeddingConfig(BertConfig(**fields), pooling)


def _published(name: str) -> str:
    """Their name of one of our tensors."""
    module, leaf = name.rsplit(".", 1)
    parts = module.split(".")
    layer = next((part for part in parts if part.isdigit()), "#")
    row = ".".join("#" if part == layer else part for part in parts)
    return f"{_MODULES[row].replace('#', layer)}.{_LEAVES[leaf]}"


def _is_transposed(name: str) -> bool:
    return name.endswith(".kernel")


def _plain(name: str) -> str:
    """Their name without prefix and in today's words."""
    name = name.removeprefix("bert.")
    for old, new in _OLD_LEAVES.items():
        name = name.replace(old, new)
    return name


def _is_ignored(name: str) -> bool:
    return name.startswith(_IGNORED)


def _stand_ins(like: Params) -> Params:
    """Arrays of the right shapes that take no memory; a shape alone has no layers."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), like)
