"""What a run says: metrics.jsonl, and event files for TensorBoard."""

import contextlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # made at run time from a description
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.summary import scalar

from m3jax.core import files


class Writer:
    """Appends to `RUN/metrics.jsonl` and `RUN/tensorboard/`.

    A run that goes on from step n first forgets the lines after n, which it is about
    to write again: so the file reads as if nothing had happened.

    Args:
        folder: the run folder.
        step: where the run goes on; 0 starts anew.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [row for row in read(folder) if row["step"] <= step] if step else []
        files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._lines = open(path, "a", encoding="utf-8")
        events = folder / "tensorboard"
        events.mkdir(exist_ok=True)
        # Written by this thread: the library's own would die on a full disk and leave
        # its callers waiting for ever.
        self._events = EventsWriter(str(events / "events"))
        started = SessionLog(status=SessionLog.START)  # forget what came after `step`
        self._event(step + 1, session_log=started)

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
        for name, value in values.items():
            self._event(step, summary=scalar(name, value))
        self._events.flush()

    def close(self) -> None:
        """Flush both files."""
        with contextlib.closing(self._lines):
            self._events.close()

    def _event(self, step: int, **content: Any) -> None:
        self._events.write_event(Event(step=step, wall_time=time.time(), **content))


class Silent(Writer):
    """What a process has whose metrics another one writes."""

    def __init__(self) -> None:
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Nothing is open."""


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
