"""The tables of docs/pods.md: recipes compiled for TPU slices, without a TPU.

    JAX_PLATFORMS=cpu python -m benchmarks.pods [--only e5] [--json FILE]

Needs the extra `tpu`. Each bucket is compiled anew, which takes minutes.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.nn import zoo
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.pipeline.topology import each_bucket
from m3jax.pipeline.topology_tables import (
    MEMORY,
    SPEED,
    advice,
    memory_row,
    speed_row,
    to_json,
)
from m3jax.training.objectives import ContrastiveConfig, SubBatches, UnifiedConfig


def model(name: str) -> EmbeddingConfig:
    """A published model that computes in bfloat16."""
    config = zoo.find(name).config
    assert isinstance(config, EmbeddingConfig)
    encoder = dataclasses.replace(config.encoder, dtype="bfloat16")
    return dataclasses.replace(config, encoder=encoder)


def bge_m3(fsdp: int = 1, **data: Any) -> Train:
    """Fine-tuning with all heads, seven negatives and queries of 64 tokens."""
    sizes = {"preset": "bge_m3_finetune", "passage_length": 8_192} | data
    return Train(
        model=model("BAAI/bge-m3"),
        data=DataConfig(negatives=7, query_length=64, **sizes),
        objective=UnifiedConfig(),
        sub_batches=SubBatches(tokens=16_384),
        mesh=MeshConfig(fsdp=fsdp),
    )


def e5_large(batch: int = 32_768, fsdp: int = 1) -> Train:
    """Pre-training on pairs."""
    data = DataConfig(batch_size=batch, query_length=128, passage_length=128)
    return Train(
        model=model("intfloat/e5-large"),
        data=data,
        objective=ContrastiveConfig(temperature=0.01),
        sub_batches=SubBatches(tokens=16_384),
        mesh=MeshConfig(fsdp=fsdp),
    )


def qwen3_8b(fsdp: int = 64) -> Train:
    """Full fine-tuning with all blocks of negatives."""
    data = DataConfig(
        batch_size=2_048, negatives=1, query_length=512, passage_length=2_048
    )
    blocks = ("own", "passages", "queries", "positive_positive")
    return Train(
        model=model("Qwen/Qwen3-Embedding-8B"),
        data=data,
        objective=ContrastiveConfig(
            temperature=0.01, negatives=blocks, false_negative_margin=0.1
        ),
        sub_batches=SubBatches(tokens=16_384),
        mesh=MeshConfig(fsdp=fsdp),
    )


def cases() -> Iterator[tuple[str, str, Train]]:
    """Name, slice, stage."""
    yield "qwen3-8b", "v5p:8x8x8", qwen3_8b()
    yield "e5-large", "v5e:8x8", e5_large()
    for chips, slice_ in ((16, "v5e:4x4"), (256, "v5e:16x16")):
        yield f"weak-e5-large-{chips}", slice_, e5_large(512 * chips)
    for chips, slice_ in ((16, "v5p:2x2x4"), (64, "v5p:4x4x4"), (256, "v5p:4x8x8")):
        batch = {"preset": "", "passage_length": 512, "batch_size": 16 * chips}
        yield f"weak-bge-m3-{chips}", slice_, bge_m3(**batch)
    yield "bge-m3", "v5p:4x4x4", bge_m3()


def main() -> None:
    """Compile and print, each line as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--json", help="file to add a line a bucket to")
    args = parser.parse_args()
    for name, slice_, stage in cases():
        if args.only not in name:
            continue
        print(f"\n{name} on {slice_}: {stage.mesh}, {stage.sub_batches}")
        print(f"memory, GB a chip: {', '.join(MEMORY)}")
        print(f"a step: {', '.join(SPEED)}", flush=True)
        for one in each_bucket(stage, slice_):
            print(f"| {' | '.join(memory_row(one))} |")
            print(f"| {' | '.join(speed_row(one))} |")
            print(f"compiled in {one.compile_seconds:.0f} s. {advice(stage, one)}")
            for each in one.collectives[:5]:
                print(f"  {each}")
            print(flush=True, end="")
            if args.json:
                with open(args.json, "a", encoding="utf-8") as file:
                    (line,) = to_json([one], stage)
                    file.write(json.dumps({"case": name, "slice": slice_, **line}))
                    file.write("\n")


if __name__ == "__main__":
    main()
