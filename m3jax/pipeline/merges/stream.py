"""Merging of models in files: block by block, in no more memory than a few blocks.

The parts of `m3jax.merging.method` are put together here as `m3jax.merging.trees` does
it in memory. Of a tensor of several blocks, all are read for its sums, and once more to
be combined; by then the operating system still has most of them.
"""

import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.hub import weights
from m3jax.hub.weights import Names
from m3jax.merging.agree import is_kept
from m3jax.merging.method import Per, State, combine, conclude, reduce, wide
from m3jax.pipeline.merges.parents import Parent, Tensor
from m3jax.pipeline.merges.recipe import Recipe

T = TypeVar("T")
S = TypeVar("S")
_BLOCK = 1 << 21  # numbers of a block, of each model
_WORKERS = min(8, 2 * (os.cpu_count() or 1))  # some wait for the disk
_AHEAD = _WORKERS + 2  # blocks that wait to be written


@dataclass(frozen=True)
class Job:
    """A merge.

    Attributes:
        recipe: the method, and what it is given.
        parents: the models in the order of the method: a base, then the others.
        first: the model that is like the result.
        per: what sums are over.
        keep: regexes of tensors that stay as in `first`.
        advance: is told of numbers that were combined.
        pool: the workers.
        block: numbers of a block.
    """

    recipe: Recipe
    parents: Sequence[Parent]
    first: Parent
    per: Per
    keep: Sequence[str]
    advance: Callable[[int], None]
    pool: ThreadPoolExecutor
    block: int = _BLOCK

    def tensors(self, name: str) -> list[Tensor]:
        """A published tensor of every model."""
        return [parent.tensors[name] for parent in self.parents]


def giver(
    job: Job,
) -> Callable[[Params, Names], Iterator[tuple[str, Iterable[np.ndarray]]]]:
    """Make the function that gives merged tensors to be written; see `folder.save`.

    Args:
        job: the merge.

    Returns:
        Shapes of parameters, names -> their name and blocks of rows, one tensor after
        the other.

    Raises:
        InputError: a number of a model is not finite, or a merged one is too large for
            the type of the first model; names tensor and model.
    """
    totals = functools.cache(lambda: _totals(job) if job.per == "tree" else [])

    def give(
        params: Params, names: Names
    ) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
        for path, leaf in tree.paths(params).items():
            written = weights.published_names(path, leaf.shape, names, written=True)
            ours = tree.published(path, leaf.shape)
            for name, theirs in zip(ours, written, strict=True):
                yield theirs, _blocks(job, name, totals(), np.dtype(leaf.dtype))

    return give


def workers() -> ThreadPoolExecutor:
    """Threads that read and compute; XLA and the disk work without Python's lock."""
    return ThreadPoolExecutor(_WORKERS, thread_name_prefix="merge")


def _blocks(
    job: Job, name: str, totals: Sequence[Any], dtype: np.dtype
) -> Iterator[np.ndarray]:
    """The merged tensor, one block of rows after the other."""
    if is_kept(name, job.keep):
        tensor = job.first.tensors[name]
        for span in _spans(tensor.shape, job.block):
            part = tensor.rows(*span)
            _require_finite(part, span, tensor, job.first)
            yield part.astype(dtype, copy=False)
            job.advance(part.size)
        return
    shape = job.first.tensors[name].shape
    spans = _spans(shape, job.block)
    if job.per == "row" and len(shape) == 1:
        spans = [(0, shape[0])]  # it is one row
    # What fits into a block is read once.
    read = functools.cache(functools.partial(_read, job, name))
    if len(spans) > 1:
        read = functools.partial(_read, job, name)
    if job.per == "row":
        state = None
    else:
        state = _state(job, name, spans, totals, read)

    def merged(span: tuple[int, int]) -> np.ndarray:
        with wide():
            block = read(span)
            known = state
            if known is None:
                known = _of_rows(job, name, block)
            found = combine(block, known, method=job.recipe.method, dtype=dtype)
            if what := _wrong(found):
                raise InputError(
                    f"{job.first.tensors[name].name} within what {dtype} holds",
                    f"{what} in merged rows {span[0]} to {span[1] - 1}",
                    where=job.first.name,
                    do="The type is that of the first model: name one of a wider type "
                    "first, or lower weights.",
                )
            return np.asarray(found)

    for block in _in_order(job.pool, merged, spans):
        yield block
        job.advance(block.size)


