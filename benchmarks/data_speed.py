"""Whether data is there when the step wants it."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.data_padding import medquad
from benchmarks.table import Row
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data import plan as plans
from m3jax.data import tokenize
from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.draws import Dice
from m3jax.data.examples import example
from m3jax.data.pipeline import Stream
from m3jax.data.training_sets import measure, open_data

_STEPS, _TOGETHER = 640, 8  # a worker makes so many steps together
_ROOT = Path(__file__).parent.parent


def _timed(work: Callable[[], None]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


def throughput(tokenizer: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Batches of MedQuAD as a worker makes them, beside its texts only tokenised."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in a worker
    loaded = tokenize.load(tokenizer)
    config = medquad(folder)
    sets = measure(config, open_data(config), loaded)
    plan = make_plan(config, sets, seed=0)
    batcher = Batcher(sets, plan, loaded, {32: np.arange(32)})
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    texts: list[list[str]] = []
    for step in range(_STEPS):
        planned = plans.batch(plan, step)
        dice = Dice(0)
        found = [example(sets[0], int(r), dice, longest=256) for r in planned.rows]
        texts.append([str(one.query) for one in found])
        texts.append([str(one.passages[0]) for one in found])
    cutting = tokenize.load(tokenizer).backend
    cutting.enable_truncation(256)

    def worker() -> float:
        last = _STEPS + _TOGETHER
        stream = Stream(batcher, mesh, start=0, stop=last, workers=1)
        with contextlib.closing(stream):
            for _ in range(_TOGETHER):  # while the process starts
                next(stream)
            start = time.perf_counter()
            assert sum(1 for _ in stream) == _STEPS
            seconds = time.perf_counter() - start
        # Two pieces of work were being made when the clock started: they do not count.
        return seconds * _STEPS / (_STEPS - 2 * _TOGETHER)

    @_timed
    def thread() -> None:
        for step in range(0, _STEPS, _TOGETHER):
            batcher.batches(step, step + _TOGETHER)

    @_timed
    def bare() -> None:
        for part in texts:
            cutting.encode_batch_fast(part)

    @_timed
    def ids() -> None:
        for part in texts:
            for row in cutting.encode_batch_fast(part):
                np.array(row.ids, np.int32)

    made = batcher.batches(0, _STEPS)  # later ones have as many tokens, all but equal
    tokens = sum(int(a["query.mask"].sum() + a["passage.mask"].sum()) for a in made)
    works = (worker, thread, bare, ids)
    seconds = np.array([[work() for work in works] for _ in range(rounds)])
    speeds = tokens / np.median(seconds, axis=0)
    for i, one in enumerate(("a worker (two threads)", "one thread of a worker")):
        for j, how in ((2, "ids never taken out"), (3, "ids as arrays")):
            name = f"tokens/s of {one}, beside the bare tokenizer in one thread, {how}"
            ratio = f"{speeds[i] / speeds[j]:.2f}"
            yield Row(name, f"{speeds[i]:,.0f}", f"{speeds[j]:,.0f}", ratio, ">= 0.9")


def wait(folder: Path, steps: int = 200) -> Iterator[Row]:
    """What a training on MedQuAD with two workers says of its waiting."""
    with tempfile.TemporaryDirectory() as run:
        words = ["--config", "configs/pairs.py", "--run-dir", f"{run}/run"]
        words += ["--data.train", str(folder / "medquad" / "train.jsonl.gz")]
        words += ["--data.workers", "2", "--steps", f"{steps}"]
        words += ["--evaluate-every", f"{steps}"]
        done = subprocess.run(
            [sys.executable, "-m", "m3jax.train", *words],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    found = re.search(r"(.* updates in .* s), (.*%) of it waiting", done.stderr)
    assert found is not None, done.stderr
    name = f"share of the time that {found[1]} waited for data, MedQuAD, 2 workers"
    yield Row(name, found[2], target="<= 2 %")


_FIRST = """
import sys, time
import numpy as np
from m3jax.data import tokenize
from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.training_sets import measure, open_data
tokenizer = tokenize.load(sys.argv[1])
folder = sys.argv[2]
config = DataConfig(train=folder + "/rows.jsonl", dev=folder + "/dev", negatives=1,
                    cache=folder + "/cache", batch_size=32)
start = time.perf_counter()
sets = measure(config, open_data(config), tokenizer)
plan = make_plan(config, sets, seed=0)
Batcher(sets, plan, tokenizer, {32: np.arange(32)})(0)
print(time.perf_counter() - start)
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])
"""


def later(tokenizer: Path, folder: Path) -> Iterator[Row]:
    """Open the large file again, plan, and make the first batch."""
    dev = folder / "dev" / "qrels"
    dev.mkdir(parents=True)
    for name in ("corpus", "queries"):
        lines = [f'{{"_id": "{i}", "text": "{name} {i}"}}\n' for i in range(2)]
        (folder / "dev" / f"{name}.jsonl").write_text("".join(lines))
    judged = "query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n"
    (dev / "test.tsv").write_text(judged)
    done = subprocess.run(
        [sys.executable, "-c", _FIRST, str(tokenizer), str(folder)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seconds, kilobytes = done.stdout.split()
    yield Row("open, plan, first batch", f"{float(seconds):.2f} s", target="< 2 s")
    memory = f"{int(kilobytes) / 1024:.0f} MB"
    yield Row("memory of that process", memory, target="< 600 MB")
