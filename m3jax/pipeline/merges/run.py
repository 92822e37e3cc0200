"""From the names of models to the folder of a merged one."""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from m3jax.core import files, progress
from m3jax.core.errors import InputError
from m3jax.core.files import in_bytes
from m3jax.hub import folder, model_files, reranker
from m3jax.merging.agree import is_kept
from m3jax.nn.heads import Pooling
from m3jax.pipeline.merges import steps
from m3jax.pipeline.merges.card import merged_card
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.parents import (
    Parent,
    differences,
    open_parent,
    require_same,
    twice,
    with_fingerprints,
)
from m3jax.pipeline.merges.recipe import Recipe, check_names, make_recipe
from m3jax.pipeline.merges.stream import Job, giver, workers

# What an export is made of beside its weights, and what file systems need: a guess.
_BESIDE = 64 << 20
_LONGEST = 200  # bytes of a name; file systems take 255, ours grow by a few
_OURS = {"README.md", "config.json", "tokenizer.json", "tokenizer_config.json"}

Say = Callable[[str], None]


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Opened:
    """Models that can be merged.

    Attributes:
        config: with the names of all models.
        recipe: how they are merged.
        models: without the base.
        base: where the method has one.
    """

    config: Merge
    recipe: Recipe
    models: tuple[Parent, ...]
    base: Parent | None

    @property
    def parents(self) -> tuple[Parent, ...]:
        """In the order of the method."""
        return self.models if self.base is None else (self.base, *self.models)


@contextlib.contextmanager
def opened(
    config: Merge,
    output: Path,
    *,
    pooling: Pooling | None = None,
    like: str | None = None,
    say: Say = _say,
) -> Iterator[Opened]:
    """Open the models of a config, and refuse those that cannot be merged.

    Of their weights only names and shapes are read. Checkpoints of runs are written as
    model folders first, beside the output, and removed in the end.

    Args:
        config: which models, and how.
        output: where the merged model will be.
        pooling: of folders that do not say.
        like: hub id of a model whose pooling and prompts hold; see `folder.load`.
        say: is told of what differs and is no error.

    Yields:
        The models.

    Raises:
        InputError: an option is wrong, a model is missing, the models differ, or the
            disk is too small.
        OSError: the disk cannot be written to.
    """
    config = _expanded(config)
    recipe = make_recipe(config, len(config.models))
    names = [*config.models, *([config.base] if config.base else [])]
    _check_output(output, names)
    with _exported(names, output, say) as exported:
        found = [
            open_parent(name, files=files, pooling=pooling, like=like)
            for name, files in zip(config.models, exported, strict=False)
        ]
        base = None
        if config.base is not None:
            own = getattr(found[0].model.config, "pooling", None)
            base = open_parent(
                config.base, files=exported[-1], pooling=pooling or own, like=like
            )
        everyone = [*found, *([] if base is None else [base])]
        require_same(everyone, config.keep)
        _require_room(output, _size(found[0]))
        _check_keep(config.keep, everyone)
        check_names(config, recipe, list(found[0].tensors))
        for told in differences(everyone):
            say(f"note: {told}")
        yield Opened(config, recipe, tuple(found), base)


def changed(given: Opened, **options: Any) -> Opened:
    """The same models, merged with other values of some options.

    Args:
        given: the models.
        options: fields of `Merge`.

    Returns:
        The models.

    Raises:
        InputError: an option is wrong.
    """
    config = dataclasses.replace(given.config, **options)
    recipe = make_recipe(config, len(given.models))
    return dataclasses.replace(given, config=config, recipe=recipe)


def identified(given: Opened) -> Opened:
    """The same models with their fingerprints, for which they are read once.

    Args:
        given: the models.

    Returns:
        The models.
    """
    if all(one.fingerprint for one in given.parents):
        return given
    known, based = with_fingerprints(given.parents), given.base is not None
    base = known[0] if based else None
    return dataclasses.replace(given, models=tuple(known[based:]), base=base)


