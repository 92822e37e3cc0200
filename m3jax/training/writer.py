"""What a run says: metrics.jsonl, event files for TensorBoard, and W&B if asked."""

import contextlib
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made at run time from a description
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from m3jax.core import files
from m3jax.core.errors import InputError

# The event files wait for the disk; at every step that is a sixth of a step of 50 ms.
_FLUSH_SECONDS = 10.0


class Writer:
    """Appends to `RUN/metrics.jsonl` and `RUN/tensorboard/`, and sends to W&B if asked.

    A run that goes on from step n first forgets the lines after n, which it is about
    to write again: so the file reads as if nothing had happened.

    Args:
        folder: the run folder.
        step: where the run goes on; 0 starts anew.
        evaluated: whether the evaluation of that step counts; else it comes again, and
            what was written of it is forgotten too.
        wandb: project at Weights & Biases; "" = none.

    Raises:
        InputError: W&B is asked for and not installed.
        OSError: the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, step: int, *, evaluated: bool = True, wandb: str = ""
    ) -> None:
        # First of all: nothing is written when this fails.
        self._wandb = _start_wandb(folder, step, wandb) if wandb else None
        path = folder / "metrics.jsonl"
        rows = read(folder) if step else []
        kept = [
            row
            for row in rows
            if row["step"] < step
            or (row["step"] == step and (evaluated or "loss" in row))
        ]
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._lines = open(path, "a", encoding="utf-8")
        events = folder / "tensorboard"
        events.mkdir(exist_ok=True)
        # Written by this thread: the library's own would die on a full disk and leave
        # its callers waiting for ever.
        self._events = EventsWriter(str(events / "events"))
        self._flushed = time.monotonic()
        started = SessionLog(status=SessionLog.START)  # forget what came after `step`
        self._event(step + evaluated, session_log=started)
        for row in kept:
            if not evaluated and row["step"] == step:  # forgotten with the evaluation
                values = {name: x for name, x in row.items() if name != "step"}
                self._event(step, summary=_summary(values))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one line.

        Args:
            step: updates made so far.
            values: name -> number.

        Raises:
            OSError: the disk is full.
        """
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        self._event(step, summary=_summary(values))
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def flush(self) -> None:
        """Bring the event files to the disk: before a checkpoint, or there is a hole.

        Raises:
            OSError: the disk is full.
        """
        self._events.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush the files, and end the run at W&B."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lines.close)
            stack.callback(self._events.close)
            if self._wandb is not None:
                stack.callback(self._wandb.finish)

    def _event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), **content))


def _summary(values: Mapping[str, float]) -> Any:
    told = [scalar(name, value).value[0] for name, value in values.items()]
    return Summary(value=told)


class Silent(Writer):
    """What a process has whose metrics another one writes."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Nothing is open."""

    def flush(self) -> None:
        """Nothing waits for the disk."""


def check_wandb(project: str) -> None:
    """Refuse a wish for W&B where it is not installed.

    Args:
        project: "" = it is not asked for.

    Raises:
        InputError: it is not installed.

    Example:
        >>> check_wandb("")
    """
    if project:
        _import_wandb()


def _import_wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "the package wandb", "that it is not installed", where="wandb",
            do="pip install wandb, or leave the project empty.",
        ) from None  # fmt: skip
    return wandb


def _start_wandb(folder: Path, step: int, project: str) -> Any:
    """Begin a run at W&B, or go on with the one of this folder."""
    wandb = _import_wandb()
    path = folder / "wandb-id.txt"
    if not step or not path.exists():
        files.write_text(path, uuid.uuid4().hex[:8] + "\n")
    ident = path.read_text(encoding="utf-8").strip()
    return wandb.init(
        project=project, id=ident, name=folder.name, dir=str(folder), resume="allow"
    )


def read(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run; a last line that a kill cut short is left out.

    Args:
        folder: the run folder.

    Returns:
        One dictionary a line; none when the run has not written any.
    """
    path = folder / "metrics.jsonl"
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def series(
    rows: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[int], list[float]]:
    """Steps and values of one metric.

    Example:
        >>> series([{"step": 1, "loss": 2.0}, {"step": 2}], "loss")
        ([1], [2.0])
    """
    found = [
        (row["step"], row[name])
        for row in rows
        if name in row and math.isfinite(row[name])
    ]
    return [step for step, _ in found], [value for _, value in found]
