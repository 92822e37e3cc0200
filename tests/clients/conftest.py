"""Small models of every family, their exports, and the interpreter of the clients.

The clients need torch, which m3jax does not. Set M3JAX_PEERS to the Python interpreter
of an environment with torch, transformers, sentence-transformers, FlagEmbedding, mteb
and m3jax itself to run the tests of this folder.
"""

import dataclasses
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.data.vocabulary import TokenizerConfig, train
from m3jax.hub import tensors
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker
from m3jax.nn import embedding, lora, reranker
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.lora import LoraConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig, RerankerModule

PEERS = os.environ.get("M3JAX_PEERS", "")
HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
CORPUS = [
    "The cell is the smallest unit of life, and every organism is made of cells.",
    "Bread is made of flour, water, salt and a little yeast; the yeast makes it rise.",
    "Straßen und Plätze füllen sich am Abend, wenn die Hitze nachlässt.",
    "La rivière descend des collines jusqu'à la mer, 37 kilomètres plus loin.",
    "東京は日本の首都で、人口が最も多い都市です。",
]
# What a golden folder does not say itself.
SIMCSE = "princeton-nlp/sup-simcse-bert-base-uncased"
LIKE = {"bert": None, "m3": None, "qwen2": None, "qwen3": None, "simcse": SIMCSE}


@pytest.fixture(scope="session")
def peer() -> Callable[..., str]:
    """Run a script of this folder, or other arguments, under the clients' Python."""
    if not PEERS:
        pytest.skip("M3JAX_PEERS names no interpreter with torch and the clients")

    def run(*args: str | Path) -> str:
        args = tuple(HERE / arg if str(arg).endswith(".py") else arg for arg in args)
        offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        command = [PEERS, *map(str, args)]
        environment = {**os.environ, **offline}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of all lengths, most with something that tokenizers treat differently."""
    return [
        "what is a cell?",
        "",
        "A",
        "ÄRGER  über Straßen\tund  Plätze",
        "東京の人口",
        "unknown \U0001f9ec sign, and e\u0301 in two parts",
        " ".join(CORPUS) * 3,  # longer than any max_length here
    ]


def random(shapes: Params, seed: int = 1) -> Params:
    """Far from what they begin as, so that every parameter shows."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        centre = float(path[-1].key == "scale")  # of a norm
        values = rng.normal(centre, 0.3, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def embedder(
    encoder: Any, tokenizer: Tokenizer, pooling: Any = "cls", **heads: Any
) -> Embedder:
    module = EmbeddingModule(EmbeddingConfig(encoder, pooling, **heads))
    shapes = jax.eval_shape(lambda: embedding.init(module, jax.random.key(0)))
    prompts = Prompts("query: ", "Passage |\n ")
    return Embedder(module, random(shapes), tokenizer, prompts, 40)


def cross(encoder: Any, tokenizer: Tokenizer, seed: int, **options: Any) -> Reranker:
    module = RerankerModule(RerankerConfig(encoder, **options))
    shapes = jax.eval_shape(lambda: reranker.init(module, jax.random.key(0)))
    return Reranker(module, random(shapes, seed), tokenizer, encoder.max_length)


def bert(tokenizer: Tokenizer, **changes: Any) -> BertConfig:
    size = BertConfig(tokenizer.vocab_size, 32, 3, 4, 64, 48, norm_eps=1e-5)
    return dataclasses.replace(size, **changes)


def xlmr(tokenizer: Tokenizer) -> BertConfig:
    return bert(tokenizer, max_positions=130, type_vocab=1, first_position=2)


def qwen(tokenizer: Tokenizer, kind: int, **changes: Any) -> QwenConfig:
    """Qwen2, or Qwen3, whose heads are wider than hidden / heads."""
    width, third = (8, False) if kind == 2 else (12, True)
    rows = tokenizer.vocab_size + 5  # more than there are tokens, as published
    size = QwenConfig(rows, 32, 3, 4, 2, width, 64, 64, norm_eps=1e-5)
    return dataclasses.replace(size, qkv_bias=not third, qk_norm=third, **changes)


def with_pairs(model: Embedder) -> Embedder:
    """The same with low-rank pairs that change it."""
    params = lora.add(model.params, LoraConfig(rank=2), jax.random.key(2))
    return dataclasses.replace(model, params=random(params, 3))


def in_bfloat16(model: Embedder) -> Embedder:
    config = model.module.config
    encoder = dataclasses.replace(config.encoder, dtype="bfloat16")
    module = EmbeddingModule(dataclasses.replace(config, encoder=encoder))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.params)
    return dataclasses.replace(model, module=module, params=params)


