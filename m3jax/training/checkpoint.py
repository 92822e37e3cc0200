"""Checkpoints: written beside the training, whole or not there, checked when read."""

import json
import logging
import math
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.training.checkpoint_config import CheckpointConfig, check_checkpoints
from m3jax.training.state import TrainState

T = TypeVar("T")
_NO_METRICS = "its metrics cannot be read; it may have been on the way to be deleted"


class _Manager(ocp.CheckpointManager):
    """A manager that does not ask whether the job is to end.

    It would ask with numbers of steps, and jax keeps one count for the process: that of
    `preemption.watch`, which goes on from stage to stage.
    """

    def reached_preemption(self, step: int) -> bool:
        """Never: the loop asks, and saves."""
        del step
        return False


class Checkpoints:
    """The checkpoints of one stage: the last ones, and the best by the dev metric.

    Args:
        folder: gets one folder a step.
        metric: name of the metric that selects, higher is better; None = the last.
        config: which of them stay.

    Raises:
        InputError: see `check_checkpoints`.
    """

    def __init__(
        self,
        folder: Path,
        metric: str | None,
        config: CheckpointConfig | None = None,
    ) -> None:
        config = config or CheckpointConfig()
        check_checkpoints(config)
        _keep_quiet()
        self._folder = folder.resolve()
        self._metric = metric
        self._config = config
        self._manager = self._open()

    @property
    def metric(self) -> str | None:
        """Name of the metric that selects."""
        return self._metric

    def _open(self) -> ocp.CheckpointManager:
        if distributed.first():
            self._check_metrics()
        distributed.wait("damaged checkpoints")
        keep: list[Any] = [checkpoint_managers.LatestN(self._config.keep_last)]
        if self._config.keep_every:
            keep.append(checkpoint_managers.EveryNSteps(self._config.keep_every))
        if self._metric is not None:
            keep.append(checkpoint_managers.BestN(get_metric_fn=self._value, n=1))
        with _disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            return _Manager(
                self._folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(keep),
                    best_fn=None if self._metric is None else self._value,
                    cleanup_tmp_directories=True,
                ),
            )

    def _check_metrics(self) -> None:
        """A step whose metrics cannot be read could not be compared with the others.

        What was saved between two evaluations has none, and says so.
        """
        if self._metric is None or not self._folder.is_dir():
            return
        for step in self._folder.iterdir():
            if step.name.isdigit():
                try:
                    text = (step / "metrics" / "metrics").read_text(encoding="utf-8")
                    if found := json.loads(text):
                        found[self._metric]
                except (OSError, ValueError, KeyError, TypeError):
                    _move_aside(step, _NO_METRICS)

    def _value(self, metrics: dict[str, float]) -> float:
        """What selects; a step that was not evaluated comes after all others."""
        assert self._metric is not None
        return metrics[self._metric] if metrics else -math.inf

    def save(self, state: TrainState, about: dict[str, Any], metrics: dict) -> None:
        """Copy the state off the devices, and write it while training goes on.

        Args:
            state: the whole state; its step names the checkpoint.
            about: config and data position, JSON values.
            metrics: results of the evaluation at this step; none where it was not
                evaluated, and so cannot be the best.

        Raises:
            InputError: the metric that selects is not among them.
            OSError: this checkpoint or the one before could not be written.
        """
        if metrics and self._metric is not None and self._metric not in metrics:
            raise InputError(
                f"the metric {self._metric}, which selects",
                ", ".join(metrics),
                where=f"evaluation at step {int(state.step)}",
            )
        with _disk_errors(self._folder):
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_to_dict(state)),
                    about=ocp.args.JsonSave(about),
                ),
                metrics=metrics if self._metric is not None else None,
            )

    def results(self, step: int) -> dict[str, float]:
        """Results of the evaluation at a step that is saved; none = it had none yet."""
        return distributed.share("results", lambda: self._manager.metrics(step) or {})

    def add_results(self, step: int, metrics: dict[str, float]) -> None:
        """Put the results of a late evaluation beside what is saved.

        Args:
            step: one that is on the disk.
            metrics: its results.
        """
        if distributed.first():
            text = json.dumps(metrics)
            files.write_text(self._folder / str(step) / "metrics" / "metrics", text)
        distributed.wait("results of a late evaluation")
        self._manager.reload()

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
        while (step := self._last()) is not None:
            self._check_structure(step, like)
            state, damage = _attempt(lambda step=step: self._restore(step, like))
            if damage is None:
                return state
            self._set_aside(step, damage)
        return None

    def _last(self) -> int | None:
        """The same for all processes, whatever their file systems have cached."""
        return distributed.share("last step", self._manager.latest_step)

    def _check_structure(self, step: int, like: TrainState) -> None:
        """Refuse a whole checkpoint of another state: it is no damage."""
        try:
            handler = ocp.PyTreeCheckpointHandler()
            saved = handler.metadata(self._state(step))
            found = _leaves(saved.tree if hasattr(saved, "tree") else saved)
        except Exception:  # it is damaged, as the attempt to read it will tell
            return
        wanted = _leaves(_to_dict(like))
        other = sorted(set(found.items()) ^ set(wanted.items()))
        if other:
            name = other[0][0]
            raise InputError(
                f"{name} {wanted.get(name, 'not at all')}, as this program has it",
                f"{found.get(name, 'none')}",
                where=str(self._folder / str(step)),
                do="Go on with the version that wrote it, or start anew with --fresh.",
            )

    def about(self, step: int) -> dict[str, Any] | None:
        """What was saved with a step; None where that step was not saved."""
        if step not in self._manager.all_steps():
            return None
        path = self._folder / str(step) / "about" / "metadata"
        return json.loads(path.read_text(encoding="utf-8"))

    def restore_best(self, state: TrainState) -> tuple[int, Params]:
        """Give the parameters that scored highest on the dev set.

        Where that checkpoint is damaged, the best of those that are left.

        Args:
            state: the state at the end; its arrays are used when it is the best, or
                when nothing selects.

        Returns:
            The step and the parameters.
        """
        last = int(state.step)
        self.wait()
        while (best := self._best()) not in (None, last):
            params, damage = _attempt(
                lambda best=best: self._restore_params(best, state)
            )
            if damage is None:
                return best, params
            self._set_aside(best, damage, "the model is the best of the others")
        return last, state.params

    def _best(self) -> int | None:
        """The step that scored highest; None where no step was scored."""
        if self._metric is None:
            return None
        best = distributed.share("best step", self._manager.best_step)
        return best if best is not None and self.results(best) else None

    def _restore_params(self, step: int, state: TrainState) -> Params:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=leaf.sharding
            ),
            {"params": state.params},
        )
        # These alone: with all of the state there might be no room for both.
        args = ocp.args.PyTreeRestore(
            like,
            restore_args=ocp.checkpoint_utils.construct_restore_args(like),
            partial_restore=True,
        )
        handler = ocp.PyTreeCheckpointHandler()
        return handler.restore(self._state(step), args=args)["params"]

    def _restore(self, step: int, like: TrainState) -> TrainState:
        # The manager's own way ends in a barrier, which a process that meets damage
        # alone would leave the others waiting at.
        handler = ocp.StandardCheckpointHandler()
        args = ocp.args.StandardRestore(_to_dict(like))
        self.about(step)  # nor may this be damaged
        return TrainState(**handler.restore(self._state(step), args=args))

    def _state(self, step: int) -> Any:  # a path, as the storage library calls them
        return self._folder / str(step) / "state"

    def _set_aside(self, step: int, reason: str, then: str = "") -> None:
        self._manager.close()
        if distributed.first():
            _move_aside(self._folder / str(step), reason, then)
        distributed.wait("damaged checkpoint moved")
        self._manager = self._open()


