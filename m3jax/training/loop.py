"""The training loop: dispatch a step, then read what the one before said."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.core.types import Batch, Params
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.display import Display
from m3jax.training.preemption import Stop, never
from m3jax.training.profiling import Profile
from m3jax.training.speed import Cost, Speed, flops_of
from m3jax.training.state import TrainState
from m3jax.training.step import Step
from m3jax.training.writer import Writer

Evaluator = Callable[[Params, int], dict[str, float]]
# Of the metric that selects: step and value, one for each evaluation.
History = list[tuple[int, float]]


@dataclass(frozen=True)
class Loop:
    """How long, and how often what.

    Attributes:
        steps: updates in all.
        evaluate_every: updates between two evaluations, each with a checkpoint.
        about: saved with every checkpoint.
        checkpoint_every: updates between two checkpoints, beside those of evaluations;
            None = as `evaluate_every`.
        patience: evaluations in a row that do not raise the metric by which the
            checkpoints select, after which the training ends; 0 = never.
        folder: of the stage; gets the trace, and the rows of a batch whose loss is not
            finite. None = neither.
        profile: first and last step of a trace, counted from 1.
        flops_per_step: of the model, forwards and backwards, on a batch.
        peak_flops: a second, of all devices together.
    """

    steps: int
    evaluate_every: int
    about: dict[str, Any]
    checkpoint_every: int | None = None
    patience: int = 0
    folder: Path | None = None
    profile: tuple[int, int] | None = None
    flops_per_step: Callable[[Batch], float] | None = None
    peak_flops: float | None = None


@dataclass(frozen=True)
class End:
    """How a training ended.

    Attributes:
        state: after the last step that was taken.
        reason: all steps were taken; the patience was at its end; or the process has
            to go, and the state is saved.
    """

    state: TrainState
    reason: Literal["finished", "early", "preempted"]


@dataclass(frozen=True)
class _Dispatched:
    """A step whose results have not been read yet."""

    step: int
    metrics: dict[str, jax.Array]
    dataset: Any
    row: Any
    cost: Cost


def train(
    state: TrainState,
    step: Step,
    batches: Iterator[Batch],
    loop: Loop,
    *,
    evaluators: Mapping[str, Evaluator],
    checkpoints: Checkpoints,
    writer: Writer,
    stop: Stop = never,
) -> End:
    """Train to the last step, from wherever the state is.

    Args:
        state: where to begin; given away.
        step: the compiled step.
        batches: one for each step that is left.
        loop: length and intervals.
        evaluators: name -> (params, step) -> metrics; called at every evaluation.
        checkpoints: where states go.
        writer: where metrics go.
        stop: asked after every step: (step) -> whether to save and end there. An
            evaluation that is due is left to the next start: there may be no time.

    Returns:
        The state after the last step, and why it was the last.

    Raises:
        InputError: a loss, gradient or update that is not finite, or patience without
            a metric.
        OSError: a checkpoint or a metric could not be written.
    """
    number = int(state.step)
    saved = number
    history = _history(checkpoints, loop, number)
    leaving = False
    before: _Dispatched | None = None
    speed = Speed(loop.peak_flops)
    shapes: set[tuple] = set()
    with contextlib.ExitStack() as stack:
        # However the training ends, what was saved is first on the disk.
        stack.callback(checkpoints.wait)
        display = stack.enter_context(Display(loop.steps, number, speed))
        profile = stack.enter_context(_profile(loop))

        def record(done: _Dispatched) -> None:
            asked = time.perf_counter()
            jax.block_until_ready(done.metrics)
            speed.spent(time.perf_counter() - asked)
            values = _read(done, saved, loop.folder)
            found = speed.update(done.cost, values["tokens"])
            display.update(done.step, values, found)
            writer.write(done.step, values | found)

        def evaluate() -> dict[str, float]:
            results: dict[str, float] = {}
            for name, evaluator in evaluators.items():
                found = evaluator(state.params, number)
                results |= {f"{name}/{key}": x for key, x in found.items()}
            writer.write(number, results)
            display.say(number, results)
            return results

        def evaluates() -> bool:
            at = number % loop.evaluate_every == 0 or number == loop.steps
            return bool(evaluators) and at

        def save(results: dict[str, float]) -> None:
            about = loop.about | {"data_position": number}
            if loop.patience:
                if results:
                    history.append((number, results[str(checkpoints.metric)]))
                about["history"] = list(history)
            writer.flush()
            checkpoints.save(state, about, results)

        if number and evaluates() and checkpoints.metric is not None:
            # It was told to leave before it could evaluate.
            results = checkpoints.results(number)
            if not results:
                results = evaluate()
                writer.flush()
                checkpoints.add_results(number, results)
            if loop.patience and number not in dict(history):
                history.append((number, results[checkpoints.metric]))
            speed.start()

        while number < loop.steps and not leaving and not _is_stale(history, loop):
            asked = time.perf_counter()
            batch = next(batches)
            given = time.perf_counter()
            profile.before(number + 1)
            called = time.perf_counter()
            state, metrics = step(state, batch)
            number += 1
            returned = time.perf_counter()
            profile.after(number, metrics)
            wait, dispatch = given - asked, returned - called
            speed.spent(wait + dispatch)
            if (shape := tuple(x.shape for x in jax.tree.leaves(batch))) not in shapes:
                shapes.add(shape)
                speed.compiled()
            if before is not None:
                record(before)
            cost = Cost(
                queries=batch.where.shape[0],
                padded_tokens=sum(tokens.ids.size for tokens in batch.texts),
                wait=wait,
                dispatch=dispatch,
                flops=flops_of(loop.flops_per_step, batch),
            )
            before = _Dispatched(number, metrics, batch.dataset, batch.row, cost)
            leaving = stop(number)
            last = number == loop.steps
            every = loop.checkpoint_every or loop.evaluate_every
            if evaluates() or leaving or last or number % every == 0:
                # Nothing is saved before it is known to be finite.
                record(before)
                before = None
                save(evaluate() if evaluates() and not leaving else {})
                saved = number
                speed.start()
        early = _is_stale(history, loop)
        if early and not leaving:
            step_of_best, best = _best(history)
            display.note(
                f"stopped at step {number}: {checkpoints.metric} was best at step "
                f"{step_of_best} with {best:.4f}, and {loop.patience} evaluations "
                "since then did not raise it"
            )
    # What is saved is not lost by leaving, and the next start sees the same history.
    return End(state, "preempted" if leaving else "early" if early else "finished")


def _profile(loop: Loop) -> Profile:
    if loop.profile is None:
        return Profile(None, Path())
    if loop.folder is None:
        raise ValueError("a profile needs the folder of the stage")
    folder = loop.folder / "profile"
    # A trace has the name of its host, of which another process may have one too.
    of_process = f"process-{jax.process_index()}" if jax.process_count() > 1 else ""
    return Profile(loop.profile, folder / of_process)


def _history(checkpoints: Checkpoints, loop: Loop, step: int) -> History:
    """Evaluations so far, as they were saved with the state that we go on from."""
    if not loop.patience:
        return []
    if checkpoints.metric is None:
        raise InputError(
            "a dev set, whose scores say when to stop", "none", where="patience"
        )
    about = (checkpoints.about(step) if step else None) or {}
    return [(int(at), float(value)) for at, value in about.get("history", [])]


def _best(history: History) -> tuple[int, float]:
    """The first evaluation with the highest value."""
    return max(history, key=lambda entry: entry[1])


def _is_stale(history: History, loop: Loop) -> bool:
    """Whether the last evaluations, as many as there is patience, raised nothing."""
    if not loop.patience or not history:
        return False
    return len(history) - 1 - history.index(_best(history)) >= loop.patience


def _read(done: _Dispatched, saved: int, folder: Path | None) -> dict[str, float]:
    """Read the results of a step and check that it went well."""
    values = {name: float(x) for name, x in jax.device_get(done.metrics).items()}
    for name in ("loss", "gradient_norm", "parameter_norm"):
        if not math.isfinite(values[name]):
            kept = (
                f"The checkpoint of step {saved} is kept"
                if saved
                else "No checkpoint is saved yet"
            )
            rows = f" in {_dump(done, values, folder)}" if folder is not None else ""
            raise InputError(
                f"a finite {name}",
                f"{values[name]}",
                where=f"step {done.step}",
                do=f"{kept}; train with a lower optimizer.learning_rate, in another "
                "--run-dir or anew with --fresh, which removes earlier stages too; or "
                f"look at the rows of its batch{rows}.",
            )
    return values


def _dump(done: _Dispatched, values: dict[str, float], folder: Path) -> Path:
    """Write which rows were in the batch, as far as this host holds them."""
    process = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
    path = folder / f"nonfinite-step-{done.step}{process}.json"
    content = {
        "step": done.step,
        "dataset": _local(done.dataset).tolist(),
        "row": _local(done.row).tolist(),
        # JSON has no NaN.
        "metrics": {k: x if math.isfinite(x) else str(x) for k, x in values.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _local(x: Any) -> np.ndarray:
    """The rows of a `[b]` array that this host holds, each once."""
    if not isinstance(x, jax.Array):
        return np.asarray(x)
    parts = {part.index[0].start or 0: part.data for part in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])
