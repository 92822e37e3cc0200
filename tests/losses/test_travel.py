import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from m3jax.core.mesh import BATCH_AXES, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.losses.travel import everyones


def test_gradients_of_bfloat16_are_summed_in_float32() -> None:
    """1 and seven times 2^-9, none of which bfloat16 can add to 1."""
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:8])
    rows, slope = P(BATCH_AXES), np.full(8, 2.0**-9, np.float32)
    slope[0] = 1

    def local(x: jax.Array, slope: jax.Array) -> jax.Array:
        found = everyones(x, BATCH_AXES)
        assert found.dtype == x.dtype and found.shape == (8, 3)
        return (
            (found * slope.astype(x.dtype)[:, None])
            .astype(jnp.float32)
            .sum(keepdims=True)
        )

    def total(x: jax.Array) -> jax.Array:
        run = jax.shard_map(
            local, mesh=mesh, in_specs=(rows, rows), out_specs=P(BATCH_AXES, None)
        )
        return run(x, jnp.asarray(slope)).sum()

    for dtype, expected in ((jnp.float32, slope.sum()), (jnp.bfloat16, 1.015625)):
        run = jax.jit(jax.grad(total)).trace(jnp.ones((8, 3), dtype))
        found = run.lower().compile()(jnp.ones((8, 3), dtype))
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected)
        # A CPU sums in float32 whatever it is asked for; other devices do not.
        (sums,) = re.findall(r"\w+:(\w+)\[.*= reduce_scatter", f"{run.jaxpr}")
        assert sums == "f32"
