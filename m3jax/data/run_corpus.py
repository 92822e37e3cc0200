"""What is searched if nothing is named: the texts that a run was made for."""

import json
from pathlib import Path
from typing import Any

from m3jax.core.errors import InputError


def run_of(model: Path) -> Path:
    """Find the run that a model folder belongs to, else the folder itself.

    Example:
        >>> run_of(Path("no/model")).name
        'model'
    """
    inside = model.name == "model" and _stages(model.parent)
    return model.parent if inside else model


def require_finished(folder: Path) -> None:
    """Refuse a run that has no model yet.

    Raises:
        InputError: says how to go on.

    Example:
        >>> require_finished(Path("no"))
    """
    if _stages(folder) and not (folder / "model").is_dir():
        raise InputError(
            "a run that has ended",
            "no model/ in it yet",
            where=str(folder),
            do="Run the same training command again to continue it to its end.",
        )


def run_corpus(model: Path) -> str:
    """Name what the last stage of a run was tested on, or else trained on.

    Args:
        model: a run, or the model folder in it.

    Returns:
        A folder, or builtin.

    Raises:
        InputError: it is no run, or what it was tested on is no corpus.

    Example:
        >>> run_corpus(Path("no"))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: --corpus: expected a corpus to search, found \
none that no was tested or trained on. Name a BEIR folder, a .jsonl file, or a text \
file with a passage a line.
    """
    for data in _stages(run_of(model))[-1:]:
        name = data.get("test") or data.get("train")
        if name == "builtin" or (name and Path(name).is_dir()):
            return name
    raise InputError(
        "a corpus to search",
        f"none that {model} was tested or trained on",
        where="--corpus",
        do="Name a BEIR folder, a .jsonl file, or a text file with a passage a line.",
    )


def _stages(folder: Path) -> list[dict[str, Any]]:
    """Data of each stage, in order; nothing if the folder is no run."""
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    stages = saved.values() if isinstance(saved, dict) else ()
    found = [stage.get("data") for stage in stages if isinstance(stage, dict)]
    return [data for data in found if isinstance(data, dict)]
