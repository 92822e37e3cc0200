"""How much of the batches is real text, beside what random batches and search give."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.table import Row
from m3jax.core import config as configs
from m3jax.data import tokenize
from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.examples import TrainingSet
from m3jax.data.plan import Plan, places
from m3jax.data.shapes import Lengths, Shape, assign
from m3jax.data.statistics import random_efficiency
from m3jax.data.training_sets import measure, open_data

_TRIES = 6_000
_SAMPLE = 20_000
_STEPS = 1_000


def rows(tokenizer: Path, folder: Path) -> Iterator[Row]:
    """Share of real tokens in MedQuAD and in the mixture of all training sets."""
    loaded = tokenize.load(tokenizer)
    for shapes, asked in ((10, ">= 0.88"), (24, ">= 0.92")):
        config = medquad(folder, shapes=shapes)
        sets, plan = _opened(config, loaded)
        real = counted(Batcher(sets, plan, loaded, _whole(plan)), plan.steps_per_epoch)
        name = f"padding efficiency, MedQuAD, batch 32, {len(plan.shapes)} shapes"
        best = f"{searched(sets, plan):.3f} (search)"
        yield Row(name, f"{real:.3f}", best, target=asked)
    name = "the same, random batches padded to their longest (sentence-transformers)"
    yield Row(name, "", f"{random_efficiency(plan, sets, 32):.3f}")
    sets, plan = _opened(mixture(folder), loaded)
    real = counted(Batcher(sets, plan, loaded, _whole(plan)), _STEPS)
    name = (
        f"padding efficiency, all {len(sets)} training sets, {len(plan.shapes)} shapes"
    )
    yield Row(name, f"{real:.3f}", "")
    bound = by_lengths(sets, plan, plan.shapes)
    name = "the same if each passage were as long as the longest of its row"
    yield Row(name, f"{bound:.3f}", f"{searched(sets, plan):.3f} (search)")


def medquad(folder: Path, **fields: int) -> DataConfig:
    """The whole training part, 256 tokens on both sides."""
    given = {"batch_size": 32, "query_length": 256, "passage_length": 256} | fields
    train = str(folder / "medquad" / "train.jsonl.gz")
    config = DataConfig(train=train, dev=str(folder / "medquad"))
    return dataclasses.replace(config, **given)


def mixture(folder: Path) -> DataConfig:
    """configs/mixture.py, and the graded pairs of all languages beside it."""
    os.environ["M3JAX_DATA"] = str(folder)
    path = Path(__file__).parent.parent / "configs" / "mixture.py"
    config = configs.load(path)().data
    graded = tuple(
        Dataset(str(path), name=f"stsb {path.parent.name}", task="paraphrase")
        for path in sorted((folder / "stsb").glob("*/train.jsonl.gz"))
    )
    return dataclasses.replace(config, mixture=(*config.mixture, *graded), shapes=10)


def _opened(
    config: DataConfig, tokenizer: tokenize.Tokenizer
) -> tuple[tuple[TrainingSet, ...], Plan]:
    sets = measure(config, open_data(config), tokenizer)
    return sets, make_plan(config, sets, seed=0).lasting(_STEPS)


def _whole(plan: Plan) -> dict[int, np.ndarray]:
    return {size: np.arange(size) for size in plan.sizes}


def counted(batcher: Batcher, steps: int) -> float:
    """Real tokens over all, of the arrays of some steps."""
    real = total = 0
    for step in range(steps):
        arrays = batcher(step)
        for name in ("query.mask", "passage.mask"):
            real += int(arrays[name].sum())
            total += arrays[name].size
    return real / total


def _sample(sets: Sequence[TrainingSet], plan: Plan) -> list[tuple[Lengths, float]]:
    """Lengths of each data set, and its share of the rows that are trained on."""
    turns = np.bincount(places(plan, 0, _STEPS)[0], minlength=len(sets))
    found = []
    for one, count in zip(sets, turns, strict=True):
        every = max(1, len(one.lengths) * len(sets) // _SAMPLE)
        query, passage = one.lengths[::every], one.rows.lengths[::every]
        lengths = Lengths(query.astype(int), passage.astype(int), group=one.group)
        found.append((lengths, count / len(lengths.query)))
    return found


def _efficiency(
    sample: Sequence[tuple[Lengths, float]], shapes: Sequence[Shape]
) -> float:
    real = total = 0.0
    for lengths, weight in sample:
        tokens = np.array([shape.tokens(lengths.group) for shape in shapes])
        padded = tokens[assign(lengths, shapes)].sum()
        real += weight * (lengths.query + lengths.group * lengths.passage).sum()
        total += weight * padded
    return real / total


def by_lengths(
    sets: Sequence[TrainingSet], plan: Plan, shapes: Sequence[Shape]
) -> float:
    """Efficiency of some shapes, batches of any size being filled."""
    return _efficiency(_sample(sets, plan), shapes)


def searched(sets: Sequence[TrainingSet], plan: Plan) -> float:
    """The best that random steps find, from equal shares of the passages on."""
    sample = _sample(sets, plan)
    rng = np.random.default_rng(0)
    query = max(int(one.query.max()) for one, _ in sample)
    passage = max(int(one.passage.max()) for one, _ in sample)
    group = float(np.mean([one.group for one, _ in sample]))
    lengths = np.concatenate([one.passage for one, _ in sample])
    edges = np.quantile(lengths, np.linspace(0, 1, len(plan.shapes) + 1)[1:-1])
    top = Shape(query, passage)
    shapes = [Shape(query // 2, int(edge)) for edge in edges]

    def value(others: Sequence[Shape]) -> float:
        known = sorted({*others, top}, key=lambda shape: (shape.tokens(group), shape))
        return _efficiency(sample, known)

    best = value(shapes)
    for _ in range(_TRIES):
        number = int(rng.integers(len(shapes)))
        other = list(shapes)
        moved = shapes[number]
        if rng.random() < 0.1:
            moved = Shape(
                *(int(rng.integers(1, most + 1)) for most in (query, passage))
            )
        elif rng.random() < 0.5:
            step = int(rng.integers(-4, 5))
            moved = Shape(
                int(np.clip(moved.query_length + step, 1, query)), moved.passage_length
            )
        else:
            step = int(rng.integers(-15, 16))
            moved = Shape(
                moved.query_length,
                int(np.clip(moved.passage_length + step, 1, passage)),
            )
        other[number] = moved
        found = value(other)
        if found >= best:
            best, shapes = found, other
    return best
