"""Published models by name: what they are and how their authors use them. Data only.

Sizes are here for planning (memory, compilation); a checkpoint's own config.json
decides when it is loaded.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from m3jax.core.errors import InputError
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig


@dataclass(frozen=True)
class Published:
    """One published model.

    Attributes:
        config: sizes, pooling and heads.
        query: text before a query.
        passage: text before a passage.
        task: text before a query whose task is told, with {task} in it.
        padding: side on which its tokenizer pads; embeddings do not depend on it.
        final_token: what every text has to end with; empty where the tokenizer's own
            template is right.
        max_length: longest text in tokens, as its authors use it.
        weights: use -> of the dense, sparse and multi-vector scores in a hybrid one.
    """

    config: EmbeddingConfig | RerankerConfig
    query: str = ""
    passage: str = ""
    task: str = ""
    padding: str = "right"
    final_token: str = ""
    max_length: int = 512
    weights: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"

_BASE = BertConfig()
_SMALL = BertConfig(hidden=384, mlp=1_536)
_LARGE = BertConfig(hidden=1_024, layers=24, heads=16, mlp=4_096)
_MINILM = dataclasses.replace(_SMALL, layers=6)
_ROBERTA = {"max_positions": 514, "type_vocab": 1, "norm_eps": 1e-5}
_XLMR = {**_ROBERTA, "vocab_size": 250_002, "first_position": 2}
_XLMR_BASE = dataclasses.replace(_BASE, **_XLMR)
_XLMR_LARGE = dataclasses.replace(_LARGE, **_XLMR)
_M3 = dataclasses.replace(_XLMR_LARGE, max_positions=8_194)
_M3_DENSE = EmbeddingConfig(_M3, "cls")

_QWEN3 = {
    "0.6B": QwenConfig(),
    "4B": QwenConfig(151_665, 2_560, 36, 32, 8, 128, 9_728, 40_960),
    "8B": QwenConfig(151_665, 4_096, 36, 32, 8, 128, 12_288, 40_960),
}
_KALM = QwenConfig(
    151_936, 896, 24, 14, 2, 64, 4_864, 131_072, qkv_bias=True, qk_norm=False
)
_KALM_V2 = dataclasses.replace(_KALM, attention="bidirectional")


def _e5(encoder: BertConfig) -> Published:
    return Published(EmbeddingConfig(encoder), "query: ", "passage: ")


def _qwen_embedding(size: str) -> Published:
    task = "Instruct: {task}\nQuery:"
    return Published(
        EmbeddingConfig(_QWEN3[size], "last"),
        query=task.replace("{task}", _SEARCH),
        task=task,
        padding="left",
        final_token="<|endoftext|>",
        max_length=8_192,
    )


def _qwen_reranker(size: str) -> Published:
    encoder = dataclasses.replace(_QWEN3[size], vocab_size=151_669)
    encoder = dataclasses.replace(encoder, max_positions=40_960)
    config = RerankerConfig(encoder, "yes_no", tied=size != "8B")
    return Published(
        config, query=_SEARCH, task="{task}", padding="left", max_length=8_192
    )


def _kalm(encoder: QwenConfig, *, instruct: bool = True) -> Published:
    task = "Instruct: {task} \n Query: " if instruct else ""
    return Published(EmbeddingConfig(encoder), task=task)


def _simcse(encoder: BertConfig, supervised: str) -> Published:
    head = "always" if supervised == "sup" else "training"
    return Published(EmbeddingConfig(encoder, "cls", head), max_length=128)


_ROBERTA_BASE = dataclasses.replace(_XLMR_BASE, vocab_size=50_265)
_ROBERTA_LARGE = dataclasses.replace(_XLMR_LARGE, vocab_size=50_265)
_SIMCSE = {
    "bert-base-uncased": _BASE,
    "bert-large-uncased": _LARGE,
    "roberta-base": _ROBERTA_BASE,
    "roberta-large": _ROBERTA_LARGE,
}
_E5_SIZES = {"small": _SMALL, "base": _BASE, "large": _LARGE}

# Language models that embedding models are made of: encoders alone.
ENCODERS: dict[str, BertConfig | QwenConfig] = {
    "google-bert/bert-base-uncased": _BASE,
    "google-bert/bert-large-uncased": _LARGE,
    "google-bert/bert-large-uncased-whole-word-masking": _LARGE,
    "microsoft/MiniLM-L12-H384-uncased": _SMALL,
    "FacebookAI/roberta-base": _ROBERTA_BASE,
    "FacebookAI/roberta-large": _ROBERTA_LARGE,
    "FacebookAI/xlm-roberta-base": _XLMR_BASE,
    "FacebookAI/xlm-roberta-large": _XLMR_LARGE,
    "xlm-roberta-large-8192": _M3,  # as configs/bge_m3/retromae.py has it made
    "Qwen/Qwen2-0.5B": _KALM,
    **{
        f"Qwen/Qwen3-{size}-Base": dataclasses.replace(
            config, vocab_size=151_936, max_positions=32_768
        )
        for size, config in _QWEN3.items()
    },
}

ZOO: dict[str, Published] = {
    "BAAI/bge-m3": Published(
        EmbeddingConfig(
            _M3, "cls", sparse=True, multivec=1_024, special_ids=(0, 1, 2, 3)
        ),
        max_length=8_192,
        # Of MIRACL and MKQA, and of MLDR (arXiv:2402.03216v4).
        weights={
            "passages": (1.0, 0.3, 1.0),
            "passages, dense and sparse": (1.0, 0.3, 0.0),
            "documents": (0.15, 0.5, 0.35),
            "documents, dense and sparse": (0.2, 0.8, 0.0),
        },
    ),
    "BAAI/bge-m3-unsupervised": Published(_M3_DENSE, max_length=8_192),
    "BAAI/bge-m3-retromae": Published(_M3_DENSE, max_length=8_192),
    "BAAI/bge-reranker-v2-m3": Published(
        RerankerConfig(_M3, "classifier"), max_length=8_192
    ),
    **{f"intfloat/e5-{size}": _e5(encoder) for size, encoder in _E5_SIZES.items()},
    **{f"intfloat/e5-{size}-v2": _e5(encoder) for size, encoder in _E5_SIZES.items()},
    # A MiniLM with XLM-R's vocabulary: its positions start at 0.
    "intfloat/multilingual-e5-small": _e5(
        dataclasses.replace(_SMALL, vocab_size=250_037)
    ),
    "intfloat/multilingual-e5-base": _e5(_XLMR_BASE),
    "intfloat/multilingual-e5-large": _e5(_XLMR_LARGE),
    "intfloat/multilingual-e5-large-instruct": Published(
        EmbeddingConfig(_XLMR_LARGE),
        query=f"Instruct: {_SEARCH}\nQuery: ",
        task="Instruct: {task}\nQuery: ",
    ),
    **{f"Qwen/Qwen3-Embedding-{size}": _qwen_embedding(size) for size in _QWEN3},
    **{f"Qwen/Qwen3-Reranker-{size}": _qwen_reranker(size) for size in _QWEN3},
    "HIT-TMG/KaLM-embedding-multilingual-mini-v1": _kalm(_KALM, instruct=False),
    "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1": _kalm(_KALM),
    "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1.5": _kalm(_KALM),
    "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v2": _kalm(_KALM_V2),
    **{
        f"princeton-nlp/{kind}-simcse-{name}": _simcse(encoder, kind)
        for kind in ("unsup", "sup")
        for name, encoder in _SIMCSE.items()
    },
    "sentence-transformers/all-MiniLM-L6-v2": Published(
        EmbeddingConfig(_MINILM), max_length=256
    ),
}


def find(name: str) -> Published:
    """Look a model up by its hub id.

    Args:
        name: as on the hub; case does not matter.

    Returns:
        What is known about it.

    Raises:
        InputError: the table has no such model.

    Example:
        >>> find("baai/bge-m3").max_length
        8192
    """
    return _look_up(ZOO, name)


def find_encoder(name: str) -> BertConfig | QwenConfig:
    """Look an encoder up, or that of an embedding model or a reranker.

    Args:
        name: as on the hub; case does not matter.

    Returns:
        Its sizes.

    Raises:
        InputError: the tables have no such model.

    Example:
        >>> find_encoder("Qwen/Qwen3-8B-Base").layers
        36
    """
    of_models = {key: value.config.encoder for key, value in ZOO.items()}
    return _look_up(ENCODERS | of_models, name)


def _look_up(table: dict[str, Any], name: str) -> Any:
    known = {key.lower(): value for key, value in table.items()}
    if name.lower() not in known:
        raise InputError(
            "a model of m3jax.nn.zoo", name, do=f"It knows {', '.join(table)}."
        )
    return known[name.lower()]
