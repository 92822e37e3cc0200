"""The training loop: dispatch a step, then read what the one before said."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from m3jax.core.errors import InputError
from m3jax.core.types import Batch, Params
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.display import Display
from m3jax.training.state import TrainState
from m3jax.training.step import Step
from m3jax.training.writer import Writer

Evaluator = Callable[[Params, int], dict[str, float]]


@dataclass(frozen=True)
class Loop:
    """How long, and how often what.

    Attributes:
        steps: updates in all.
        evaluate_every: updates between two evaluations, each with a checkpoint.
        about: saved with every checkpoint.
    """

    steps: int
    evaluate_every: int
    about: dict[str, Any]


@dataclass(frozen=True)
class _Dispatched:
    """A step whose results have not been read yet."""

    step: int
    metrics: dict[str, jax.Array]
    queries: int
    padded_tokens: int
    wait: float


def train(
    state: TrainState,
    step: Step,
    batches: Iterator[Batch],
    loop: Loop,
    *,
    evaluators: Mapping[str, Evaluator],
    checkpoints: Checkpoints,
    writer: Writer,
) -> TrainState:
    """Train to the last step, from wherever the state is.

    Args:
        state: where to begin; given away.
        step: the compiled step.
        batches: one for each step that is left.
        loop: length and intervals.
        evaluators: name -> (params, step) -> metrics; called at every evaluation.
        checkpoints: where states go.
        writer: where metrics go.

    Returns:
        The state after the last step.

    Raises:
        InputError: a loss, gradient or update that is not finite.
        OSError: a checkpoint or a metric could not be written.
    """
    number = int(state.step)
    saved = number
    before: _Dispatched | None = None
    with contextlib.ExitStack() as stack:
        # However the training ends, what was saved is first on the disk.
        stack.callback(checkpoints.wait)
        display = stack.enter_context(Display(loop.steps, number))

        def record(done: _Dispatched) -> None:
            values = _read(done, saved)
            speed = display.update(
                done.step,
                values,
                queries=done.queries,
                padded_tokens=done.padded_tokens,
                wait=done.wait,
            )
            speed["data_wait_seconds"] = done.wait
            writer.write(done.step, values | speed)

        while number < loop.steps:
            asked = time.perf_counter()
            batch = next(batches)
            wait = time.perf_counter() - asked
            state, metrics = step(state, batch)
            number += 1
            if before is not None:
                record(before)
            before = _Dispatched(
                number,
                metrics,
                queries=batch.where.shape[0],
                padded_tokens=sum(tokens.ids.size for tokens in batch.texts),
                wait=wait,
            )
            if number % loop.evaluate_every == 0 or number == loop.steps:
                # Nothing is saved before it is known to be finite.
                record(before)
                before = None
                results: dict[str, float] = {}
                for name, evaluate in evaluators.items():
                    found = evaluate(state.params, number)
                    results |= {f"{name}/{key}": x for key, x in found.items()}
                if results:
                    writer.write(number, results)
                    display.say(number, results)
                about = loop.about | {"data_position": number}
                checkpoints.save(state, about, results)
                saved = number
                display.resume()
    return state


def _read(done: _Dispatched, saved: int) -> dict[str, float]:
    """Wait for a step and check that it went well."""
    values = {name: float(x) for name, x in jax.device_get(done.metrics).items()}
    for name in ("loss", "gradient_norm", "parameter_norm"):
        if not math.isfinite(values[name]):
            kept = (
                f"The checkpoint of step {saved} is kept"
                if saved
                else "None is saved yet"
            )
            raise InputError(
                f"a finite {name}",
                f"{values[name]}",
                where=f"step {done.step}",
                do=f"{kept}; lower --optimizer.learning-rate, or look at the data.",
            )
    return values