def write(
    given: Opened, output: Path, *, more: str = "", say: Say = _say, block: int = 0
) -> None:
    """Write the merged model as a folder; it is either whole or not there.

    Args:
        given: the models.
        output: a new folder, an empty one, or an earlier export, which is replaced.
        more: Markdown for the card, after how it was merged.
        say: is told of what is no error.
        block: numbers of a block; 0 = the usual.

    Raises:
        InputError: a number of a model is not finite, the disk is too small, or the
            folder holds other files.
        OSError: the folder cannot be written to.
    """
    first = given.models[0]
    _require_room(output, _size(first))
    given = identified(given)
    for told in twice(given.parents):
        say(f"warning: {told}")
    card = merged_card(
        given.config.method,
        given.recipe,
        given.models,
        base=given.base,
        keep=given.config.keep,
        more=more,
    )
    total = sum(x.size for x in jax.tree.leaves(first.model.params))
    with (
        workers() as pool,
        progress.bar("merge", total, "numbers") as advance,
    ):
        job = Job(
            given.recipe,
            given.parents,
            first,
            given.config.per,
            given.config.keep,
            advance,
            pool,
        )
        if block:
            job = dataclasses.replace(job, block=block)
        save = reranker.save if first.kind == "reranker" else folder.save
        save(first.model, output, card=card, give=giver(job), max_file=first.max_file)


def _expanded(config: Merge) -> Merge:
    """With the names of the last checkpoints of a run, where these are asked for."""
    if not config.models:
        raise InputError("two models or more", "none", where="models")
    if config.last is None:
        return config
    if config.last < 1:
        raise InputError("1 or more", f"{config.last}", where="last")
    if len(config.models) != 1:
        expected = "one run, whose last checkpoints are merged"
        raise InputError(expected, f"{len(config.models)} models", where="last")
    names = steps.last_steps(config.models[0], config.last)
    return dataclasses.replace(config, models=tuple(names), last=None)


def _check_output(output: Path, names: list[str]) -> None:
    """Refuse, before anything is done, an output that cannot be written."""
    if output.name in ("", "..") or len(os.fsencode(output.name)) > _LONGEST:
        expected = f"the name of a folder, of {_LONGEST} bytes at most"
        raise InputError(expected, f"{output}", where="output")
    place = next(x for x in output.resolve().parents if x.exists())
    if not place.is_dir():
        raise InputError("a folder to write to", "a file", where=str(place))
    for name in (name for name in names if Path(name).exists()):
        taken = [Path(name), model_files.find(Path(name))]
        taken += [steps.model_of(name)] if steps.is_step(name) else []
        if any(path.resolve().is_relative_to(output.resolve()) for path in taken):
            raise InputError("another folder than the models", name, where="output")
    model_files.refuse_others(output, _OURS)


@contextlib.contextmanager
def _exported(
    names: Sequence[str], output: Path, say: Say
) -> Iterator[list[Path | None]]:
    """Folders of those models that are checkpoints; None for the others."""
    asked = [name for name in names if steps.is_step(name)]
    if not asked:
        yield [None] * len(names)
        return
    sizes = (
        file.stat().st_size
        for name in asked
        for file in steps.model_of(name).rglob("*")
        if file.is_file()
    )
    _require_room(output, sum(sizes) * (len(asked) + 1) // len(asked))
    with files.scratch(output.resolve()) as scratch:
        found: list[Path | None] = []
        for number, name in enumerate(names):
            if not steps.is_step(name):
                found.append(None)
                continue
            say(f"reads {name}")
            steps.export_step(name, scratch / f"{number}")
            found.append(scratch / f"{number}")
        yield found


def _check_keep(keep: Sequence[str], models: Sequence[Parent]) -> None:
    """Refuse to keep what the first model lacks and another one has."""
    first, *others = models
    for regex in keep:
        if any(is_kept(name, [regex]) for name in first.tensors):
            continue
        for other in others:
            if any(is_kept(name, [regex]) for name in other.tensors):
                found = f"{regex!r}, which only {other.name} has"
                expected = f"a regex of tensors of {first.name}, from which they are"
                do = "Name the model first from which tensors are kept."
                raise InputError(expected, found, where="keep", do=do)


def _size(model: Parent) -> int:
    """Bytes of its weights."""
    leaves = jax.tree.leaves(model.model.params)
    return sum(x.size * x.dtype.itemsize for x in leaves)


def _require_room(output: Path, count: int) -> None:
    """Refuse a disk that is too small, before anything is written."""
    place = output.resolve().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < count + _BESIDE:
        raise InputError(
            f"{in_bytes(count + _BESIDE)} of free disk",
            in_bytes(free),
            where=str(output),
            do="Make room, or name an output on another disk.",
        )
