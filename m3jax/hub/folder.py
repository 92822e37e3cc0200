"""An embedding model as a folder that m3jax and the usual clients open."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np

from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.hub import layout, positions, tensors, torch_file, weights
from m3jax.hub.card import render
from m3jax.hub.layout import Layout
from m3jax.hub.model_files import (
    HEADS,
    Give,
    Where,
    check,
    config_json,
    names_of,
    write_main,
)
from m3jax.hub.opened import DENSE_NAMES, HEAD_NAMES, OWN, Model, open_model
from m3jax.hub.positions import PositionInit
from m3jax.nn import lora
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dtype
from m3jax.nn.qwen import QwenConfig


def save(
    model: Model,
    folder: str | Path,
    *,
    card: str = "",
    give: Give = weights.tensors,
    max_file: int | None = None,
) -> None:
    """Write a model as a folder; it is either whole or not there.

    Low-rank pairs are merged into the weights. Weights of more than 5 GB take several
    files, and no more than one tensor of them is held in memory. Of several processes
    all have to call this, and the first one writes.

    Args:
        model: what is written; its parameters may be on devices of several hosts.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        card: Markdown for the model card, after what is generated: data, scores.
        give: makes the published tensors of parameters, in the order of
            `weights.tensors`. With one that reads them elsewhere, the parameters may be
            their shapes only.
        max_file: bytes in one file of weights; None = 5 GB.

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
    apart = [({head: params[head]}, HEAD_NAMES[head]) for head in heads]
    linear = [({"mlp_head": params["mlp_head"]}, DENSE_NAMES)] if dense else []
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
            held = {name: tensors.whole(tensor) for name, tensor in give(*part)}
            torch_file.write(new / HEADS[head], held)
        for part in linear:
            path = new / layout.DENSE / tensors.SAFETENSORS
            tensors.write_safetensors(path, dict(give(*part)))
        write_main(new, main, names, folder, give=give, max_file=max_file)


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