def _state(
    job: Job,
    name: str,
    spans: Sequence[tuple[int, int]],
    totals: Sequence[Any],
    read: Callable[[tuple[int, int]], list[np.ndarray]],
) -> State:
    """What a tensor is combined with, after all rounds."""
    method = job.recipe.method
    with wide():
        state = _arrays(job.recipe.setting.at(name))
        for number in range(len(method.rounds)):
            if job.per == "tree":
                sums = totals[number]
            else:
                sums = _sums(job, number, state, spans, read)
            state = conclude(sums, state, method=method, number=number)
        return _arrays(state)


def _sums(
    job: Job,
    number: int,
    state: State,
    spans: Sequence[tuple[int, int]],
    read: Callable[[tuple[int, int]], list[np.ndarray]],
) -> Any:
    """Sums of one round over all blocks of a tensor."""

    def one(span: tuple[int, int]) -> np.ndarray:
        with wide():
            return np.asarray(
                reduce(read(span), state, method=job.recipe.method, number=number)
            )

    # In their order: the same files always give the same bits.
    return functools.reduce(np.add, _in_order(job.pool, one, spans))


def _totals(job: Job) -> list[Any]:
    """Sums of every round over all tensors of the models."""
    method, found = job.recipe.method, []
    names = [x for x in job.first.tensors if not is_kept(x, job.keep)]
    for number in range(len(method.rounds)):
        total: Any = None
        for name in names:
            spans = _spans(job.tensors(name)[0].shape, job.block)
            with wide():
                state = _arrays(job.recipe.setting.at(name))
                for done, sums in enumerate(found):
                    state = conclude(sums, state, method=method, number=done)
                state = _arrays(state)
            read = functools.partial(_read, job, name)
            sums = _sums(job, number, state, spans, read)
            total = sums if total is None else total + sums
        found.append(total)
    return found


def _of_rows(job: Job, name: str, block: list[np.ndarray]) -> State:
    """What a block is combined with, where each of its rows is for itself."""
    method = job.recipe.method
    axes = tuple(range(1 if block[0].ndim > 1 else 0, block[0].ndim))
    state = _arrays(job.recipe.setting.at(name))
    for number in range(len(method.rounds)):
        sums = reduce(block, state, method=method, number=number, axes=axes)
        state = conclude(sums, state, method=method, number=number)
    return state


def _read(job: Job, name: str, span: tuple[int, int]) -> list[np.ndarray]:
    """The same rows of every model; all of them have to be numbers."""
    block = [tensor.rows(*span) for tensor in job.tensors(name)]
    for parent, tensor, part in zip(job.parents, job.tensors(name), block, strict=True):
        _require_finite(part, span, tensor, parent)
    return block


def _require_finite(
    part: np.ndarray, span: tuple[int, int], tensor: Tensor, parent: Parent
) -> None:
    if what := _wrong(part):
        raise InputError(
            f"numbers in {tensor.name}",
            f"{what} in rows {span[0]} to {span[1] - 1}",
            where=parent.name,
            do="Take a checkpoint from before; keep takes a tensor of the first model.",
        )


def _wrong(part: Any) -> str:
    """What is in a block that is no number; "" where all are."""
    if bool(_all_finite(part)):
        return ""
    return "NaN" if bool(jnp.isnan(part).any()) else "an infinity"


@jax.jit
def _all_finite(x: Any) -> jax.Array:
    return jnp.isfinite(x).all()


def _spans(shape: Sequence[int], block: int) -> list[tuple[int, int]]:
    """First row and row after the last of every block.

    Example:
        >>> _spans((5, 3), 6)
        [(0, 2), (2, 4), (4, 5)]
    """
    step = max(1, block // max(math.prod(shape[1:]), 1))
    return [(x, min(x + step, shape[0])) for x in range(0, shape[0], step)]


def _arrays(state: Mapping[str, Any]) -> State:
    """Small arrays on the host, which every thread may use."""
    return {name: np.asarray(value) for name, value in state.items()}


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[[S], T], items: Sequence[S]
) -> Iterator[T]:
    """Results in the order of the items; of those that are not taken only a few."""
    if len(items) == 1:
        yield function(items[0])
        return
    left = iter(items)
    waiting: deque[Future[T]] = deque(
        pool.submit(function, item) for item in itertools.islice(left, _AHEAD)
    )
    try:
        while waiting:
            found = waiting.popleft().result()
            for item in itertools.islice(left, 1):
                waiting.append(pool.submit(function, item))
            yield found
    finally:
        for future in waiting:
            future.cancel()