@pytest.fixture(scope="session")
def embedders(peer) -> dict[str, Embedder]:
    """Name -> model; those of golden folders have their names."""
    del peer  # nothing is made where there is no client
    words = train(CORPUS * 4, TokenizerConfig(vocab_size=160))
    pieces, last = tokenize.load(GOLDEN / "m3"), tokenize.load(GOLDEN / "qwen2")
    # As in older exports of Qwen3-Embedding, where nothing is appended.
    bytes_ = tokenize.load(GOLDEN / "reranker_qwen3")
    bytes_ = tokenize.ending_with(bytes_, "<|endoftext|>")
    heads = {"sparse": True, "multivec": 32, "special_ids": pieces.special_ids}
    both: Any = {"attention": "bidirectional"}
    small = {
        "bert mean": embedder(bert(words), words, "mean"),
        "bert cls": embedder(bert(words), words, "cls"),
        "bert last": embedder(bert(words), words, "last"),
        "bert mlp head": embedder(bert(words), words, "cls", mlp_head="always"),
        "bert in training": embedder(bert(words), words, mlp_head="training"),
        "bert pairs": with_pairs(embedder(bert(words), words)),
        "bert bfloat16": in_bfloat16(embedder(bert(words), words, "mean")),
        "xlmr mean": embedder(xlmr(pieces), pieces, "mean"),
        "xlmr heads mean": embedder(xlmr(pieces), pieces, "mean", **heads),
        "qwen2 mean": embedder(qwen(last, 2), last, "mean"),
        "qwen2 bidirectional": embedder(qwen(last, 2, **both), last, "mean"),
        "qwen3 last": embedder(qwen(bytes_, 3), bytes_, "last"),
        "qwen3 bidirectional": embedder(qwen(bytes_, 3, **both), bytes_, "last"),
        "qwen3 pairs": with_pairs(embedder(qwen(bytes_, 3), bytes_, "last")),
        "qwen3 bfloat16": in_bfloat16(embedder(qwen(bytes_, 3), bytes_, "last")),
        "qwen3 sharded": embedder(qwen(bytes_, 3), bytes_, "last"),
    }
    golden = {
        name: Embedder.load(GOLDEN / name, like=like) for name, like in LIKE.items()
    }
    return small | golden | {"roberta": Embedder.load(GOLDEN / "roberta")}


@pytest.fixture(scope="session")
def rerankers(peer) -> dict[str, Reranker]:
    """Name -> model; those of golden folders have their names."""
    del peer
    words, pieces, bytes_ = (
        tokenize.load(GOLDEN / f"reranker_{name}") for name in ("bert", "xlmr", "qwen3")
    )
    yes, no = (bytes_.backend.token_to_id(word) for word in ("yes", "no"))
    long: Any = {"max_positions": 512}
    options: Any = {"head": "yes_no", "yes_no_ids": (yes, no)}
    small = {
        "bert": cross(bert(words, max_positions=96), words, 1),
        "xlmr": cross(xlmr(pieces), pieces, 2),
        "qwen3 tied": cross(qwen(bytes_, 3, **long), bytes_, 3, **options),
        "qwen3": cross(qwen(bytes_, 3, **long), bytes_, 4, tied=False, **options),
        "qwen2": cross(qwen(bytes_, 2, **long), bytes_, 5, tied=False, **options),
    }
    names = [path.name for path in sorted(GOLDEN.glob("reranker_*"))]
    return small | {name: Reranker.load(GOLDEN / name) for name in names}


@pytest.fixture(scope="session")
def exports(embedders, rerankers, tmp_path_factory) -> dict[str, Path]:
    """Name -> folder of everything, rerankers under "rerank NAME"."""
    folder = tmp_path_factory.mktemp("exports")
    models = {**embedders, **{f"rerank {k}": model for k, model in rerankers.items()}}
    paths = {name: folder / name.replace(" ", "-") for name in models}
    for name, model in models.items():
        with pytest.MonkeyPatch.context() as patch:
            if "sharded" in name:
                patch.setattr(tensors, "MAX_FILE", 30_000)
            model.save(paths[name])
    files = [*paths["qwen3 sharded"].glob("model-*.safetensors")]
    assert len(files) > 2
    return paths
