"""Collectives of compiled programs whose counts are known."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from m3jax.training.collectives import collectives, memory_traffic
from m3jax.training.hlo import parse
from m3jax.training.topology import devices

OUTER, INNER = 3, 5


def compiled(function: Any, *given: Any) -> str:
    text = jax.jit(function).lower(*given).compile().as_text()
    assert text is not None
    return text


def nested(found: list) -> str:
    """Collectives of 4 of 8 chips, in the inner of two loops and beside them."""
    mesh = Mesh(
        np.array(found[:8]).reshape(2, 4),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
    )

    @partial(jax.shard_map, mesh=mesh, in_specs=P("fsdp"), out_specs=P("fsdp"))
    def step(x: jax.Array) -> jax.Array:
        def inner(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            total = jax.lax.psum(x, "fsdp")
            return jnp.sin(jax.lax.pcast(total, "fsdp", to="varying") + x), None

        def outer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            x = jax.lax.scan(inner, x, length=INNER)[0]
            order = [(i, (i + 1) % 4) for i in range(4)]
            return jax.lax.ppermute(x, "fsdp", order), None

        x = jax.lax.scan(outer, x, length=OUTER)[0]
        whole = jax.lax.all_gather(x, "fsdp", tiled=True)  # [4 * 128, 256]
        return jax.lax.psum_scatter(jnp.cos(whole), "fsdp", tiled=True)

    given = jax.ShapeDtypeStruct(
        (512, 256), jnp.float32, sharding=NamedSharding(mesh, P("fsdp"))
    )
    return compiled(step, given)


def check(text: str) -> None:
    found = {one.kind: one for one in collectives(text)}
    size = 128 * 256 * 4
    assert {kind: one.times for kind, one in found.items()} == {
        "all-reduce": OUTER * INNER,
        "collective-permute": OUTER,
        "all-gather": 1,
        "reduce-scatter": 1,
    }
    assert {kind: one.bytes for kind, one in found.items()} == {
        "all-reduce": 2 * size * 3 // 4,
        "collective-permute": size,
        "all-gather": 4 * size * 3 // 4,
        "reduce-scatter": 4 * size * 3 // 4,
    }
    assert all(one.known for one in found.values())
    assert all(one.chips == 4 for one in found.values() if "perm" not in one.kind)


def test_loops_multiply() -> None:
    check(nested(jax.devices()))


@pytest.mark.slow
def test_loops_multiply_on_a_tpu() -> None:
    pytest.importorskip("libtpu")
    check(nested(list(devices("v5e:4x2"))))


def test_pieces_of_a_transfer_count_once() -> None:
    text = """HloModule x, num_partitions=8

%part (a: bf16[4,8]) -> bf16[16,8] {
  ROOT %g = bf16[16,8]{1,0} all-gather(%a), channel_id=3, \
replica_groups=mesh['x'=4,'y'=2], device_ids=([4,2]T(1,0)) {'x'}, dimensions={0}
}

ENTRY %main (p: bf16[4,8]) -> bf16[16,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %one = (bf16[4,8]{1,0}, /*index=1*/bf16[16,8]{1,0}) fusion(%p), kind=kCustom, \
calls=%part
  ROOT %two = bf16[16,8]{1,0} fusion(%p), kind=kCustom, calls=%part
}
"""
    (found,) = collectives(text)
    assert (found.chips, found.times, found.bytes) == (4, 1, 16 * 8 * 2 * 3 // 4)


@pytest.mark.parametrize(("step", "times"), [(1, 8), (2, 4), (3, 3)])
def test_unrolled_turns_are_fewer(step: int, times: int) -> None:
    text = f"""HloModule x, num_partitions=4

%next (n: s32[], by: s32[]) -> s32[] {{
  %n = s32[] parameter(0)
  %by = s32[] parameter(1)
  ROOT %sum = s32[] add(%n, %by)
}}

%body (all: (s32[], f32[16])) -> (s32[], f32[16]) {{
  %all = (s32[], f32[16]{{0}}) parameter(0)
  %at = s32[] get-tuple-element(%all), index=0
  %x = f32[16]{{0}} get-tuple-element(%all), index=1
  %by = s32[] constant({step})
  %after = s32[] fusion(%at, %by), kind=kLoop, calls=%next
  %y = f32[16]{{0}} collective-permute(%x), source_target_pairs={{{{0,1}}}}
  ROOT %both = (s32[], f32[16]{{0}}) tuple(%after, %y)
}}

%cond (all: (s32[], f32[16])) -> pred[] {{
  %all = (s32[], f32[16]{{0}}) parameter(0)
  %at = s32[] get-tuple-element(%all), index=0
  %end = s32[] constant(8)
  ROOT %less = pred[] compare(%at, %end), direction=LT
}}

ENTRY %main (p: (s32[], f32[16])) -> (s32[], f32[16]) {{
  %p = (s32[], f32[16]{{0}}) parameter(0)
  ROOT %loop = (s32[], f32[16]{{0}}) while(%p), condition=%cond, body=%body
}}
"""
    (found,) = collectives(text)
    assert (found.times, found.known, found.bytes) == (times, True, 64)


def test_what_stands_behind_a_kernel_counts() -> None:
    """What a Mosaic kernel tells of itself goes over several lines."""
    text = """HloModule x, num_partitions=4

