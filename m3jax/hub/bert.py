"""BERT's names: Hugging Face's tensors and config.json, and ours."""

from collections.abc import Mapping
from typing import Any

from m3jax.core.errors import InputError
from m3jax.hub.fields import floats, sizes
from m3jax.nn.bert import BertConfig

# Our module -> theirs; `#` stands for the number of a layer.
MODULES = {
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
    "mlp_head": "pooler.dense",
}
# The head of a cross-encoder, of either kind.
BERT_CLASSIFIER = {
    "classifier.dense": "pooler.dense",
    "classifier.out": "classifier",
}
ROBERTA_CLASSIFIER = {
    "classifier.dense": "classifier.dense",
    "classifier.out": "classifier.out_proj",
}
# What the tensors of a model with a task head begin with.
PREFIXES = ("bert.", "roberta.")
# Tensors that an embedding does not depend on.
IGNORED = ("pooler.", "cls.", "lm_head.", "embeddings.position_ids")

_ROBERTA = ("roberta", "xlm-roberta")
TYPES = ("bert", *_ROBERTA)
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
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def to_config(config: BertConfig, *, pad_id: int) -> dict[str, Any]:
    """Content of config.json.

    Args:
        config: the encoder.
        pad_id: id of the padding token; where positions do not begin at 0, they begin
            after it, and the model is an XLM-R.

    Returns:
        JSON values under Hugging Face's keys.

    Raises:
        InputError: positions begin neither at 0 nor after the padding token.

    Example:
        >>> to_config(BertConfig(), pad_id=0)["num_hidden_layers"]
        12
    """
    kind, model = "bert", "BertModel"
    if config.first_position:
        kind, model = "xlm-roberta", "XLMRobertaModel"
        if config.first_position != pad_id + 1:
            raise InputError(
                f"first_position {pad_id + 1}, after the padding token's id",
                f"{config.first_position}",
            )
    fields = {**_SIZES, **_NUMBERS}
    return {
        "architectures": [model],
        "model_type": kind,
        **_FIXED,
        **{key: getattr(config, field) for key, field in fields.items()},
        # Our attention drops no weights.
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "pad_token_id": pad_id,
    }


def from_config(config: Mapping[str, Any], *, where: str = "config.json") -> BertConfig:
    """The encoder that a config.json describes; a key that is absent is bert-base's.

    Args:
        config: content of config.json, of a type in `TYPES`.
        where: the file, for messages.

    Returns:
        The configuration, computed in float32.

    Raises:
        InputError: something that this encoder does not do, or a wrong number.

    Example:
        >>> from_config({"model_type": "bert", "hidden_act": "relu"})
        Traceback (most recent call last):
        m3jax.core.errors.InputError: config.json: hidden_act: expected 'gelu', \
found 'relu'
    """
    for key, value in _FIXED.items():
        if (found := config.get(key, value)) != value:
            raise InputError(repr(value), repr(found), where=f"{where}: {key}")
    fields: dict[str, Any] = {
        **sizes(config, _SIZES, BertConfig, where=where),
        **floats(config, _NUMBERS, BertConfig, where=where, below=1),
    }
    if config["model_type"] in _ROBERTA:
        pad_id = config.get("pad_token_id", 1)
        if type(pad_id) is not int or not 0 <= pad_id < fields["max_positions"] - 1:
            raise InputError(
                "the id of the padding token",
                repr(pad_id),
                where=f"{where}: pad_token_id",
            )
        fields["first_position"] = pad_id + 1
    return BertConfig(**fields)
