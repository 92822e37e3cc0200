"""Checkpoints of a finished run, as model folders to be merged."""

import dataclasses
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.hub import folder as folders
from m3jax.hub import opened, reranker
from m3jax.hub.kind import kind
from m3jax.hub.layout import read_json
from m3jax.training.checkpoint import read_params


def is_step(name: str) -> bool:
    """Whether a name is that of a checkpoint: RUN/STAGE/checkpoints/STEP.

    Example:
        >>> is_step("runs/a/train/checkpoints/500"), is_step("BAAI/bge-m3")
        (True, False)
    """
    path = Path(name)
    return path.parent.name == "checkpoints" and path.name.isdigit()


def last_steps(run: str, count: int) -> list[str]:
    """The last checkpoints of the last stage of a run.

    Args:
        run: folder of a run.
        count: how many.

    Returns:
        Their folders, the earliest first.

    Raises:
        InputError: it is no run, or has fewer.
    """
    config = Path(run) / "config.json"
    if not (Path(run) / "lineage.json").is_file():
        raise InputError("a run folder, whose checkpoints are taken", run, where="last")
    stages = [
        name
        for name in read_json(config)
        if (Path(run) / name / "checkpoints").is_dir()
    ]
    where = Path(run) / stages[-1] / "checkpoints" if stages else Path(run)
    return last_of(where, count)


def last_of(folder: Path, count: int) -> list[str]:
    """The last checkpoints in a folder of such.

    Args:
        folder: of a stage's checkpoints.
        count: how many.

    Returns:
        Their folders, the earliest first.

    Raises:
        InputError: it has fewer.
    """
    steps = sorted(int(x.name) for x in folder.iterdir() if x.name.isdigit())
    if len(steps) < count or count < 1:
        told = ", ".join(map(str, steps)) or "none"
        raise InputError(
            f"{max(count, 1)} checkpoints",
            f"{len(steps)}: {told}",
            where=str(folder),
            do="A run keeps --checkpoints.keep-last of them.",
        )
    return [str(folder / str(step)) for step in steps[-count:]]


def model_of(step: str) -> Path:
    """The model folder that the stage of a checkpoint wrote in the end.

    Raises:
        InputError: there is no such checkpoint, or the stage has not ended.
    """
    stage = Path(step).resolve().parent.parent
    _require_step(Path(step))
    for path in (stage / "model", stage.parent / "model"):
        if path.is_dir():
            return path
    raise InputError(
        "a run that has ended",
        "checkpoints but no model/",
        where=str(stage.parent),
        do="Run the same training command again to continue it to its end.",
    )


def _require_step(step: Path) -> None:
    if step.is_dir():
        return
    place = step.parent
    there = place.iterdir() if place.is_dir() else []
    known = sorted(int(x.name) for x in there if x.name.isdigit())
    found = f"only {', '.join(map(str, known))}" if known else "none"
    raise InputError("a checkpoint", found, where=f"{step}")


def export_step(step: str, to: Path) -> None:
    """Write the parameters of a checkpoint as the model that the stage ended with.

    All of them are in memory meanwhile.

    Args:
        step: folder of the checkpoint.
        to: a new folder.

    Raises:
        InputError: it is damaged, or the stage has not ended.
        OSError: the folder cannot be written to.
    """
    like = str(model_of(step))
    found = read_params(Path(step))
    if kind(like) == "reranker":
        ranks, given = reranker.open_parts(like)
        names = {name for part in given() for name in part.like}
        params = {name: x for name, x in found.items() if name in names}
        reranker.save(dataclasses.replace(ranks, params=params), to)
        return
    embeds, given = opened.open_parts(like)
    # What was trained beside the model is no part of it.
    names = {name for part in given() for name in part.like}
    params = {name: x for name, x in found.items() if name in names}
    folders.save(dataclasses.replace(embeds, params=params), to)