ENTRY %main (p: f32[16]) -> f32[64] {
  %p = f32[16]{0} parameter(0)
  %kernel = f32[16]{0} custom-call(%p), frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="splash"}
  ROOT %two = f32[64]{0} all-gather(%kernel), replica_groups=[1,4]<=[4]
}
"""
    (found,) = collectives(text)
    assert found.bytes == 64 * 4 * 3 // 4


def test_an_all_reduce_of_which_parts_are_kept_is_a_reduce_scatter() -> None:
    text = """HloModule x, num_partitions=4

%all-reduce-scatter (a: f32[16]) -> f32[4] {
  %r = f32[16]{0} all-reduce(%a), channel_id=3, replica_groups=[1,4]<=[4]
  ROOT %s = f32[4]{0} dynamic-slice(%r, %i), dynamic_slice_sizes={4}
}

ENTRY %main (p: f32[16]) -> f32[4] {
  ROOT %two = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter
}
"""
    (found,) = collectives(text)
    assert (found.kind, found.bytes) == ("reduce-scatter", 16 * 4 * 3 // 4)


def test_gathers_that_are_joined_send_all_of_their_parts() -> None:
    text = """HloModule x, num_partitions=4

ENTRY %main (a: f32[16], b: f32[32]) -> f32[64] {
  %s = ((f32[16]{0}, f32[32]{0}), (f32[64]{0}, f32[128]{0})) all-gather-start(%a, %b), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %d = (f32[64]{0}, f32[128]{0}) all-gather-done(%s)
}
"""  # noqa: E501
    (found,) = collectives(text)
    assert found.bytes == (64 + 128) * 4 * 3 // 4


def test_a_loop_of_unknown_length_is_told() -> None:
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))

    @partial(jax.shard_map, mesh=mesh, in_specs=P(), out_specs=P("data"))
    def step(x: jax.Array) -> jax.Array:
        x = jax.lax.pcast(x, "data", to="varying")

        def grow(x: jax.Array) -> jax.Array:
            return x + jax.lax.pcast(jax.lax.psum(x, "data"), "data", to="varying")

        return jax.lax.while_loop(lambda x: x[0] < 9.0, grow, x)

    (found,) = collectives(compiled(step, jnp.ones(4)))
    assert (found.kind, found.times, found.known) == ("all-reduce", 1, False)


def test_traffic_of_a_loop_counts_slices() -> None:
    """A stack of matrices read one by one is read once, not once a turn."""

    def step(x: jax.Array, stack: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)[0]

    given = (
        jax.ShapeDtypeStruct((8, 256), "f4"),
        jax.ShapeDtypeStruct((20, 256, 256), "f4"),
    )
    text = compiled(step, *given)
    stack = 20 * 256 * 256 * 4
    assert stack < memory_traffic(parse(text)) < 6 * stack


NESTED = """
%cut (table: f32[1000,128], at: s32[]) -> f32[10,128] {
  %table = f32[1000,128]{1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %part = f32[10,128]{1,0} dynamic-slice(%table, %at), dynamic_slice_sizes={10,128}
}

%change (table: f32[1000,128], part: f32[10,128], at: s32[]) -> f32[1000,128] {
  %table = f32[1000,128]{1,0} parameter(0)
  %part = f32[10,128]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %whole = f32[1000,128]{1,0} dynamic-update-slice(%table, %part, %at)
}

%outer (given: f32[1000,128], at: s32[], sums: f32[1000,128]) -> f32[1000,128] {
  %given = f32[1000,128]{1,0} parameter(0)
  %renamed = f32[1000,128]{1,0} bitcast(%given)
  %at = s32[] parameter(1)
  %sums = f32[1000,128]{1,0} parameter(2)
  %part = f32[10,128]{1,0} fusion(%renamed, %at), kind=kLoop, calls=%cut
  ROOT %new = f32[1000,128]{1,0} fusion(%sums, %part, %at), kind=kLoop, calls=%change
}

ENTRY %main (x: f32[1000,128], at: s32[], sums: f32[1000,128]) -> f32[1000,128] {
  %x = f32[1000,128]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %sums = f32[1000,128]{1,0} parameter(2)
  ROOT %out = f32[1000,128]{1,0} fusion(%x, %at, %sums), kind=kOutput, calls=%outer
}
"""


def test_traffic_looks_into_nested_fusions() -> None:
    """A slice is read of one table and changed in the other, by fusions in a fusion."""
    part, place = 10 * 128 * 4, 4
    # Read; of the other table read and written.
    assert memory_traffic(parse(NESTED)) == 3 * part + place


def test_a_copy_into_the_chips_own_memory_reads_and_a_copy_back_writes() -> None:
    text = """
ENTRY %main (x: f32[1000]) -> f32[1000] {
  %x = f32[1000]{0} parameter(0)
  %in = (f32[1000]{0:S(1)}, f32[1000]{0}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[1000]{0:S(1)} copy-done(%in)
  %back = (f32[1000]{0}, f32[1000]{0:S(1)}, u32[]{:S(2)}) copy-start(%near)
  ROOT %far = f32[1000]{0} copy-done(%back)
}
"""
    assert memory_traffic(parse(text)) == 4_000 + 4_000
