"""What there is to know of a run's data before it is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from m3jax.core.mesh import axis_sizes
from m3jax.core.progress import bar
from m3jax.data import batching, statistics, tokenize
from m3jax.data.batches import Batcher
from m3jax.data.examples import TrainingSet
from m3jax.data.plan import Plan, places
from m3jax.data.samples import count_tokens, samples
from m3jax.data.statistics import Filled
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import Data, Opened, measure, open_data, token_counts
from m3jax.pipeline.inspection_facts import (
    Inspection,
    SetFacts,
    ShapeFacts,
    Side,
    Totals,
)
from m3jax.pipeline.learner import pairing_of
from m3jax.pipeline.origin import check_prompts, choose_tokenizer
from m3jax.pipeline.stage import Train, steps_of
from m3jax.pipeline.stages import Resolved, resolve
from m3jax.training.objectives.make import reads_of

# Steps drawn where that is not told, and steps among which a sample is looked for.
_DRAWN, _LOOKED_AT = 2_000, 100_000
# Batches whose tokens are counted, and rows of each.
_COUNTED, _COUNTED_ROWS = 100, 20


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the pictures show.

    Attributes:
        sets: the data sets.
        lengths: tokens kept of the query and of the longest passage of their rows.
        plan: of their batches.
        part: data set of each step.
        shape: shape of each step.
        filled: tokens of each shape.
        totals: of all batches.
    """

    sets: Sequence[TrainingSet]
    lengths: Sequence[tuple[np.ndarray, np.ndarray]]
    plan: Plan
    part: np.ndarray
    shape: np.ndarray
    filled: Sequence[Filled]
    totals: Totals


def inspect(
    stages: Mapping[str, Train],
    name: str,
    *,
    tokenizer: str | None = None,
    devices: int | None = None,
    samples: int = 3,
    steps: int | None = None,
) -> tuple[Inspection, Drawn]:
    """Open, measure and plan the data of a stage as its training would.

    Args:
        stages: the stages of the run.
        name: of the one to look at.
        tokenizer: folder of a tokenizer that takes the place of the run's.
        devices: that the run will have; None = those here.
        samples: rows shown of each data set.
        steps: that are drawn; None = those of the run, at most 2,000.

    Returns:
        Numbers, and what the pictures show.

    Raises:
        InputError: config and data do not fit together.
    """
    resolved = resolve(stages, Path("no run"))
    one = next(one for one in resolved if one.name == name)
    stage = one.stage
    devices = len(jax.devices()) if devices is None else devices
    by_data, by_fsdp, _ = axis_sizes(stage.mesh, devices)
    multiple = by_data * by_fsdp * stage.sub_batches.count
    batching.check_sizes(stage.data, multiple)
    given = None if tokenizer is None else tokenize.load(tokenizer)
    data = open_data(stage.data)
    chosen = given or _tokenizer(one, resolved, data)
    check_prompts(stage, chosen)
    read = {"reads": reads_of(stage.objective), "pairing": pairing_of(stage, chosen)}
    sets = measure(stage.data, data, chosen, **read)
    plan = batching.make_plan(stage.data, sets, seed=stage.seed, multiple=multiple)
    run_steps = steps_of(stage, plan)
    steps = min(run_steps, _DRAWN) if steps is None else steps
    plan = plan.lasting(max(steps, min(run_steps, _LOOKED_AT)))
    batcher = Batcher(sets, plan, chosen, {}, **read)

    found = statistics.padding(plan, sets)
    filled = statistics.weighed(plan, found)
    lengths = [
        _uncut(stage, opened, one, chosen)
        for opened, one in zip(data.sets, sets, strict=True)
    ]
    facts = Inspection(
        devices,
        multiple,
        _sets(stage, data, batcher, lengths, run_steps, samples),
        _shapes(plan, sets, found, filled),
        _totals(stage, batcher, filled, run_steps),
    )
    kept = [
        (np.minimum(query, one.query_length), np.minimum(passage, one.passage_length))
        for (query, passage), one in zip(lengths, sets, strict=True)
    ]
    part, _, shape, _ = places(plan, 0, steps)
    return facts, Drawn(sets, kept, plan, part, shape, filled, facts.totals)


def _tokenizer(one: Resolved, stages: Sequence[Resolved], data: Data) -> Tokenizer:
    """That of the first stage before it that has one of its own."""
    first = one
    while first.parent is not None:
        first = next(other for other in stages if other.name == first.parent)
    if first is not one and first.origin is None:
        data = open_data(first.stage.data)
    return choose_tokenizer(first.stage, data, first.origin)


