"""Training steps compiled before the first is taken, and what memory they need."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from m3jax.core import progress
from m3jax.core.errors import InputError
from m3jax.core.types import Batch
from m3jax.training.state import TrainState
from m3jax.training.step import Step

# What a TPU's compiler says where there is too little: all that it would need, or the
# temporaries alone.
_ALL = re.compile(r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm")
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT]?)\) exceeds")


def compile_step(
    step: Step, state: TrainState, batch: Batch
) -> tuple[jax.stages.Compiled | None, int]:
    """Compile a step for one shape of batches.

    Args:
        step: what `make_step` returned.
        state: arrays, or their shapes and shardings.
        batch: likewise.

    Returns:
        The program, and the bytes that each device needs for arguments, temporaries and
        results; no program where a TPU's compiler found too little memory.

    Raises:
        jax.errors.JaxRuntimeError: the compiler failed for another reason.
    """
    lowered = step.lower(state, batch)  # pyright: ignore[reportFunctionMemberAccess]
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = memory_needed(str(error), held(state) + held(batch))
        if needed is None:
            raise
        return None, needed
    found = compiled.memory_analysis()
    output = max(0, found.output_size_in_bytes - found.alias_size_in_bytes)
    return compiled, (found.argument_size_in_bytes + found.temp_size_in_bytes + output)


def compile_all(
    step: Step,
    state: TrainState,
    batches: Sequence[Callable[[], Batch]],
    limit: int,
    refuse: Callable[[Batch, int], InputError],
) -> Step:
    """Compile a step for every shape of batches, so that none is a surprise later.

    Args:
        step: what `make_step` returned.
        state: to begin with.
        batches: each makes a batch of another shape.
        limit: bytes that a device has.
        refuse: told a batch and the bytes that its step needs on each device, what to
            say where they are too many.

    Returns:
        A step that runs these programs; batches of another shape go to `step`.

    Raises:
        InputError: what `refuse` said.
    """
    made: dict[Any, Step] = {}
    with progress.bar("compile", len(batches), "shapes") as advance:
        for make in batches:
            batch = make()
            compiled, needed = compile_step(step, state, batch)
            if compiled is None or needed > limit:
                raise refuse(batch, needed)
            made[_key(batch)] = compiled
            advance(1)

    def run(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        return made.get(_key(batch), step)(state, batch)

    return run


def _key(batch: Batch) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def memory_limit() -> int | None:
    """Bytes that the smallest device of this host has; None where none says.

    Example:
        >>> memory_limit()
    """
    stats = [found for x in jax.local_devices() if (found := x.memory_stats())]
    limits = [found["bytes_limit"] for found in stats if "bytes_limit" in found]
    return min(limits, default=None)


def memory_needed(message: str, arguments: int = 0) -> int | None:
    """Bytes that a step would need, from what a TPU's compiler says; None = not told.

    Args:
        message: of its error.
        arguments: bytes of what the step is given, where it speaks of temporaries.

    Example:
        >>> memory_needed("Ran out of memory in memory space hbm. Used 2.5G of 1G hbm.")
        2684354560
    """
    for pattern, more in ((_ALL, 0), (_TEMPORARIES, arguments)):
        if found := pattern.search(message):
            return more + int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))
    return None


def held(tree: Any) -> int:
    """Bytes of a device's part of arrays, from shapes and shardings.

    Example:
        >>> held(jax.ShapeDtypeStruct((4, 2), "float32"))
        32
    """
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total
