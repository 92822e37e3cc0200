"""How much memory loading takes; test_memory.py runs this in a process of its own.

    python tests/hub/memory.py write FOLDER KIND
    python tests/hub/memory.py load TINY BIG host|device

`load` prints MiB: growth of the peak while BIG is loaded, its parameters, its largest
leaf.
"""

import shutil
import sys
from pathlib import Path

import jax
import numpy as np

from m3jax.core import tree
from m3jax.data.prompts import Prompts
from m3jax.hub import folder as hub
from m3jax.hub import tensors, torch_file
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, init
from m3jax.testing import tiny_tokenizer

MIB = 1 << 20


def write(folder: Path, kind: str, config: BertConfig) -> None:
    """Write a model of zeros and ones."""
    embedding = EmbeddingConfig(config)
    shapes = jax.eval_shape(lambda: init(EmbeddingModule(embedding), jax.random.key(0)))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    model = hub.Model(embedding, params, tiny_tokenizer(), 16, Prompts())
    hub.save(model, folder)
    if kind == "bin":
        path = folder / tensors.SAFETENSORS
        stored = tensors.read_safetensors(path)
        torch_file.write(folder / tensors.BIN, {n: t[:] for n, t in stored.items()})
        path.unlink()


def peak() -> float:
    """Most memory that this process ever had, in MiB; `ru_maxrss` has its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) / 1024 for x in lines if x.startswith("VmHWM:"))


def load(tiny: Path, big: Path, to: str) -> None:
    """Measure one load."""
    assert to in ("host", "device")
    hub.load(tiny, to=to)
    before = peak()
    model = hub.load(big, to=to)
    jax.block_until_ready(model.params)
    sizes = [leaf.nbytes / MIB for leaf in tree.paths(model.params).values()]
    print(f"{peak() - before:.1f} {sum(sizes):.1f} {max(sizes):.1f}")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        where = Path(sys.argv[2])
        shutil.rmtree(where, ignore_errors=True)
        for name, sizes in {
            "tiny": BertConfig(200, 8, 2, 2, 8, 64),
            "big": BertConfig(60_000, 512, 8, 8, 2_048, 512),
        }.items():
            write(where / name, sys.argv[3], sizes)
    else:
        load(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
