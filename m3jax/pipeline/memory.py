"""Whether every batch of a stage fits into memory, before the first is trained on."""

import functools
from collections.abc import Callable, Sequence

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding
from m3jax.core.types import Batch
from m3jax.data import plan
from m3jax.data.batches import Batcher
from m3jax.data.pipeline import on_devices
from m3jax.pipeline.stage import Train
from m3jax.pipeline.topology_tables import changes
from m3jax.training.ahead import compile_all, compile_step, held, memory_limit
from m3jax.training.state import TrainState
from m3jax.training.step import Step


def compiled_within(
    stage: Train,
    step: Step,
    state: TrainState,
    batcher: Batcher,
    mesh: Mesh,
    *,
    start: int,
    stop: int,
    ready: Callable[[Batch], Batch],
    beside: int = 0,
) -> Step:
    """Compile the step for every shape that will come, where devices tell their memory.

    A CPU does not, and compiles each shape when it comes.

    Args:
        stage: the config.
        step: what `make_step` returned.
        state: to begin with.
        batcher: makes the batches.
        mesh: the devices.
        start: first step.
        stop: the step after the last.
        ready: what is done to a batch before its step.
        beside: bytes of a device that something else holds.

    Returns:
        The step, compiled or as it was.

    Raises:
        InputError: a shape that does not fit, and what to change.
    """
    limit = memory_limit()
    if limit is None:
        return step
    limit -= beside

    def make(number: int) -> Batch:
        return ready(on_devices(batcher(number), batch_sharding(mesh)))

    refuse = functools.partial(_refusal, stage, state, mesh, limit)
    first = plan.first_of_each(batcher.plan, start, stop)
    each = [functools.partial(make, number) for number in first]
    return compile_all(step, state, each, limit, refuse)


def check_memory(
    stage: Train,
    step: Step,
    like: TrainState,
    batches: Sequence[Batch],
    mesh: Mesh,
    limit: int,
) -> None:
    """Refuse a stage that is to come later and does not fit.

    Args:
        stage: the config.
        step: what `make_step` returned.
        like: shapes and shardings of its state.
        batches: shapes and shardings of its batches.
        mesh: the devices.
        limit: bytes that each has.

    Raises:
        InputError: a shape that does not fit, and what to change.
    """
    for batch in batches:
        compiled, needed = compile_step(step, like, batch)
        if compiled is None or needed > limit:
            raise _refusal(stage, like, mesh, limit, batch, needed)


def _refusal(
    stage: Train,
    state: TrainState,
    mesh: Mesh,
    limit: float,
    batch: Batch,
    needed: int,
) -> InputError:
    texts = batch.pair if batch.passage is None else batch.passage
    tried = changes(stage, held(state.params) + held(state.opt_state), limit, mesh.size)
    return InputError(
        f"a step within the {limit / 1e9:.1f} GB of a device",
        f"{needed / 1e9:.1f} GB",
        where=f"batches of {len(batch.where):,} queries, texts of "
        f"{texts.ids.shape[-1]:,} tokens",
        do=f"Try {tried}.",
    )
