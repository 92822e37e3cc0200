"""The models that are merged: opened, and compared, but not read."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from m3jax.core import config as configs
from m3jax.core import progress, tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import kind as kinds
from m3jax.hub import model_files, opened, reranker, tensors, weights
from m3jax.hub.digest import digest, size
from m3jax.hub.fetch import fetch
from m3jax.hub.kind import Kind
from m3jax.hub.layout import read_json
from m3jax.hub.model_files import Part
from m3jax.merging.agree import require_alike, tell
from m3jax.nn.heads import Pooling

_TOLD = 3
# What of a config changes neither shapes nor results.
_FREE = ("dtype", "remat", "dropout")


@dataclass(frozen=True)
class Tensor:
    """A published tensor in a file.

    Attributes:
        stored: the file.
        name: how it is called there.
        where: the file, for messages.
    """

    stored: tensors.Stored
    name: str
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, as it is published."""
        return tuple(self.stored[self.name].shape)

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""
        return np.dtype(self.stored[self.name].dtype)

    def rows(self, first: int, last: int) -> np.ndarray:
        """Read some of its rows."""
        return tensors.read_rows(self.stored[self.name], first, last)


@dataclass(frozen=True)
class Parent:
    """A model to be merged.

    Attributes:
        name: as the user calls it.
        folder: of its files.
        kind: embedding model or reranker.
        model: everything but its parameters; these are shapes, in the types of the
            files.
        parts: its files, for those who read it whole.
        tensors: our published name -> where it is.
        max_file: bytes of the largest of several files; None where there is one.
        left_out: tensors in its files that the result lacks, because m3jax does not
            use them; without those that follow from others.
        fingerprint: of the weights; "" where nobody asked.
    """

    name: str
    folder: Path
    kind: Kind
    model: Any
    parts: tuple[Part, ...]
    tensors: dict[str, Tensor]
    max_file: int | None
    left_out: tuple[str, ...] = ()
    fingerprint: str = ""


def open_parent(
    name: str,
    *,
    files: Path | None = None,
    pooling: Pooling | None = None,
    like: str | None = None,
) -> Parent:
    """Open a model; of its weights only what they are called is read.

    Args:
        name: hub id, model folder or finished run.
        files: where its files are, if the name does not say.
        pooling: for a folder that does not say, and no `like`.
        like: hub id of a model whose pooling and prompts hold; see `folder.load`.

    Returns:
        The model.

    Raises:
        InputError: as `folder.load` and `reranker.load`, before anything is read.
    """
    path = str(files or name)
    kind = kinds.kind(path)
    if kind == "reranker":
        model, parts = reranker.open_parts(path)
    else:
        model, parts = opened.open_parts(path, default_pooling=pooling, like=like)
    found, shapes, left_out = {}, {}, []
    given = parts()
    for part in given:
        places = weights.find(part.stored, part.like, part.names, where=part.where)
        for path_, leaf in tree.paths(part.like).items():
            published = tree.published(path_, leaf.shape)
            for ours, theirs in zip(published, places[path_], strict=True):
                found[ours] = Tensor(part.stored, theirs, part.where)
        shapes |= _typed(part, places)
        left_out += _left_out(part, places)
    return Parent(
        name,
        model_files.find(fetch(path)),
        kind,
        dataclasses.replace(model, params=shapes),
        tuple(given),
        found,
        _largest(given[0]),
        tuple(left_out),
    )


def with_fingerprints(parents: Sequence[Parent]) -> list[Parent]:
    """Read all weights, several models at once, and know them again.

    Args:
        parents: the models.

    Returns:
        The same, with fingerprints.
    """
    total = sum(size(one.folder) for one in parents)
    with (
        progress.bar("read the weights", total, "bytes") as advance,
        ThreadPoolExecutor(len(parents)) as pool,
    ):
        found = pool.map(lambda one: digest(one.folder, show=advance), parents)
        return [
            dataclasses.replace(one, fingerprint=fingerprint)
            for one, fingerprint in zip(parents, found, strict=True)
        ]


def require_same(parents: Sequence[Parent], keep: Sequence[str]) -> None:
    """Refuse models that cannot be one.

    Args:
        parents: the models; the first one is what the others are compared with.
        keep: regexes of tensors that only the first has to have.

    Raises:
        InputError: they are of different kinds, shapes or tokenizers, where the first
            differences are named and the rest is counted; or the layers of the first
            one, whose types are written, are of several types.
    """
    first = parents[0]
    _require_one_type(first)
    labels = _labels(parents)
    for label, other in list(zip(labels, parents, strict=True))[1:]:
        if other.kind != first.kind:
            found = _kind(other.kind)
            raise InputError(
                f"{_kind(first.kind)}, as {first.name} is", found, where=label
            )
    shapes = {
        label: {name: tensor.shape for name, tensor in one.tensors.items()}
        for label, one in zip(labels, parents, strict=True)
    }
    for label, other in list(zip(labels, parents, strict=True))[1:]:
        _require_tokenizer(first, other, label)
    require_alike(shapes, keep=keep)
    for label, other in list(zip(labels, parents, strict=True))[1:]:
        rows = configs.difference(_shape(first), _shape(other))
        if rows:
            expected = f"the same architecture as {first.name}"
            raise InputError(expected, tell(rows), where=label)


