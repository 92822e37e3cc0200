"""An embedding model as a folder that m3jax and the usual clients open."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from tokenizers import normalizers

from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import families, layout, positions, tensors, torch_file, weights
from m3jax.hub.card import render
from m3jax.hub.fetch import fetch
from m3jax.hub.fields import architectures
from m3jax.hub.layout import Layout, read_json
from m3jax.hub.model_files import (
    HEADS,
    Where,
    check,
    config_json,
    find,
    known,
    names_of,
    place,
    write_main,
)
from m3jax.hub.positions import PositionInit
from m3jax.hub.weights import Names
from m3jax.nn import embedding, lora
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dtype
from m3jax.nn.qwen import QwenConfig

_HEAD_NAMES = {head: Names({head: ""}) for head in HEADS}
_DENSE_NAMES = Names({"mlp_head": "linear"})
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


def save(model: Model, folder: str | Path, *, card: str = "") -> None:
    """Write a model as a folder; it is either whole or not there.

    Low-rank pairs are merged into the weights. Weights of more than 5 GB take several
    files, and no more than one of them is held in memory. Of several processes all have
    to call this, and the first one writes.

    Args:
        model: what is written; its parameters may be on devices of several hosts.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        card: Markdown for the model card, after what is generated: data, scores.

    Raises:
        InputError: the folder holds other files, or the model contradicts itself.
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder).resolve()
    config, tokenizer = model.config, model.tokenizer
    if config.mlp_head != "none" and isinstance(config.encoder, QwenConfig):
        raise InputError(
            "SimCSE's head after a BERT, which has a place for it",
            f"mlp_head={config.mlp_head!r} after a Qwen",
            where="mlp_head",
        )
    if config.pooling == "mcls":
        raise InputError(
            "a pooling that other clients know",
            "mcls",
            where="pooling",
            do="Save the model with pooling cls; mcls is chosen when it is loaded.",
        )
    check(config.encoder, tokenizer, model.max_length, where=str(folder))
    params = lora.merge(model.params)
    dense = layout.DENSE if config.mlp_head == "always" else None
    contents = {
        "config.json": config_json(config.encoder, params, tokenizer.pad_id),
        **layout.contents(
            Layout(
                config.pooling, model.prompts, max_length=model.max_length, dense=dense
            ),
            width=config.encoder.hidden,
        ),
        OWN: {"mlp_head": config.mlp_head, "task": model.prompts.task},
    }
    readme = render(
        config,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        prompts=model.prompts,
        max_length=model.max_length,
        text=card,
    )
    heads = [head for head in HEADS if head in params]
    main = {name: leaf for name, leaf in params.items() if name not in HEADS}
    names = names_of(config.encoder)
    apart = [({head: params[head]}, _HEAD_NAMES[head]) for head in heads]
    linear = [({"mlp_head": params["mlp_head"]}, _DENSE_NAMES)] if dense else []
    if not distributed.first():
        # In the order below: the parts of all hosts meet tensor by tensor.
        weights.take_part([*apart, *linear, (main, names)])
        return
    with files.new_folder(folder) as new:
        for name, value in contents.items():
            (new / name).parent.mkdir(exist_ok=True)
            files.write_text(new / name, json.dumps(value, indent=2) + "\n")
        tokenize.save(tokenizer, new, max_length=model.max_length)
        files.write_text(new / "README.md", readme)
        for head, part in zip(heads, apart, strict=True):
            torch_file.write(new / HEADS[head], dict(weights.tensors(*part)))
        for part in linear:
            found = dict(weights.tensors(*part))
            tensors.write_safetensors(new / layout.DENSE / tensors.SAFETENSORS, found)
        write_main(new, main, names, folder)


