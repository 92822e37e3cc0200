"""Compile attention for a TPU pod slice, without a TPU, and print what it needs.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python benchmarks/attention_tpu.py

Needs `libtpu` (`pip install m3jax[tpu]`). Forward and backward of `attend`, over a
data x fsdp x tensor mesh; it says what compiles and how much memory a chip needs, and
nothing about speed.
"""

import argparse
import time
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from m3jax.core.mesh import BATCH_AXES, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.ops.attention import attend

# What a Pallas kernel for a TPU is called in the compiled program.
MOSAIC = 'custom_call_target="tpu_custom_call"'


@dataclass(frozen=True)
class Case:
    """Shapes of one call, over all chips."""

    width: int
    causal: bool
    groups: int
    heads: int = 16
    rows: int = 16
    length: int = 8_192
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Compiled:
    """What a compilation tells."""

    trace_seconds: float
    compile_seconds: float
    temp_bytes: int
    """Per chip, beyond arguments and results."""
    mosaic_calls: int


CASES = [
    Case(width, causal, groups)
    for width in (32, 64, 128)
    for causal, groups in ((False, 16), (True, 8), (True, 2))
]


def topology_mesh(name: str, fsdp: int, tensor: int) -> Mesh:
    """Arrange the chips of a TPU topology; `data` takes what is left."""
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return make_mesh(MeshConfig(fsdp=fsdp, tensor=tensor), topology.devices)


def compile_for(
    mesh: Mesh, case: Case, kernel: Literal["auto", "xla", "splash"] = "auto"
) -> Compiled:
    """Compile value and gradients of one call, as a training step would hold it."""

    def total(
        query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
    ) -> jax.Array:
        found = attend(query, key, value, mask, causal=case.causal, kernel=kernel)
        return found.astype(jnp.float32).sum()

    by_row = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    by_head = NamedSharding(mesh, PartitionSpec(BATCH_AXES, None, "tensor"))

    def shape(heads: int) -> jax.ShapeDtypeStruct:
        split = by_head if heads % mesh.shape["tensor"] == 0 else by_row
        return jax.ShapeDtypeStruct(
            (case.rows, case.length, heads, case.width), case.dtype, sharding=split
        )

    query, key = shape(case.heads), shape(case.groups)
    mask = jax.ShapeDtypeStruct((case.rows, case.length), bool, sharding=by_row)
    with jax.set_mesh(mesh):
        start = time.perf_counter()
        step = jax.jit(jax.value_and_grad(total, (0, 1, 2)))
        lowered = step.lower(query, key, key, mask)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None
    return Compiled(
        middle - start,
        end - middle,
        memory.temp_size_in_bytes,
        text.count(MOSAIC),
    )


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--fsdp", type=int, default=2)
    parser.add_argument("--tensor", type=int, default=4)
    parser.add_argument("--kernel", default="auto", choices=["auto", "xla", "splash"])
    flags = parser.parse_args()
    mesh = topology_mesh(flags.topology, flags.fsdp, flags.tensor)
    print(f"{flags.topology}: {dict(mesh.shape)}, {mesh.devices.flat[0].device_kind}")
    for case in CASES:
        found = compile_for(mesh, case, flags.kernel)
        print(
            f"{case.rows} x {case.length} tokens, {case.heads} heads on {case.groups}, "
            f"width {case.width}, {'causal' if case.causal else 'full'}: "
            f"{found.temp_bytes / 2**20:.1f} MiB a chip, "
            f"{found.mosaic_calls} Mosaic calls, "
            f"traced in {found.trace_seconds:.1f} s, "
            f"compiled in {found.compile_seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