def differences(parents: Iterable[Parent]) -> list[str]:
    """What else differs, where the first model decides, and what is lost; phrases.

    Args:
        parents: embedding models or rerankers.

    Returns:
        One phrase a difference, and one a model with tensors that the result lacks.
    """
    first, *others = parents = tuple(parents)
    found = []
    for other in others:
        for what in ("prompts", "max_length"):
            mine, theirs = (getattr(x.model, what, None) for x in (first, other))
            if mine != theirs:
                told = f"{what} of {other.name} is {theirs}, of {first.name} {mine}"
                found.append(f"{told}, which is taken")
        mine, theirs = (
            getattr(x.model.config, "pooling", None) for x in (first, other)
        )
        if mine != theirs:
            told = f"pooling of {other.name} is {theirs}, of {first.name} {mine}"
            found.append(f"{told}, which is taken")
    for one in parents:
        if one.left_out:
            more = len(one.left_out) - _TOLD
            told = ", ".join(one.left_out[:_TOLD])
            told += f" and {more:,} more" if more > 0 else ""
            told = f"the result lacks {told} of {one.name}"
            found.append(f"{told}, which m3jax does not use")
    return found


def twice(parents: Sequence[Parent]) -> list[str]:
    """Which models are the same one, by their fingerprints; phrases.

    A fingerprint is that of files: the same weights in several files, or in PyTorch's,
    are not known again.

    Args:
        parents: with fingerprints.

    Returns:
        One phrase a pair.
    """
    return [
        f"{other.name} is the same model as {one.name}"
        for number, other in enumerate(parents)
        for one in parents[:number]
        if other.fingerprint == one.fingerprint
    ]


def _typed(part: Part, places: dict[str, list[str]]) -> Params:
    """Shapes of parameters, in the types of their files; of layers, that of the first.

    Only the types of the first model count; see `_require_one_type`.
    """
    leaves = [
        jax.ShapeDtypeStruct(leaf.shape, np.dtype(part.stored[places[path][0]].dtype))
        for path, leaf in tree.paths(part.like).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(part.like), leaves)


def _left_out(part: Part, places: dict[str, list[str]]) -> list[str]:
    """Tensors that we have no place for, but those that follow from others."""
    used = {name for names in places.values() for name in names}
    over = [name for name in part.stored if name not in used]
    if not over:
        return []
    config = read_json(Path(part.where).parent / "config.json")
    derived = ["position_ids", "inv_freq"]
    # transformers ties unless told otherwise, but for Qwen.
    if config.get("tie_word_embeddings", "qwen" not in config["model_type"]):
        derived += ["lm_head.weight", "decoder.weight", "decoder.bias"]
    return sorted(name for name in over if not name.endswith(tuple(derived)))


def _largest(part: Part) -> int | None:
    """Bytes in the largest file of an index; None where there is no index."""
    if not part.where.endswith(".index.json"):
        return None
    sizes: Counter[str] = Counter()
    for name, file in read_json(Path(part.where))["weight_map"].items():
        tensor = part.stored[name]
        sizes[file] += math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
    return max(sizes.values())


def _labels(parents: Sequence[Parent]) -> list[str]:
    """Names, told apart where two are alike."""
    names = [one.name for one in parents]
    return [
        f"{name} ({number})" if name in names[: number - 1] else name
        for number, name in enumerate(names, start=1)
    ]


def _kind(kind: Kind) -> str:
    return "a reranker" if kind == "reranker" else "an embedding model"


def _shape(parent: Parent) -> dict[str, Any]:
    """What of a config decides what its numbers mean."""
    encoder = configs.to_dict(parent.model.config)["encoder"]
    return {name: value for name, value in encoder.items() if name not in _FREE}


def _require_one_type(first: Parent) -> None:
    """Refuse layers of several types: they are one leaf, which has one."""
    for path, leaf in tree.paths(first.model.params).items():
        one, *others = (first.tensors[x] for x in tree.published(path, leaf.shape))
        for other in others:
            if other.dtype != one.dtype:
                raise InputError(
                    f"{other.name} in {one.dtype} like {one.name}",
                    str(other.dtype),
                    where=first.name,
                    do="Name another model first, or write this one in one type with "
                    "python -m m3jax.convert.",
                )


def _require_tokenizer(first: Parent, other: Parent, label: str) -> None:
    mine, theirs = first.model.tokenizer, other.model.tokenizer
    one, two = (x.backend.get_vocab(with_added_tokens=True) for x in (mine, theirs))
    rows = [
        f"{token!r} {_id(two.get(token))} and not {_id(one.get(token))}"
        for token in sorted({*one, *two}, key=lambda x: (one.get(x, 1 << 40), x))
        if one.get(token) != two.get(token)
    ]
    if rows:
        raise InputError(f"the vocabulary of {first.name}", tell(rows), where=label)
    rows = [
        f"another {part}"
        for part, value in _parts(mine).items()
        if _parts(theirs).get(part) != value
    ]
    if rows:
        raise InputError(f"the tokenizer of {first.name}", tell(rows), where=label)


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """What makes tokens of a text."""
    whole = json.loads(tokenizer.backend.to_str())
    names = ("normalizer", "pre_tokenizer", "post_processor", "model")
    return {name: whole.get(name) for name in names}


def _id(number: int | None) -> str:
    return "missing" if number is None else f"with id {number}"
