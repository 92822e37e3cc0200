"""What folders of embedding models and of rerankers have in common."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh, SingleDeviceSharding

from m3jax.core import mesh as meshes
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import families, layout, tensors, weights
from m3jax.hub.weights import Names
from m3jax.nn import zoo
from m3jax.nn.encoder import SHARDING
from m3jax.nn.zoo import Published

# Our head -> FlagEmbedding's file of it.
HEADS = {"sparse": "sparse_linear.pt", "multivec": "colbert_linear.pt"}

# Files of some exports: of the heads, and of embedding models but not of rerankers.
_OPTIONAL = (
    *HEADS.values(),
    *("1_Pooling/config.json", "2_Normalize/config.json", "3_Normalize/config.json"),
    *(f"{layout.DENSE}/{name}" for name in ("config.json", "model.safetensors")),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    "m3jax.json",
)

# What every card of ours says.
_MARK = "m3jax"

# Numpy arrays, the default device, or the devices of a mesh.
Where = Literal["host", "device"] | Mesh
# Makes the published tensors of parameters.
Give = Callable[[Params, Names], Iterator[tuple[str, tensors.Written]]]


@dataclass(frozen=True)
class Part:
    """Some parameters of a model, and the file that they are in.

    Attributes:
        like: their shapes.
        stored: published name -> tensor.
        names: how these are called.
        where: the file, for messages.
    """

    like: Params
    stored: tensors.Stored
    names: Names
    where: str


def known(path: str | Path, like: str | None) -> Published | None:
    """What the zoo says of a model: by the name given, or by its hub id."""
    if like is not None:
        return zoo.find(like)
    if Path(path).exists() or str(path).lower() not in map(str.lower, zoo.ZOO):
        return None
    return zoo.find(str(path))


def find(folder: Path) -> Path:
    """The folder itself, or the model of a run folder.

    Raises:
        InputError: the run has not ended.
    """
    names = ("model.safetensors", "model.safetensors.index.json", "modules.json")
    if any((folder / name).exists() for name in (*names, tensors.BIN)):
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


def check(encoder: Any, tokenizer: Tokenizer, max_length: int, *, where: str) -> None:
    """Refuse a tokenizer or a length that the tables of the encoder do not cover.

    Raises:
        InputError: an id is too large, or the length is.
    """
    if tokenizer.vocab_size > encoder.vocab_size:
        raise InputError(
            f"token ids below vocab_size={encoder.vocab_size}",
            f"a tokenizer with id {tokenizer.vocab_size - 1}",
            where=where,
        )
    if not 1 <= max_length <= encoder.max_length:
        raise InputError(
            f"max_length from 1 to {encoder.max_length}, the longest text of the model",
            f"{max_length}",
            where=where,
        )


def config_json(encoder: Any, params: Params, pad_id: int) -> dict[str, Any]:
    """Content of config.json, with the dtype of the parameters."""
    dtype = str(jax.tree.leaves(params)[0].dtype)
    content = families.by_config(encoder).to_config(encoder, pad_id=pad_id)
    # The key before and after transformers 4.56.
    return {**content, "dtype": dtype, "torch_dtype": dtype}


def names_of(encoder: Any, **options: Any) -> Names:
    """How the family of an encoder calls its tensors."""
    family = families.by_config(encoder)
    modules = {**family.MODULES, **options.pop("modules", {})}
    return Names(modules, family.PREFIXES, family.IGNORED, **options)


def write_main(
    new: Path,
    params: Params,
    names: Names,
    folder: Path,
    *,
    give: Give = weights.tensors,
    max_file: int | None = None,
) -> None:
    """Write the weights themselves, if `new` may take the place of `folder`.

    Raises:
        InputError: the folder holds files that would be lost.
    """
    sizes = weights.sizes(params, names)
    # Replacing deletes what is there, so nothing of somebody else's may be.
    written = (file for file in new.rglob("*") if file.is_file())
    refuse_others(folder, {file.relative_to(new).as_posix() for file in written})
    tensors.write_weights(new, sizes, lambda: give(params, names), max_file=max_file)


def place_all(parts: Iterable[Part], to: Where, *, dtype: Any) -> Params:
    """Read parameters to where they belong; see `weights.fill`."""
    params: Params = {}
    for part in parts:
        if to == "host":
            layouts = None
        elif to == "device":
            one = SingleDeviceSharding(jax.devices()[0])
            layouts = jax.tree.map(lambda _, one=one: one, part.like)
        else:
            if not isinstance(to, Mesh):
                raise InputError("a jax Mesh", type(to).__name__, where="mesh")
            layouts = meshes.shardings(to, part.like, SHARDING)
        params |= weights.fill(
            part.stored,
            part.like,
            part.names,
            where=part.where,
            dtype=dtype,
            shardings=layouts,
        )
    return params


def refuse_others(folder: Path, ours: set[str]) -> None:
    """Refuse to replace a folder with files that no export of ours wrote.

    An earlier export is known by its card; a model of somebody else is not replaced.

    Args:
        folder: what is to be replaced; need not exist.
        ours: files that an export writes, as paths in it.

    Raises:
        InputError: the path is a file, or the folder holds something else.
    """
    if not folder.exists():
        return
    expected = "a new or empty folder, or an earlier export of m3jax"
    if not folder.is_dir():
        raise InputError(expected, "a file", where=str(folder))
    files = (file for file in folder.rglob("*") if file.is_file())
    there = {file.relative_to(folder).as_posix() for file in files}
    others = sorted(name for name in there - ours if not _is_ours(name))
    if others:
        found = f"other files: {', '.join(others[:3])}"
        raise InputError(expected, found, where=str(folder))
    card = folder / "README.md"
    if there and not (card.is_file() and _MARK in card.read_text("utf-8", "replace")):
        raise InputError(expected, "a model of somebody else", where=str(folder))


def _is_ours(name: str) -> bool:
    """Whether an export of another kind or size may have written a file."""
    weights = r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    return name in _OPTIONAL or bool(re.fullmatch(weights, name))
