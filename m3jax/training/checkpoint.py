"""Checkpoints: written beside the training, whole or not there, checked when read."""

import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from m3jax.core.types import Params
from m3jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one stage: the last two, and the best by the dev metric.

    Args:
        folder: gets one folder a step.
        metric: name of the metric that selects, higher is better; None = the last.
    """

    def __init__(self, folder: Path, metric: str | None) -> None:
        _keep_quiet()
        self._folder = folder.resolve()
        self._metric = metric
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        keep: list[Any] = [checkpoint_managers.LatestN(2)]
        if self._metric is not None:
            keep.append(checkpoint_managers.BestN(get_metric_fn=self._value, n=1))
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            return ocp.CheckpointManager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                    best_fn=None if self._metric is None else self._value,
                    cleanup_tmp_directories=True,
                ),
            )

    def _value(self, metrics: dict[str, float]) -> float:
        assert self._metric is not None
        return metrics[self._metric]

    def save(self, state: TrainState, about: dict[str, Any], metrics: dict) -> None:
        """Copy the state off the devices, and write it while training goes on.

        Args:
            state: the whole state; its step names the checkpoint.
            about: config and data position, JSON values.
            metrics: results of the evaluation at this step.

        Raises:
            OSError: this checkpoint or the one before could not be written.
        """
        with _disk_errors(self._folder):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_to_dict(state)),
                    about=ocp.args.JsonSave(about),
                ),
                metrics=metrics if self._metric is not None else None,
            )

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            OSError: a checkpoint could not be written.
        """
        with _disk_errors(self._folder):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Stop the threads that write."""
        self._manager.close()

    def restore_last(self, like: TrainState) -> TrainState | None:
        """Restore the last checkpoint that can be read.

        A damaged one is moved to `damaged/` beside the checkpoints, and named on
        stderr; the one before takes its place.

        Args:
            like: shapes and shardings; may be of another mesh than the one saved.

        Returns:
            The state, or None when there is no checkpoint.
        """
        while (step := self._manager.latest_step()) is not None:
            try:
                return self._restore(step, like)
            # Damage shows as anything from a missing file to a bad checksum.
            except Exception as error:
                self._set_aside(step, error)
        return None

    def restore_best(self, state: TrainState) -> tuple[int, Params]:
        """Give the parameters that scored highest on the dev set.

        Args:
            state: the state at the end; its arrays are used when it is the best, or
                when nothing selects.

        Returns:
            The step and the parameters.
        """
        last = int(state.step)
        best = self._manager.best_step() if self._metric is not None else last
        if best is None or best == last:
            return last, state.params
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            state,
        )
        return best, self._restore(best, like).params

    def _restore(self, step: int, like: TrainState) -> TrainState:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_to_dict(like)))
        return TrainState(**self._manager.restore(step, args=args)["state"])

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self._folder.parent / "damaged" / str(step)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        self._manager.close()
        os.replace(self._folder / str(step), aside)
        self._manager = self._open()
        before = self._manager.latest_step()
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        print(
            f"warning: the checkpoint of step {step} is damaged ({reason}); it is now "
            f"at {aside}, and the training goes on from "
            f"{'the start' if before is None else f'step {before}'}",
            file=sys.stderr,
        )


def _keep_quiet() -> None:
    """What fails is told once, by the error raised here, and not by every thread.

    A write that fails leaves dozens of others without the event loop they report to.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    tell = sys.unraisablehook

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            tell(raised)

    sys.unraisablehook = hook


def _to_dict(state: TrainState) -> dict[str, Any]:
    """One level of names, as they are found in the checkpoint."""
    return {name: getattr(state, name) for name in TrainState.__dataclass_fields__}


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turn the storage library's error into the OSError that it stands for."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        number = int(code.group(1))
        raise OSError(number, os.strerror(number), str(folder)) from None
