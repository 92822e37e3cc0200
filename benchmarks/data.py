"""All figures of the data, as one table.

    M3JAX_DATA=FOLDER JAX_PLATFORMS=cpu python -m benchmarks.data --tokenizer FOLDER \
        [--rounds 5] [--rows 1000000] [--only plan padding throughput wait scan]

M3JAX_DATA has a folder medquad, and others of configs/mixture.py; --tokenizer is one
with tokenizer.json (the figures asked for are of all-MiniLM-L6-v2). `scan` needs 2.5 GB
of disk. Takes some ten minutes, in which nothing else should run.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks import data_padding, data_plan, data_scan, data_speed
from benchmarks.losses import positive
from benchmarks.table import Row, show

Part = Callable[[argparse.Namespace], Iterator[Row]]


def scan(options: argparse.Namespace) -> Iterator[Row]:
    """The passes over a large file of generated rows."""
    with tempfile.TemporaryDirectory() as folder:
        yield from data_scan.rows(options.tokenizer, options.rows, Path(folder))
        yield from data_speed.later(options.tokenizer, Path(folder))


PARTS: dict[str, Part] = {
    "plan": lambda options: data_plan.rows(),
    "padding": lambda options: data_padding.rows(options.tokenizer, options.data),
    "throughput": lambda options: data_speed.throughput(
        options.tokenizer, options.data, options.rounds
    ),
    "wait": lambda options: data_speed.wait(options.data),
    "scan": scan,
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--rows", type=positive, default=1_000_000)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    options.rounds, options.rows = int(options.rounds), int(options.rows)
    options.data = Path(os.environ.get("M3JAX_DATA") or "no folder")
    if not (options.tokenizer / "tokenizer.json").is_file():
        parser.error("--tokenizer: expected a folder with tokenizer.json, found none")
    if not (options.data / "medquad").is_dir():
        needed = {"padding", "throughput", "wait"} & set(options.only)
        for name in sorted(needed):
            print(f"left out, M3JAX_DATA has no medquad: {name}", file=sys.stderr)
        options.only = [name for name in options.only if name not in needed]
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("jax", "grain", "tokenizers")
    )
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    show(row for name in options.only for row in PARTS[name](options))


if __name__ == "__main__":
    main()
