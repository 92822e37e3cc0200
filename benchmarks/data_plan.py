"""A plan of ten million rows, 50 data sets and 10 shapes."""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.table import Row
from m3jax.data.plan import Plan, batch, make_plan
from m3jax.data.shapes import Lengths, find_shapes

ROWS, SETS, SHAPES, STEPS = 10_000_000, 50, 10, 2_000


def rows() -> Iterator[Row]:
    """Seconds to the first step, and of any later one."""
    rng = np.random.default_rng(0)
    count = ROWS // SETS
    sets = [
        Lengths(
            np.minimum(64, rng.geometric(0.05, count) + 4).astype(np.uint16),
            np.minimum(512, rng.gamma(2, 80, count) + 8).astype(np.uint16),
        )
        for _ in range(SETS)
    ]
    start = time.perf_counter()
    shapes = find_shapes(sets, SHAPES, multiple=8)
    plan = make_plan(sets, shapes=shapes, sizes=[32] * len(shapes), seed=0)
    batch(plan, 0)
    first = time.perf_counter() - start
    name = f"plan of {ROWS:,} rows, {SETS} data sets, {len(shapes)} shapes"
    yield Row(f"{name}: to the first step", f"{first:.2f} s", target="< 2 s")
    steps = rng.integers(0, 10 * plan.steps_per_epoch, STEPS)
    name = f"any later step, the slowest of {STEPS:,} of ten epochs"
    yield _slowest(name, plan, steps.tolist(), "< 5 ms")
    weighed = dataclasses.replace(plan, weights=(1.0,) * SETS, period=0)
    lasting = weighed.lasting(10 * plan.steps_per_epoch)
    yield _slowest(f"{name}, by weight", lasting, steps.tolist())
    for share in (0.5, 0.0):
        mixed = dataclasses.replace(plan, homogeneity=share)
        # One after another: what is shared by the steps of a window is kept.
        yield _slowest(
            f"{STEPS:,} steps one after another, homogeneity {share}",
            mixed,
            range(STEPS),
        )


def _slowest(name: str, plan: Plan, steps: Sequence[int], target: str = "") -> Row:
    seconds = []
    for step in steps:
        start = time.perf_counter()
        batch(plan, step)
        seconds.append(time.perf_counter() - start)
    middle, most = np.median(seconds) * 1e3, max(seconds) * 1e3
    return Row(name, f"{most:.2f} ms (median {middle:.2f})", target=target)
