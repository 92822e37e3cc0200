"""One host of several, as a process of its own: makes its rows of some batches.

python -m tests.hosts CONFIG.json HOST HOSTS START STOP OUTPUT.npz
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.tokenize import load
from m3jax.data.training_sets import measure, open_data


def batcher(config: dict[str, Any], host: int, hosts: int) -> Batcher:
    """Open the data as every host of a run does, and make batches for one of them."""
    sets = tuple(Dataset(**one) for one in config["mixture"])
    data = dataclasses.replace(DataConfig(**config["data"]), mixture=sets)
    tokenizer = load(config["tokenizer"])
    opened = measure(data, open_data(data), tokenizer)
    plan = make_plan(data, opened, seed=config["seed"]).lasting(config["steps"])
    local = {
        size: np.array_split(np.arange(size), hosts)[host] for size in set(plan.sizes)
    }
    return Batcher(opened, plan, tokenizer, local)


def main() -> None:
    """Write the arrays of each step under `STEP/NAME`."""
    path, output = Path(sys.argv[1]), sys.argv[6]
    host, hosts, start, stop = map(int, sys.argv[2:6])
    make = batcher(json.loads(path.read_text()), host, hosts)
    arrays = {
        f"{step}/{name}": array
        for step in range(start, stop)
        for name, array in make(step).items()
    }
    np.savez(output, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