def _sets(
    stage: Train,
    data: Data,
    batcher: Batcher,
    lengths: Sequence[tuple[np.ndarray, np.ndarray]],
    steps: int,
    count: int,
) -> tuple[SetFacts, ...]:
    plan = batcher.plan
    shares = statistics.shares(plan)
    found = []
    for number, (opened, one) in enumerate(zip(data.sets, batcher.sets, strict=True)):
        scan, part = opened.scan, plan.parts[number]
        query, passage = lengths[number]
        facts = SetFacts(
            name=opened.name,
            kind=scan.kind,
            rows=scan.rows + scan.bad,
            trained_on=opened.count,
            share=shares[number],
            times=shares[number] * steps / sum(part.batches),
            languages=dict(scan.languages),
            query=_side(query, one.query_length),
            passage=_side(passage, one.passage_length),
            group=one.group,
            in_batch=opened.config.in_batch_negatives,
            negatives=statistics.negatives(scan, opened.kept),
            repeats=statistics.repeats(scan, opened.kept),
            dropped={**opened.dropped, "remainder": part.dropped},
            reasons=scan.reasons,
            samples=samples(batcher, number, count),
        )
        found.append(facts)
    return tuple(found)


def _uncut(
    stage: Train, opened: Opened, one: TrainingSet, tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the query and of the longest passage of each row trained on."""
    counts = token_counts(opened, stage.data, tokenizer)
    query, passage = counts.query, counts.passage
    if opened.scan.kind == "labelled" and opened.config.labels == "text":
        passage = np.zeros(len(query), np.int64)
        for label, (rows, _) in zip(
            one.rows.labels, one.rows.by_label.values(), strict=True
        ):
            texts = [prompt + label for prompt in one.passage_prompts]
            found = tokenize.encode(tokenizer, texts, max_length=10**6)
            passage[rows] = max(map(len, found))
    if opened.kept is None:
        return query, passage
    return query[opened.kept], passage[opened.kept]


def _side(lengths: np.ndarray, kept: int) -> Side:
    cut = float((lengths > kept).mean())
    return Side(statistics.percentiles(lengths), kept, cut)


def _shapes(
    plan: Plan,
    sets: Sequence[TrainingSet],
    found: Sequence[Sequence[Filled]],
    filled: Sequence[Filled],
) -> tuple[ShapeFacts, ...]:
    steps = sum(one.batches for one in filled)
    facts = []
    for number, (shape, one) in enumerate(zip(plan.shapes, filled, strict=True)):
        each = sum((cells[number] for cells in found), start=Filled())
        groups = {
            statistics.group_of(plan, sets, part, number)
            for part, cells in enumerate(found)
            if cells[number].batches
        }
        facts.append(
            ShapeFacts(
                shape.query_length,
                shape.passage_length,
                plan.sizes[number],
                tuple(sorted(groups)),
                round(each.batches),
                round(each.rows),
                one.batches / steps,
                *_shares(one),
            )
        )
    return tuple(facts)


def _totals(
    stage: Train, batcher: Batcher, filled: Sequence[Filled], steps: int
) -> Totals:
    plan, sets = batcher.plan, batcher.sets
    every = sum(filled, start=Filled())
    config = stage.data
    by_size = not (config.batch_tokens or config.preset or config.bucket_sizes)
    mean = max(1, round(every.rows / every.batches))
    random_size = config.batch_size if by_size else mean
    last = plan.steps_per_epoch if plan.period else len(plan.turns)
    looked_at = np.unique(np.linspace(0, last - 1, _COUNTED).astype(int)).tolist()
    with bar("count tokens", len(looked_at), "batches") as advance:
        counted = count_tokens(
            batcher,
            looked_at,
            [statistics.present(one) for one in sets],
            rows=_COUNTED_ROWS,
            advance=advance,
        )
    return Totals(
        steps,
        plan.steps_per_epoch,
        round(every.rows),
        round(every.space),
        statistics.programs(plan, sets),
        *_shares(every),
        random_size,
        statistics.random_efficiency(plan, sets, random_size, seed=stage.seed),
        counted.batches,
        counted.rows,
        counted.found.efficiency,
        counted.by_lengths.efficiency,
    )


def _shares(one: Filled) -> tuple[float, float, float]:
    """Share of real tokens: of queries, of passages, of both; 0 of nothing."""
    return (
        one.query / max(one.query_space, 1),
        one.passage / max(one.passage_space, 1),
        one.tokens / max(one.space, 1),
    )
