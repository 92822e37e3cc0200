"""Memory per chip of long texts on a TPU slice, compiled without a TPU.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/pod_memory.py

Needs the extra `tpu` (libtpu). Two programs of each model are compiled ahead of time:
`encode` (bfloat16 parameters, all heads) and `train` (the whole step of contrastive
training: float32 parameters and AdamW, bfloat16 computation, all rematerialised).
Weights are shapes only. Printed per chip: what the arguments take, the temporaries, and
what part of the chip's memory both are.
"""

import argparse
import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from m3jax.core.mesh import (
    MeshConfig,
    batch_sharding,
    batch_shards,
    make_mesh,
    shardings,
)
from m3jax.core.types import Batch, Tokens
from m3jax.nn import zoo
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init
from m3jax.nn.encoder import SHARDING
from m3jax.training.objectives import ContrastiveConfig, contrastive
from m3jax.training.optimizer import (
    OptimizerConfig,
    all_but,
    make_optimizer,
    make_schedule,
)
from m3jax.training.state import abstract_state, starting
from m3jax.training.step import make_step

# Bytes of memory on one chip (Google's TPU documentation).
MEMORY = {"v5e": 16e9, "v5p": 95e9, "v6e": 32e9}
CASES = {
    "BAAI/bge-m3": 8_192,
    "Qwen/Qwen3-Embedding-8B": 32_768,
}


def shaped(tree: Any, layout: Any) -> Any:
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=where
        ),
        tree,
        layout,
    )


def tokens(mesh: Mesh, *shape: int) -> Tokens:
    """Shapes of padded texts, rows divided over the mesh."""
    rows = batch_sharding(mesh)
    return Tokens(
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows),
        jax.ShapeDtypeStruct(shape, jnp.bool_, sharding=rows),
    )


def encode(config: EmbeddingConfig, mesh: Mesh, rows: int, length: int) -> Any:
    """Lower the encoding of a batch."""
    module = EmbeddingModule(config)
    shapes = jax.eval_shape(lambda: init(module, jax.random.key(0)))
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), shapes
    )
    params = shaped(shapes, shardings(mesh, shapes, SHARDING))

    def run(params: Any, batch: Tokens) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return embed(module, params, batch, outputs=config.outputs)

    return jax.jit(run).lower(params, tokens(mesh, rows, length))


def train(config: EmbeddingConfig, mesh: Mesh, rows: int, length: int) -> Any:
    """Lower a training step: queries of 512 tokens, one long passage each."""
    module = EmbeddingModule(config)
    objective = contrastive(module, mesh, ContrastiveConfig())
    trainable = all_but(config.outputs[1:])
    optimizer = OptimizerConfig(trainable=trainable)
    tx = make_optimizer(optimizer, steps=10)
    like = abstract_state(starting(module), objective, tx, mesh, SHARDING)
    step = make_step(
        objective, tx, make_schedule(optimizer, 10), mesh, like, trainable=trainable
    )
    by_row = batch_sharding(mesh)

    def words(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.uint32, sharding=by_row)

    batch = Batch(
        query=tokens(mesh, rows, 512),
        passage=tokens(mesh, rows, 1, length),
        where=jax.ShapeDtypeStruct((rows, 1), jnp.bool_, sharding=by_row),
        query_ids=words(rows, 2),
        passage_ids=words(rows, 1, 2),
        in_batch=jax.ShapeDtypeStruct((rows,), jnp.bool_, sharding=by_row),
        row=jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=by_row),
        dataset=jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=by_row),
    )
    return step.lower(like, batch)  # pyright: ignore[reportFunctionMemberAccess]


def main() -> None:
    """Compile and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5p:4x4x4")
    parser.add_argument("--tensor", type=int, default=1)
    parser.add_argument("--fsdp", type=int, default=16)
    parser.add_argument("--rows", type=int, default=1, help="texts on a chip")
    parser.add_argument("--only", help="one model")
    args = parser.parse_args()
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=args.topology
    ).devices
    mesh = make_mesh(MeshConfig(-1, args.fsdp, args.tensor), devices)
    memory = MEMORY[args.topology.split(":")[0]]
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    print(f"{args.topology}, {math.prod(mesh.shape.values())} chips: {sizes}")
    print("| model, tokens | program | texts | arguments GB | temporary GB | part |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, length in CASES.items():
        if args.only and args.only not in name:
            continue
        config = zoo.find(name).config
        assert isinstance(config, EmbeddingConfig)
        encoder = dataclasses.replace(config.encoder, dtype="bfloat16")
        config = dataclasses.replace(config, encoder=encoder)
        rows = args.rows * batch_shards(mesh)
        for program in (encode, train):
            start = time.perf_counter()
            compiled = program(config, mesh, rows, length).compile()
            found = compiled.memory_analysis()
            given, spare = found.argument_size_in_bytes, found.temp_size_in_bytes
            # What is donated holds the results too.
            spare += found.output_size_in_bytes - found.alias_size_in_bytes
            seconds = time.perf_counter() - start
            kernel = "tpu_custom_call" in compiled.as_text()
            print(
                f"| {name}, {length:,} | {program.__name__} | {rows} | "
                f"{given / 1e9:.2f} | {spare / 1e9:.2f} | "
                f"{(given + spare) / memory:.0%} |"
                f" compiled in {seconds:.0f} s; kernel in it: {kernel}",
                flush=True,
            )


if __name__ == "__main__":
    main()
