"""Losses on a pod slice: what a chip needs, and their share of a training step.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 python -m benchmarks.losses --only pod

Needs `libtpu` (`pip install m3jax[tpu]`) to compile for a TPU without one. FLOPs are
counted from shapes: XLA's own count reads the body of a loop once.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.table import Row
from m3jax import losses

WIDTH, LAYERS, LAYER_PARAMETERS = 1_024, 24, 12 * 1_024**2
# Links of a TPU v5e, one of them in one direction, and its peak in bfloat16.
LINKS, LINK_BYTES, PEAK_FLOPS = 4, 45e9, 197e12


@dataclass(frozen=True)
class Ring:
    """What compiling a ring tells, for one chip."""

    temp_bytes: int
    collectives: dict[str, int]


def ring(queries: int, *, topology: str = "v5e:16x16", tile: int | None = 512) -> Ring:
    """Compile value and gradient of a mean of InfoNCE, bfloat16, in a ring."""
    found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    devices = np.array(found.devices)
    mesh = Mesh(devices, ("data",), axis_types=(AxisType.Auto,))

    def local(query: jax.Array, passage: jax.Array) -> jax.Array:
        return losses.info_nce(
            query,
            passage,
            temperature=0.02,
            axis_name="data",
            transport="ring",
            tile=tile,
        )

    over = jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    step = jax.jit(jax.value_and_grad(lambda q, p: over(q, p).mean(), (0, 1)))
    shard = NamedSharding(mesh, P("data"))
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=shard)
        for shape in ((queries, WIDTH), (queries, 1, WIDTH))
    ]
    compiled = step.lower(*shapes).compile()
    memory, text = compiled.memory_analysis(), compiled.as_text()
    assert memory is not None and text is not None
    kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
    names = re.findall(rf" ({kinds})(?:-start)?\(", text)
    return Ring(memory.temp_size_in_bytes, dict(Counter(names)))


def model_flops(tokens: int, length: int) -> float:
    """Forward and backward of bge-m3; a second forward of sub-batches is not counted.

    6 FLOPs a parameter and token, and 12 x length x width a layer in attention.
    """
    attention = 12 * length * WIDTH * LAYERS
    return tokens * (6.0 * LAYERS * LAYER_PARAMETERS + attention)


def dense_share(negatives: int = 131_072, chips: int = 256) -> dict[str, float]:
    """Dense InfoNCE against the model, a chip; passages of 512 tokens, queries of 64.

    Four products of local queries with all passages (scores, and once more for the
    gradient, and two gradients). A gather moves bfloat16 passages and their float32
    gradients once, over all links of a torus; a ring moves the passages twice, over one
    link in one direction, here as if nothing were computed meanwhile.
    """
    b = negatives // chips
    loss = 4 * 2.0 * b * negatives * WIDTH
    model = model_flops(b * 512, 512) + model_flops(b * 64, 64)
    seconds = model / PEAK_FLOPS
    vectors = negatives * WIDTH
    gather = vectors * (2 + 4) / (LINKS * LINK_BYTES) / seconds
    ring = vectors * (2 + 2 + 4) / LINK_BYTES / seconds
    return {
        "FLOPs": loss / model,
        "FLOPs, and bytes of a gather over four links": loss / model + gather,
        "FLOPs, and bytes of a ring over one link": loss / model + ring,
    }


def heads_share(
    queries: int, length: int, *, group: int = 8, query_tokens: int = 64
) -> dict[str, float]:
    """Each head's FLOPs against the model's, value and gradient, over all chips.

    MaxSim makes its products once: the gradient goes through the token that was the
    nearest. Sparse: products of tables with 64 queries' tokens as columns, made twice,
    and two gradients.
    """
    passages = queries * group
    model = model_flops(passages * length, length)
    model += model_flops(queries * query_tokens, query_tokens)
    vectors = 2.0 * WIDTH * queries * query_tokens * passages
    return {
        "dense": 3 * 2.0 * queries * passages * WIDTH / model,
        "sparse": 4 * 2.0 * queries * passages * (64 * query_tokens) / model,
        "multivec": (vectors * length + 2 * vectors) / model,
    }


def rows() -> Iterator[Row]:
    """Memory, collectives and shares."""
    for queries, target in ((131_072, ""), (1_048_576, "<= 128 MiB")):
        found = ring(queries)
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.collectives.items())
        yield Row(
            f"info_nce in a ring, {queries:,} x {queries:,} x {WIDTH:,} bfloat16 on "
            f"v5e:16x16, memory a chip ({kinds})",
            f"{found.temp_bytes / 2**20:.1f} MiB",
            target=target,
        )
    for name, share in dense_share().items():
        yield Row(
            f"dense at 131,072 negatives, share of a bge-m3 step: {name}",
            f"{100 * share:.3f} %",
            target="<= 0.3 %",
        )
    for queries, length, target in ((1_152, 500, 8), (192, 8_192, 2)):
        shares = heads_share(queries, length)
        told = ", ".join(f"{name} {100 * x:.3f} %" for name, x in shares.items())
        yield Row(
            f"all heads, {queries:,} queries of 64 tokens, passages of {length:,}, "
            f"share of a bge-m3 step ({told})",
            f"{100 * sum(shares.values()):.2f} %",
            target=f"<= {target} %",
        )
