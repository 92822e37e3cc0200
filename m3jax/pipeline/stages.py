"""The stages of a run: each goes on from the one before."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.origin import Origin, in_shape_of, open_origin
from m3jax.pipeline.stage import SCRATCH, Stage, Train, check, with_dropout

# What a config of one stage calls it.
ONLY = "train"
# Folders of a run that are no stage's.
_TAKEN = ("model", "plots", "tensorboard", "cache", "damaged", "profile")


@dataclass(frozen=True)
class Resolved:
    """A stage, and what it goes on from.

    Attributes:
        name: of the stage, and of its folder.
        stage: its config, in the shape of its model.
        parent: the stage that it goes on from; None = no stage.
        origin: the model that it goes on from, where that is no stage's.
        logs: where its metrics, plots and results go.
        model: where its model goes.
        folder: where its checkpoints and its tokenizer go.
    """

    name: str
    stage: Train
    parent: str | None
    origin: Origin | None
    logs: Path
    model: Path
    folder: Path


def check_names(stages: Mapping[str, Stage], *, where: str) -> None:
    """Refuse stages whose names make no folders.

    Args:
        stages: name -> config.
        where: the config file.

    Raises:
        InputError: no stage, or a name that does not do.

    Example:
        >>> check_names({"model": Train()}, where="a.py")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a.py: get_config: expected names of stages out \
of letters, digits, _ and -, other than model, plots, tensorboard, cache, damaged, \
profile, found 'model'
    """
    if not stages:
        raise InputError("at least one stage", "none", where=f"{where}: get_config")
    for name in stages:
        fits = isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9][\w-]*", name)
        if not fits or name in _TAKEN:
            raise InputError(
                "names of stages out of letters, digits, _ and -, other than "
                f"{', '.join(_TAKEN)}",
                repr(name),
                where=f"{where}: get_config",
            )


def split(
    stages: Mapping[str, Stage],
) -> tuple[dict[str, Train], tuple[str, Merge] | None]:
    """The stages that train, and the one that merges in the end.

    Args:
        stages: name -> config, in their order.

    Returns:
        Name -> config of those that train; name and config of the last one, where it
        merges.

    Raises:
        InputError: a stage that merges is not the last one, or the only one.

    Example:
        >>> split({"train": Train(), "merge": Merge(("train", "BAAI/bge-m3"))})[1][0]
        'merge'
    """
    trains = {name: one for name, one in stages.items() if isinstance(one, Train)}
    *_, last = stages
    others = [name for name in stages if name not in trains]
    if others and (others != [last] or not trains):
        raise InputError(
            "stages that train, and perhaps one in the end that merges",
            ", ".join(f"{name}: {type(x).__name__}" for name, x in stages.items()),
            where="stages",
        )
    end = stages[last]
    return trains, (last, end) if isinstance(end, Merge) else None


def resolve(stages: Mapping[str, Train], run: Path, *, then: int = 0) -> list[Resolved]:
    """Find what every stage goes on from, and check the numbers of all.

    A run of one stage has its metrics, plots and results in its own folder, one of
    several has those of each stage in a folder of its name. `RUN/model` is the model of
    the last stage.

    Args:
        stages: name -> config, in their order.
        run: the run folder.
        then: stages after them that do not train.

    Returns:
        The stages.

    Raises:
        InputError: there is no such model, or a stage has values that no run can have.
    """
    found: list[Resolved] = []
    for name, stage in stages.items():
        try:
            last = len(stages) + then
            found.append(_resolve(name, stage, found, run, last=last))
        except InputError as error:
            if len(stages) + then == 1:
                raise
            raise error.at(name) from None
    return found


def _resolve(
    name: str, stage: Train, before: list[Resolved], run: Path, *, last: int
) -> Resolved:
    parent = before[-1] if before and stage.init is None else None
    origin = None
    if parent is not None:
        made = parent.stage
        stage = in_shape_of(stage, made.model, made.data.prompts)
    elif stage.init != SCRATCH:
        origin = open_origin(stage)
    if origin is not None:
        stage = in_shape_of(stage, origin.config, origin.prompts)
    stage = with_dropout(stage)
    check(stage)
    folder = run / name
    return Resolved(
        name,
        stage,
        None if parent is None else parent.name,
        origin,
        logs=run if last == 1 else folder,
        model=run / "model" if len(before) + 1 == last else folder / "model",
        folder=folder,
    )
