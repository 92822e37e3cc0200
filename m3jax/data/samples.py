"""Rows as they reach the model: read back from the arrays of real batches."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.data import plan as plans
from m3jax.data.batches import Batcher
from m3jax.data.sources.base import where
from m3jax.data.statistics import Filled

# Steps in which a data set is looked for where all batches are mixed.
_SEEN = 200


@dataclass(frozen=True)
class Text:
    """A text of a batch.

    Attributes:
        text: its tokens in words, prompt and special tokens included.
        tokens: how many.
        padding: tokens that fill up its place.
    """

    text: str
    tokens: int
    padding: int


@dataclass(frozen=True)
class Sample:
    """A row of a batch.

    Attributes:
        dataset: name of its data set.
        where: place of the row, e.g. `a.jsonl:17`.
        row: its number among the good rows, from 0.
        step: of the batch.
        in_batch: whether passages of other rows are its negatives.
        query: as the model reads it; None where it does not read it alone.
        passages: the positive first, or the pairs of each; None stands for each that
            there is not.
        teacher_scores: of the passages; empty where there are none.
        label: how alike query and passage are; None where that is not told.
    """

    dataset: str
    where: str
    row: int
    step: int
    in_batch: bool
    query: Text | None
    passages: tuple[Text | None, ...]
    teacher_scores: tuple[float, ...]
    label: float | None


@dataclass(frozen=True)
class Counted:
    """Tokens that were counted in real batches.

    Attributes:
        batches: that were looked at.
        rows: that were looked at in them.
        found: their tokens, each batch taken for as many rows as it has.
        by_lengths: the same, by the lengths that were measured.
    """

    batches: int
    rows: int
    found: Filled
    by_lengths: Filled


def samples(batcher: Batcher, part: int, count: int) -> tuple[Sample, ...]:
    """The first rows of a data set that a training reads.

    Args:
        batcher: makes the batches; its plan tells turns as far as it is looked at.
        part: number of the data set.
        count: most rows.

    Returns:
        Rows of one batch; none where the data set has no turn.
    """
    for step in _steps(batcher.plan, part):
        planned = plans.batch(batcher.plan, step)
        places = np.flatnonzero(planned.parts == part)[:count]
        if len(places):
            local = {size: places for size in batcher.plan.sizes}
            arrays = dataclasses.replace(batcher, local=local)(step)
            return tuple(_sample(batcher, arrays, i, step) for i in range(len(places)))
    return ()


def count_tokens(
    batcher: Batcher,
    steps: Sequence[int],
    present: Sequence[np.ndarray],
    *,
    rows: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> Counted:
    """Count the tokens of real batches, and of the same rows by their lengths.

    Args:
        batcher: makes the batches.
        steps: which of them.
        present: of each data set what `statistics.present` returned.
        rows: that are made of each batch at most.
        advance: told of each finished step.

    Returns:
        Both counts.
    """
    local = {size: np.arange(min(size, rows)) for size in batcher.plan.sizes}
    batcher = dataclasses.replace(batcher, local=local)
    found = by_lengths = Filled()
    seen = 0
    for step in steps:
        arrays = batcher(step)
        here = len(arrays["row"])
        times = int(arrays["size"]) / here
        masks = [
            arrays.get(f"{side}.mask", _NONE) for side in ("query", _texts(arrays))
        ]
        space = tuple(mask.size for mask in masks)
        real = tuple(int(mask.sum()) for mask in masks)
        told = [0, 0]
        for part, row in zip(arrays["dataset"], arrays["row"], strict=True):
            one = batcher.sets[part]
            told[0] += int(one.lengths[row]) * ("query.mask" in arrays)
            told[1] += int(one.rows.lengths[row]) * int(present[part][row])
        found += Filled(1 / times, here, *real, *space).times(times)
        by_lengths += Filled(1 / times, here, *told, *space).times(times)
        seen += here
        advance(1)
    return Counted(len(steps), seen, found, by_lengths)


_NONE = np.zeros((0, 0), bool)


def _texts(arrays: dict[str, np.ndarray]) -> str:
    """What stands for the passages of a batch: they alone, or with their query."""
    return "passage" if "passage.ids" in arrays else "pair"


def _steps(plan: plans.Plan, part: int) -> Sequence[int]:
    """Steps that may hold rows of a data set, likely ones first."""
    turns = np.flatnonzero(plan.turns == part)[:1].tolist()
    mixed = range(min(len(plan.turns), _SEEN)) if plan.homogeneity < 1 else ()
    return [*turns, *mixed]


def _sample(
    batcher: Batcher, arrays: dict[str, np.ndarray], i: int, step: int
) -> Sample:
    one = batcher.sets[int(arrays["dataset"][i])]
    row = int(arrays["row"][i])
    scores = arrays.get("teacher_scores")
    label = arrays.get("label")

    def text(ids: np.ndarray, mask: np.ndarray) -> Text:
        real = ids[mask].tolist()
        words = batcher.tokenizer.backend.decode(real, skip_special_tokens=False)
        return Text(words, len(real), len(ids) - len(real))

    return Sample(
        one.name,
        where(one.rows.source, row),
        row,
        step,
        bool(arrays["in_batch"][i]),
        text(arrays["query.ids"][i], arrays["query.mask"][i])
        if "query.ids" in arrays
        else None,
        tuple(
            text(ids, mask) if there else None
            for ids, mask, there in zip(
                arrays[f"{_texts(arrays)}.ids"][i],
                arrays[f"{_texts(arrays)}.mask"][i],
                arrays["where"][i],
                strict=True,
            )
        ),
        () if scores is None else tuple(scores[i].tolist()),
        None if label is None else float(label[i]),
    )
