"""A model as a folder that m3jax, transformers and sentence-transformers open."""

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from tokenizers import normalizers

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import bert, layout
from m3jax.hub.card import render
from m3jax.hub.layout import Layout
from m3jax.nn import embedding
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Model:
    """Everything that turns a text into an embedding."""

    config: EmbeddingConfig
    """Encoder and heads."""
    params: Params
    """Their parameters, float32."""
    tokenizer: Tokenizer
    """Texts to ids."""
    max_length: int
    """Longest text in tokens, special ones counted."""
    prompts: Prompts
    """What stands before queries and passages."""


def save(model: Model, folder: str | Path, *, card: str = "") -> None:
    """Write a model as a folder; it is either whole or not there.

    Args:
        model: what is written; its parameters may be on a device.
        folder: a new folder, an empty one, or an earlier export, which is replaced.
        card: Markdown for the model card, after what is generated: data, scores.

    Raises:
        InputError: the folder holds other files, or the model contradicts itself.
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder = Path(folder).resolve()
    _check(model, where=str(folder))
    tensors = bert.to_published(model.params)
    contents = {
        "config.json": bert.to_config(model.config, pad_id=model.tokenizer.pad_id),
        **layout.contents(
            Layout(model.config.pooling, model.prompts, max_length=model.max_length),
            width=model.config.encoder.hidden,
        ),
    }
    readme = _card(model, tensors, card)
    with files.new_folder(folder) as new:
        for name, value in contents.items():
            (new / name).parent.mkdir(exist_ok=True)
            files.write_text(new / name, json.dumps(value, indent=2) + "\n")
        tokenize.save(model.tokenizer, new, max_length=model.max_length)
        files.write_text(new / "README.md", readme)
        # Replacing deletes what is there, so nothing of somebody else's may be.
        _refuse_others(folder, {WEIGHTS, *(file.name for file in new.iterdir())})
        try:
            safetensors.numpy.save_file(
                tensors, new / WEIGHTS, metadata={"format": "pt"}
            )
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            if code is None:
                raise
            number = int(code.group(1))
            raise OSError(number, os.strerror(number), str(folder)) from None
        (new / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read


def load(folder: str | Path) -> Model:
    """Open a folder with a BERT embedding model.

    It may be one of `save`, a sentence-transformers folder, a plain Hugging Face
    folder (then the pooling is the mean), or a run folder that has been trained to
    its end. Texts are cut at the limit of sentence-transformers' file, else of the
    tokenizer's, and at the latest at the end of the position table.

    Args:
        folder: a local folder.

    Returns:
        The model, its parameters as numpy arrays.

    Raises:
        InputError: a file is missing, damaged or does not fit the others, or the
            folder asks for something that m3jax does not do.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: nowhere: expected a local folder, found none. \
Models of the Hugging Face hub have to be downloaded first.
    """
    folder = _find(Path(folder))
    found = layout.read(folder)
    folder = folder / found.encoder
    config = bert.from_config(
        layout.read_json(folder / "config.json"),
        found.pooling,
        where=str(folder / "config.json"),
    )
    tokenizer = tokenize.load(folder)
    if found.lowercase:
        tokenizer = _lowercased(tokenizer)
    limit = config.encoder.max_positions
    model = Model(
        config,
        params=None,
        tokenizer=tokenizer,
        max_length=min(found.max_length or limit, limit),
        prompts=found.prompts,
    )
    _check(model, where=str(folder))
    module = EmbeddingModule(config)
    shapes = jax.eval_shape(lambda: embedding.init(module, jax.random.key(0)))
    weights = folder / WEIGHTS
    params = bert.from_published(_read_weights(weights), shapes, where=str(weights))
    return dataclasses.replace(model, params=params)


def _find(folder: Path) -> Path:
    """The folder itself, or the model of a run folder."""
    if not folder.is_dir():
        raise InputError(
            "a local folder",
            "a file" if folder.exists() else "none",
            where=str(folder),
            do="Models of the Hugging Face hub have to be downloaded first.",
        )
    if (folder / WEIGHTS).exists() or (folder / "modules.json").exists():
        return folder
    if (folder / "model").is_dir():
        return folder / "model"
    if (folder / "config.json").exists() and any(folder.glob("*/checkpoints")):
        raise InputError(
            "a run that has ended",
            "checkpoints but no model/",
            where=str(folder),
            do="Run the same training command again to continue it to its end.",
        )
    return folder


def _check(model: Model, *, where: str) -> None:
    """Refuse a tokenizer or a length that the tables of the encoder do not cover."""
    encoder = model.config.encoder
    largest = max(model.tokenizer.backend.get_vocab().values(), default=0)
    if largest >= encoder.vocab_size:
        raise InputError(
            f"token ids below vocab_size={encoder.vocab_size}",
            f"a tokenizer with id {largest}",
            where=where,
        )
    if not 1 <= model.max_length <= encoder.max_positions:
        raise InputError(
            f"max_length from 1 to max_positions={encoder.max_positions}",
            f"{model.max_length}",
            where=where,
        )


def _refuse_others(folder: Path, ours: set[str]) -> None:
    if not folder.exists():
        return
    expected = "a new or empty folder, or an earlier export"
    if not folder.is_dir():
        raise InputError(expected, "a file", where=str(folder))
    others = sorted({file.name for file in folder.iterdir()} - ours)
    if others:
        found = f"other files: {', '.join(others[:3])}"
        raise InputError(expected, found, where=str(folder))


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        others = sorted(
            file.name
            for pattern in ("*.safetensors*", "*.bin", "*.h5", "*.msgpack")
            for file in path.parent.glob(pattern)
        )
        raise InputError(
            "a file",
            f"none, but {', '.join(others[:3])}" if others else "none",
            where=str(path),
            do="Save the model once more with transformers." if others else "",
        )
    try:
        return safetensors.numpy.load_file(path)
    except SafetensorError as error:
        raise InputError(
            "a whole safetensors file", str(error), where=str(path)
        ) from None


def _lowercased(tokenizer: Tokenizer) -> Tokenizer:
    """Put lowercasing before whatever the tokenizer does to a text."""
    before = tokenizer.backend.normalizer
    steps = [normalizers.Lowercase(), *([] if before is None else [before])]
    tokenizer.backend.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _card(model: Model, tensors: dict[str, np.ndarray], text: str) -> str:
    return render(
        model.config,
        parameters=sum(tensor.size for tensor in tensors.values()),
        prompts=model.prompts,
        max_length=model.max_length,
        text=text,
    )
