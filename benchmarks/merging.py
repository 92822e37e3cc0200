"""All figures of merging, as one table.

    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu taskset -c 0,1 python -m benchmarks.merging \
        [--only bge-m3 qwen3-8b] [--folder FOLDER] [--small]

Two checkpoints of random numbers are written in the published layout of BGE-M3 (2.3 GB
each, float32, three heads) and of Qwen3-Embedding-8B (15 GB each, bfloat16, several
files), merged by slerp, and removed. Beside it stands the time of copying both and one
more of the size of the result. The disk is asked first: the second needs 51 GB of
FOLDER (by default the temporary folder). `--small` makes both a few MB, to see that
everything works. Before each side the files are dropped from the memory of the system,
and its time ends when everything is on the disk. The curve on real text is apart:
`python -m benchmarks.merging_text`.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from benchmarks.retrieval_process import PEAK
from benchmarks.table import Row, show
from m3jax.core import tree
from m3jax.core.files import in_bytes
from m3jax.core.types import Params
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.hub import folder, tensors, weights
from m3jax.hub.weights import Names
from m3jax.nn import zoo
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.pipeline.merges.parents import open_parent

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
# Part -> hub id, tokenizer, type of the weights, asked seconds, memory and ratio.
PARTS: dict[str, tuple[str, str, Any, str, str, str]] = {
    "bge-m3": ("BAAI/bge-m3", "m3", np.float32, "<= 60 s", "<= 2 GiB", ""),
    "qwen3-8b": (
        *("Qwen/Qwen3-Embedding-8B", "qwen3", ml_dtypes.bfloat16),
        *("", "<= 4 GiB", "<= 2"),
    ),
}
_T = 0.3
_BUFFER = 1 << 24  # random numbers, of which every tensor takes its own cut
_SPARE = 2 << 30
_MERGE = (
    PEAK
    + """
import json, os, sys, time
begun = time.perf_counter()
from m3jax.merge import main
sys.stdout = sys.stderr
main()
os.sync()
told = {"seconds": time.perf_counter() - begun, "peak": peak()}
print(json.dumps(told), file=sys.__stdout__)
"""
)


def model(part: str, *, small: bool) -> folder.Model:
    """A model of the published shape, with shapes in place of parameters."""
    name, golden, dtype, *_ = PARTS[part]
    tokenizer = tokenize.load(GOLDEN / golden)
    published = zoo.find(name)
    config: Any = published.config
    if small:
        fields = {"layers": 2, "vocab_size": 4_000, "hidden": 128, "mlp": 256}
        encoder = dataclasses.replace(config.encoder, **fields)
        config = dataclasses.replace(config, encoder=encoder)
        if config.multivec:
            config = dataclasses.replace(config, multivec=128)
    if config.sparse:
        config = dataclasses.replace(config, special_ids=tokenizer.special_ids)
    shapes = jax.eval_shape(lambda: init(EmbeddingModule(config), jax.random.key(0)))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)
    prompts = Prompts(published.query, published.passage, published.task)
    return folder.Model(config, params, tokenizer, published.max_length, prompts)


def generate(model: folder.Model, to: Path, seed: int) -> None:
    """Write a model of random numbers, a block of them after the other."""
    dtype = jax.tree.leaves(model.params)[0].dtype
    rng = np.random.default_rng(seed)
    buffer = (rng.standard_normal(_BUFFER, np.float32) * 0.02).astype(dtype)

    def blocks(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        width = int(np.prod(shape[1:]))
        step = max(1, (_BUFFER // 2) // width)
        for first in range(0, shape[0], step):
            rows = min(step, shape[0] - first)
            at = int(rng.integers(0, _BUFFER - rows * width + 1))
            yield buffer[at : at + rows * width].reshape(rows, *shape[1:])

    def give(params: Params, names: Names) -> Iterator[tuple[str, tensors.Written]]:
        for name, (shape, _) in weights.sizes(params, names).items():
            yield name, blocks(shape)

    folder.save(model, to, give=give)


def forget(*folders: Path) -> None:
    """Drop files from the memory of the system, so that the next one reads the disk."""
    os.sync()
    for path in (path for one in folders for path in one.rglob("*") if path.is_file()):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def copied(folders: list[Path], to: Path) -> float:
    """Seconds that it takes to copy folders; no more than a file of them is there."""
    begun = time.perf_counter()
    for path in (path for one in folders for path in one.rglob("*") if path.is_file()):
        shutil.copyfile(path, to)
    os.sync()
    taken = time.perf_counter() - begun
    to.unlink()
    return taken


def merged(a: Path, b: Path, to: Path) -> dict[str, float]:
    """Seconds and peak memory of the program, in a process of its own."""
    words = ["--method", "slerp", "--t", f"{_T}", "--models", a, b, "--output", to]
    done = subprocess.run(
        [sys.executable, "-c", _MERGE, *map(str, words)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def largest_difference(a: Path, b: Path, out: Path) -> float:
    """From slerp in float64, of one matrix; relative to its largest number."""
    name = "encoder.layers.1.mlp.up.kernel"
    found = (open_parent(str(path)).tensors[name] for path in (a, b, out))
    x, y, z = (one.rows(0, one.shape[0]).astype(np.float64) for one in found)
    cosine = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
    angle = np.arccos(cosine)
    want = (np.sin((1 - _T) * angle) * x + np.sin(_T * angle) * y) / np.sin(angle)
    return float(np.abs(z - want).max() / np.abs(want).max())


def rows(part: str, place: Path, *, small: bool) -> Iterator[Row]:
    """Time, memory and correctness of one merge."""
    _, _, _, seconds, memory, ratio = PARTS[part]
    made = model(part, small=small)
    leaves = tree.paths(made.params).values()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    needed = 3 * size + min(size, tensors.MAX_FILE) + (0 if small else _SPARE)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise SystemExit(
            f"{part}: {in_bytes(needed)} of disk are needed in {place}, "
            f"{in_bytes(free)} are free"
        )
    with tempfile.TemporaryDirectory(prefix="merging-", dir=place) as name:
        a, b, out = (Path(name) / each for each in ("a", "b", "out"))
        for seed, to in enumerate((a, b)):
            print(f"{part}: writes {to}", file=sys.stderr, flush=True)
            generate(made, to, seed)
        forget(a, b)
        copy = copied([a, b, a], Path(name) / "copy")
        forget(a, b)
        found = merged(a, b, out)
        title = f"slerp of {part}, 2 x {in_bytes(size)}"
        yield Row(
            f"{title}, time; other: copies of both and of one more",
            f"{found['seconds']:.1f} s",
            f"{copy:.1f} s",
            f"{found['seconds'] / copy:.2f}",
            seconds or ratio,
        )
        yield Row(
            f"{title}, peak memory", f"{found['peak'] / 2**30:.2f} GiB", target=memory
        )
        # A bfloat16 has 8 bits.
        most = "<= 1e-6" if PARTS[part][2] == np.float32 else "<= 4e-3"
        yield Row(
            f"{title}, largest relative difference from float64",
            f"{largest_difference(a, b, out):.1e}",
            target=most,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    make = functools.partial(rows, place=options.folder, small=options.small)
    show(row for part in options.only for row in make(part))


if __name__ == "__main__":
    main()
