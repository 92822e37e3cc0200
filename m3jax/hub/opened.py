"""Everything of an embedding model but its parameters, and where these are."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
from tokenizers import normalizers

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import families, layout, tensors, torch_file
from m3jax.hub.fetch import fetch
from m3jax.hub.fields import architectures
from m3jax.hub.layout import Layout, read_json
from m3jax.hub.model_files import (
    HEADS,
    Part,
    Where,
    check,
    find,
    known,
    names_of,
    place_all,
)
from m3jax.hub.weights import Names
from m3jax.nn import embedding
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dtype
from m3jax.nn.qwen import QwenConfig

HEAD_NAMES = {head: Names({head: ""}) for head in HEADS}
DENSE_NAMES = Names({"mlp_head": "linear"})
# What no other file says.
OWN = "m3jax.json"
# Qwen's embedding models end every text with it, whatever their eos_token is.
_END = "<|endoftext|>"


@dataclass(frozen=True)
class Model:
    """Everything that turns a text into an embedding."""

    config: EmbeddingConfig
    """Encoder and heads."""
    params: Params
    """Their parameters."""
    tokenizer: Tokenizer
    """Texts to ids."""
    max_length: int
    """Longest text in tokens, special ones counted."""
    prompts: Prompts
    """What stands before queries and passages."""


def open_model(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    pooling: Pooling | None = None,
    like: str | None = None,
    revision: str | None = None,
    default_pooling: Pooling | None = None,
) -> tuple[Model, Callable[[Where], Params]]:
    """Read everything of a model but its parameters; else as `folder.load`.

    A folder that states no pooling has `default_pooling`, where one is given.

    Returns:
        The model, whose params are None, and a function that reads these to where they
        belong.

    Raises:
        InputError: as `folder.load`; what is wrong with the weights shows when they are
            read.
    """
    model, parts = open_parts(
        path,
        dtype=dtype,
        pooling=pooling,
        like=like,
        revision=revision,
        default_pooling=default_pooling,
    )
    return model, lambda to: place_all(parts(), to, dtype=jax.numpy.dtype(dtype))


def open_parts(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    pooling: Pooling | None = None,
    like: str | None = None,
    revision: str | None = None,
    default_pooling: Pooling | None = None,
) -> tuple[Model, Callable[[], list[Part]]]:
    """As `open_model`, but with a function that opens the files and reads nothing.

    Returns:
        The model, whose params are None, and a function that says where they are.

    Raises:
        InputError: as `open_model`.
    """
    _require_one_of(pooling, get_args(Pooling), "pooling")
    _require_one_of(dtype, get_args(Dtype), "dtype")
    published = known(path, like)
    if published is not None and not isinstance(published.config, EmbeddingConfig):
        raise InputError(
            "an embedding model",
            "a reranker",
            where=str(path),
            do="Use m3jax.Reranker.",
        )
    folder = find(fetch(path, revision=revision))
    heads = {head: folder / file for head, file in HEADS.items()}
    heads = {head: file for head, file in heads.items() if file.is_file()}
    if len(heads) == 1 and not (folder / OWN).is_file():
        lost = next(file for head, file in HEADS.items() if head not in heads)
        raise InputError(
            f"{lost} beside {HEADS[next(iter(heads))]}, as FlagEmbedding writes them",
            "none",
            where=str(folder),
            do="Fetch it, or remove the other to use the dense head alone.",
        )
    found = layout.read(folder)
    own = _read_own(folder / OWN)
    inner = folder / found.encoder
    where = str(inner / "config.json")
    content = read_json(inner / "config.json")
    family = families.by_type(content, where=where)
    names = architectures(content, where=where)
    if any("SequenceClass" in name for name in names):
        raise _is_reranker(where)
    if published is None:
        families.check_code(content, where=where)
    encoder = family.from_config(content, where=where)
    asked = None
    if published is not None:
        assert isinstance(published.config, EmbeddingConfig)  # refused above
        asked = published.config
        if type(asked.encoder) is not type(encoder):
            raise InputError(
                f"a model like it: {type(asked.encoder).__name__}",
                type(encoder).__name__,
                where=f"like={like}" if like else where,
            )
    tokenizer = tokenize.load(inner)
    if found.lowercase:
        tokenizer = _lowercased(tokenizer)
    prompts = dataclasses.replace(found.prompts, task=own.get("task", ""))
    limit = found.max_length
    if published is not None and asked is not None:
        prompts = Prompts(published.query, published.passage, published.task)
        limit = published.max_length
        wanted = asked.encoder
        if isinstance(encoder, QwenConfig) and isinstance(wanted, QwenConfig):
            encoder = dataclasses.replace(encoder, attention=wanted.attention)
    stated = (asked.pooling if asked else None) or found.pooling or default_pooling
    if stated is None and pooling is None and isinstance(encoder, QwenConfig):
        raise InputError(
            "a pooling",
            "none in the folder of a language model",
            where=str(inner),
            do='Name pooling="last" (Qwen3-Embedding) or "mean" (KaLM), or like=.',
        )
    stated = stated or ("cls" if heads else "mean")
    if pooling == "mcls" and stated != "cls":
        raise InputError(
            "a model with pooling cls, for mcls", f"pooling {stated}", where="pooling"
        )
    stored = {head: torch_file.read(file) for head, file in heads.items()}
    config = EmbeddingConfig(
        dataclasses.replace(encoder, dtype=dtype),
        pooling or stated,
        mlp_head=_mlp_head(found, own, asked),
        sparse="sparse" in heads,
        multivec=_width(stored["multivec"]) if "multivec" in heads else None,
        special_ids=tokenizer.special_ids if "sparse" in heads else (),
    )
    if config.pooling == "last" and isinstance(encoder, QwenConfig):
        final = published.final_token if published is not None else ""
        if final or tokenizer.backend.token_to_id(_END) is not None:
            tokenizer = tokenize.ending_with(tokenizer, final or _END)
    most = encoder.max_length
    model = Model(config, None, tokenizer, min(limit or most, most), prompts)
    check(encoder, tokenizer, model.max_length, where=str(inner))

    return model, functools.partial(_parts, config, inner, folder, found.dense, stored)


def _parts(
    config: EmbeddingConfig,
    inner: Path,
    folder: Path,
    dense: str | None,
    stored: dict[str, Any],
) -> list[Part]:
    """The encoder, perhaps a linear layer, and the heads that have files."""
    module = EmbeddingModule(config)
    shapes = jax.eval_shape(lambda: embedding.init(module, jax.random.key(0)))
    main, file = tensors.read_weights(inner)
    apart = {*HEADS, *(["mlp_head"] if dense else [])}
    like = {key: tree for key, tree in shapes.items() if key not in apart}
    parts = [Part(like, main, names_of(config.encoder), str(file))]
    if dense:
        linear, file = tensors.read_weights(folder, dense)
        like = {"mlp_head": shapes["mlp_head"]}
        parts.append(Part(like, linear, DENSE_NAMES, str(file)))
    for head, tensor in stored.items():
        where = str(folder / HEADS[head])
        parts.append(Part({head: shapes[head]}, tensor, HEAD_NAMES[head], where))
    return parts


def _require_one_of(value: Any, known: tuple[str, ...], where: str) -> None:
    if value is not None and value not in known:
        raise InputError(f"one of {', '.join(known)}", repr(value), where=where)


def _read_own(path: Path) -> dict[str, str]:
    """Our own file, which a folder of somebody else lacks."""
    if not path.is_file():
        return {}
    own = read_json(path)
    heads = ("none", "training", "always")
    if own.get("mlp_head", "none") not in heads or not isinstance(
        own.get("task", ""), str
    ):
        expected = f"mlp_head one of {', '.join(heads)}, and a task that is a text"
        raise InputError(expected, repr(own)[:80], where=str(path))
    return own


def _is_reranker(where: str) -> InputError:
    return InputError(
        "an embedding model", "a reranker", where=where, do="Use m3jax.Reranker."
    )


def _mlp_head(found: Layout, own: dict[str, Any], asked: EmbeddingConfig | None) -> Any:
    """SimCSE's head: by the folder's own files, else by the zoo."""
    if found.dense:
        return "always"
    return own.get("mlp_head") or (asked.mlp_head if asked else "none")


def _width(stored: tensors.Stored) -> int | None:
    """Width of the token vectors, by the head's file."""
    weight = stored.get("weight")
    return weight.shape[0] if weight is not None and len(weight.shape) == 2 else 1


def _lowercased(tokenizer: Tokenizer) -> Tokenizer:
    """Put lowercasing before whatever the tokenizer does to a text."""
    before = tokenizer.backend.normalizer
    steps = [normalizers.Lowercase(), *([] if before is None else [before])]
    tokenizer.backend.normalizer = normalizers.Sequence(steps)
    return tokenizer
