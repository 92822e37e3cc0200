"""The tables of docs/pods.md: every recipe compiled for a TPU slice, without a TPU.

    JAX_PLATFORMS=cpu python -m benchmarks.pods [--only e5]
    python -m benchmarks.pods --page

Needs the extra `tpu`. Each shape of batches is compiled anew, which takes minutes; one
that stands in pods.jsonl already is not compiled again: remove its line where the
recipe or the step has changed. `--page` prints what the file holds as Markdown.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3jax.core import config as configs
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.shapes import Shape
from m3jax.pipeline.stage import Train
from m3jax.pipeline.topology import each_bucket, in_shape
from m3jax.pipeline.topology_tables import (
    MEMORY,
    SPEED,
    memory_row,
    speed_row,
    to_json,
)
from m3jax.training.objectives import SubBatches

CONFIGS = Path(__file__).parent.parent / "configs"
# Config, size, slice.
RECIPES = (
    ("qwen3/embedding_stage2", "8B", "v5p:8x8x8"),
    ("e5/pretrain", "large", "v5e:8x8"),
    ("e5/pretrain", "base", "v5e:4x8"),
    ("e5/pretrain", "small", "v5e:4x4"),
    ("e5/finetune", "large", "v5e:2x4"),
    ("e5/finetune", "base", "v5e:2x4"),
    ("e5/finetune", "small", "v5e:2x4"),
    ("qwen3/embedding_stage1", "0.6B", "v5e:8x8"),
    ("qwen3/embedding_stage1", "4B", "v5p:2x4x4"),
    ("qwen3/embedding_stage1", "8B", "v5p:4x4x4"),
    ("qwen3/embedding_stage2", "0.6B", "v5e:8x8"),
    ("qwen3/embedding_stage2", "4B", "v5p:2x4x4"),
    ("qwen3/embedding_stage2", "8B", "v5p:4x4x4"),
    ("qwen3/reranker", "0.6B", "v5e:8x8"),
    ("qwen3/reranker", "4B", "v5p:2x4x4"),
    ("qwen3/reranker", "8B", "v5p:4x4x4"),
    ("kalm/pretrain", "v2", "v5e:8x8"),
    ("kalm/finetune", "v2", "v5e:8x8"),
    ("simcse/unsupervised", "base", "v5e:2x2"),
    ("simcse/supervised", "base", "v5e:2x4"),
    ("finetune_lora", "0.6B", "v5e:2x2"),
    ("bge_m3/retromae", "base", "v5p:2x4x4"),
    ("bge_m3/finetune", "base", "v5p:4x4x4"),
    ("bge_m3/unsupervised", "base", "v5p:4x4x8"),
)
# What the number of sub-batches does: tokens that a chip encodes at once.
OTHER_PARTS = {
    ("qwen3/embedding_stage2", "v5p:8x8x8"): 8_192,
    ("bge_m3/finetune", "v5p:4x4x4"): 32_768,
}
SLICES = {16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}
SLICES_P = {16: "v5p:2x2x4", 64: "v5p:4x4x4", 256: "v5p:4x8x8"}


@dataclass(frozen=True)
class Case:
    """A stage for a slice."""

    name: str
    slice: str
    stage: Train


def recipe(name: str, size: str) -> Train:
    """The last stage of a config, in the shape of its model."""
    path = CONFIGS / f"{name}.py"
    made: Any = configs.call(configs.load(path), size=size, where=name)
    stages = made if isinstance(made, dict) else {"train": made}
    return list(in_shape(stages, path).values())[-1]


def weak(stage: Train, batch: int, fsdp: int, **data: Any) -> Train:
    """A stage with as many queries as its chips make of it."""
    sizes = dataclasses.replace(stage.data, preset="", batch_size=batch, **data)
    return dataclasses.replace(stage, data=sizes, mesh=MeshConfig(fsdp=fsdp))


def cases() -> Iterator[Case]:
    """Recipes on slices that suit them, then the same work a chip on more chips."""
    for name, size, slice_ in RECIPES:
        stage = recipe(name, size)
        if name == "bge_m3/finetune":
            # As in the table of the losses, and as questions are.
            data = dataclasses.replace(stage.data, query_length=64)
            stage = dataclasses.replace(stage, data=data)
        if name == "qwen3/embedding_stage2" and slice_ == "v5p:8x8x8":
            stage = dataclasses.replace(stage, mesh=MeshConfig(fsdp=64))
        yield Case(f"{name} {size}", slice_, stage)
        if tokens := OTHER_PARTS.get((name, slice_)):
            parts = SubBatches(tokens=tokens)
            other = dataclasses.replace(stage, sub_batches=parts)
            yield Case(f"{name} {size}, {tokens:,} tokens at once", slice_, other)
    large, unified = recipe("e5/pretrain", "large"), recipe("bge_m3/finetune", "base")
    dense = recipe("bge_m3/unsupervised", "base")
    for chips, slice_ in SLICES.items():
        yield Case(f"weak e5 large {chips}", slice_, weak(large, 512 * chips, 8))
    lengths = {"query_length": 64, "passage_length": 512}
    for chips, slice_ in SLICES_P.items():
        stage = weak(dense, 1_024 * chips, 8, **lengths)
        yield Case(f"weak bge-m3 dense {chips}", slice_, stage)
    for chips, slice_ in SLICES_P.items():
        stage = weak(unified, 16 * chips, 8, **lengths)
        yield Case(f"weak bge-m3 all heads {chips}", slice_, stage)


def main() -> None:
    """Compile what is not in the file yet, or print the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    file = Path(__file__).with_suffix(".jsonl")
    parser.add_argument("--json", default=file, type=Path, help="a line a shape")
    parser.add_argument("--only", default="", help="cases that this regex finds")
    parser.add_argument("--lengths", type=int, nargs="*", help="of passages")
    parser.add_argument("--page", action="store_true", help="print what is there")
    args = parser.parse_args()
    lines = args.json.read_text().splitlines() if args.json.exists() else []
    rows = [json.loads(line) for line in lines]
    if args.page:
        page(rows)
        return
    done = {(x["case"], x["slice"], x["passage_length"]) for x in rows}
    for case in cases():
        if not re.search(args.only, f"{case.name} {case.slice}"):
            continue

        def wanted(shape: Shape, case: Case = case) -> bool:
            length = shape.passage_length
            asked = not args.lengths or length in args.lengths
            return asked and (case.name, case.slice, length) not in done

        print(f"{case.name} on {case.slice}: {case.stage.mesh}", flush=True)
        for one in each_bucket(case.stage, case.slice, wanted=wanted):
            (line,) = to_json([one], case.stage)
            cells = {"of_memory": memory_row(one), "of_speed": speed_row(one)}
            about = {
                "case": case.name,
                "slice": case.slice,
                "fsdp": case.stage.mesh.fsdp,
            }
            line["collectives"] = line["collectives"][:5]
            with args.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(about | line | cells) + "\n")
            print(f"  {one.compile_seconds:.0f} s: {' | '.join(cells['of_memory'])}")
            print(f"    {' | '.join(cells['of_speed'])} {line['advice']}", flush=True)