def load(
    path: str | Path,
    *,
    to: Where = "host",
    dtype: Dtype = "float32",
    pooling: Pooling | None = None,
    like: str | None = None,
    revision: str | None = None,
    max_positions: int | None = None,
    position_init: PositionInit | None = None,
) -> Model:
    """Open an embedding model of any layout.

    A folder may be one of `save`, of sentence-transformers, of FlagEmbedding (its
    sparse_linear.pt and colbert_linear.pt become heads), a plain Hugging Face folder,
    or a run folder that has been trained to its end.

    Args:
        path: folder, or hub id.
        to: numpy arrays on the host, the default device, or the devices of a mesh,
            each of which reads its own part.
        dtype: of parameters and computation.
        pooling: another one than the folder says; a folder that says nothing has cls
            with FlagEmbedding's heads and mean without, and a language model has to be
            told. mcls takes a model with cls.
        like: hub id of `nn.zoo` whose pooling, prompts and final token hold; a hub id
            is like itself.
        revision: of a hub id.
        max_positions: rows of a longer position table; needs `position_init`.
        position_init: how the rows that are new come about; see `positions.extend`.

    Returns:
        The model.

    Raises:
        InputError: a file is missing, damaged or does not fit the others, or the
            folder asks for something that m3jax does not do.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub id \
like BAAI/bge-m3, found neither
    """
    model, read = open_model(
        path, dtype=dtype, pooling=pooling, like=like, revision=revision
    )
    model = dataclasses.replace(model, params=read(to))
    if max_positions is None and position_init is None:
        return model
    return _extended(model, max_positions, position_init)


def open_model(
    path: str | Path,
    *,
    dtype: Dtype = "float32",
    pooling: Pooling | None = None,
    like: str | None = None,
    revision: str | None = None,
    default_pooling: Pooling | None = None,
) -> tuple[Model, Callable[[Where], Params]]:
    """Read everything of a model but its parameters; else as `load`.

    A folder that states no pooling has `default_pooling`, where one is given.

    Returns:
        The model, whose params are None, and a function that reads these to where they
        belong.

    Raises:
        InputError: as `load`; what is wrong with the weights shows when they are read.
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

    def read(to: Where) -> Params:
        return _read_params(config, inner, folder, found.dense, stored, to)

    return model, read


def _read_params(
    config: EmbeddingConfig,
    inner: Path,
    folder: Path,
    dense: str | None,
    stored: dict[str, Any],
    to: Where,
) -> Params:
    module = EmbeddingModule(config)
    shapes = jax.eval_shape(lambda: embedding.init(module, jax.random.key(0)))
    dtype = jax.numpy.dtype(config.encoder.dtype)
    main, file = tensors.read_weights(inner)
    apart = {*HEADS, *(["mlp_head"] if dense else [])}
    like = {key: tree for key, tree in shapes.items() if key not in apart}
    names = names_of(config.encoder)
    params = place(like, main, names, to=to, where=str(file), dtype=dtype)
    if dense:
        linear, file = tensors.read_weights(folder, dense)
        like = {"mlp_head": shapes["mlp_head"]}
        names, where = _DENSE_NAMES, str(file)
        params |= place(like, linear, names, to=to, where=where, dtype=dtype)
    for head, tensor in stored.items():
        where = str(folder / HEADS[head])
        like = {head: shapes[head]}
        names = _HEAD_NAMES[head]
        params |= place(like, tensor, names, to=to, where=where, dtype=dtype)
    return params


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


def _extended(model: Model, rows: int | None, how: PositionInit | None) -> Model:
    """A model with a longer position table."""
    encoder = model.config.encoder
    first = getattr(encoder, "first_position", None)
    if rows is None or how is None or first is None:
        raise InputError(
            "max_positions and position_init, for a model with a position table",
            f"max_positions={rows}, position_init={how}, {type(encoder).__name__}",
        )
    table = model.params["encoder"]["position"]["embedding"]
    longer = positions.extend(np.asarray(table), rows, first=first, how=how)
    if isinstance(table, jax.Array):
        longer = jax.device_put(longer, table.sharding)
    inner = {**model.params["encoder"], "position": {"embedding": longer}}
    encoder = dataclasses.replace(encoder, max_positions=rows)
    return dataclasses.replace(
        model,
        config=dataclasses.replace(model.config, encoder=encoder),
        params={**model.params, "encoder": inner},
        max_length=encoder.max_length,
    )


def _lowercased(tokenizer: Tokenizer) -> Tokenizer:
    """Put lowercasing before whatever the tokenizer does to a text."""
    before = tokenizer.backend.normalizer
    steps = [normalizers.Lowercase(), *([] if before is None else [before])]
    tokenizer.backend.normalizer = normalizers.Sequence(steps)
    return tokenizer