def read_params(step: Path) -> Params:
    """Parameters of a checkpoint, as numpy arrays on the host.

    Args:
        step: folder of the checkpoint.

    Returns:
        All that was trained, in the shapes that it had: also low-rank pairs, and what
        was trained beside the model.

    Raises:
        InputError: there is no whole checkpoint.
    """
    handler = ocp.PyTreeCheckpointHandler()
    try:
        where: Any = step.resolve() / "state"
        saved: Any = handler.metadata(where)
        tree = saved.tree if hasattr(saved, "tree") else saved
        like = {"params": jax.tree.map(lambda leaf: 0, tree["params"])}
        numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(np.ndarray), like)
        args = ocp.args.PyTreeRestore(like, restore_args=numpy, partial_restore=True)
        return handler.restore(where, args=args)["params"]
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # damage shows as anything
        found = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError("a whole checkpoint", found, where=str(step)) from None


def _keep_quiet() -> None:
    """What fails is told once, by the error raised here, and not by every thread.

    A write that fails leaves dozens of others without the event loop they report to.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    tell = sys.unraisablehook

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            tell(raised)

    sys.unraisablehook = hook


def _attempt(read: Callable[[], T]) -> tuple[T, None] | tuple[None, str]:
    """Read something of a checkpoint: what it is, or how a process found it damaged."""
    reason, found = None, None
    try:
        found = read()
    except (MemoryError, PermissionError):
        raise
    # Damage shows as anything from a missing file to a bad checksum.
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise  # the device is too small, the checkpoint is whole
        reason = str(error) or type(error).__name__
    # Each process reads its own parts, and only one may have met the damage.
    damage = next(filter(None, distributed.gather("restored", reason)), None)
    return (cast(T, found), None) if damage is None else (None, damage)


def _move_aside(checkpoint: Path, reason: str, then: str = "") -> None:
    """Keep a damaged checkpoint, where no restart looks for it, and say so."""
    aside = checkpoint.parent.parent / "damaged" / checkpoint.name
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(exist_ok=True)
    os.replace(checkpoint, aside)
    steps = [int(x.name) for x in checkpoint.parent.iterdir() if x.name.isdigit()]
    before = f"step {max(steps)}" if steps else "the start"
    then = then or f"the training goes on from {before}"
    print(
        f"warning: the checkpoint of step {checkpoint.name} is damaged "
        f"({' '.join(reason.split())[:200]}); it is now at {aside}, and {then}",
        file=sys.stderr,
    )


def _leaves(tree: Any) -> dict[str, str]:
    """Name -> shape; none of the key, which is saved as its numbers."""
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in found
    }
    return {
        name: "" if name == "rng" else f"{list(leaf.shape)}"
        for name, leaf in names.items()
    }


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