def page(rows: list[dict[str, Any]]) -> None:
    """Print both tables, and the efficiency of more chips."""
    order = [(case.name, case.slice) for case in cases()]

    def place(row: dict[str, Any]) -> tuple[int, int]:
        return order.index((row["case"], row["slice"])), row["passage_length"]

    for row in rows:
        if (row["case"], row["slice"]) not in order:
            raise SystemExit(f"{row['case']} on {row['slice']}: remove its line")
    rows = sorted(rows, key=place)
    recipes = [row for row in rows if not row["case"].startswith("weak")]
    for kind, columns in (("of_memory", MEMORY), ("of_speed", SPEED)):
        head = ("recipe", "slice", *columns)
        print(f"\n| {' | '.join(head)} |\n| --- | --- |{' ---: |' * len(columns)}")
        for row in recipes:
            print(f"| {' | '.join((row['case'], row['slice'], *row[kind]))} |")
    head = ("same work a chip", "slice", "queries", "s step", "efficiency", *SPEED[-3:])
    print(f"\n| {' | '.join(head)} |\n| --- | --- |{' ---: |' * (len(head) - 2)}")
    first: dict[str, float] = {}
    for row in sorted(rows, key=lambda row: row["chips"]):
        if row["case"].startswith("weak"):
            name = row["case"].removeprefix("weak ").rpartition(" ")[0]
            seconds = row["step_seconds"]
            share = first.setdefault(name, seconds) / seconds
            cells = (f"{row['rows']:,}", f"{seconds:.3f}", f"{share:.1%}")
            cells = (name, row["slice"], *cells, *row["of_speed"][-3:])
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
