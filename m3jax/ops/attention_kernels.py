"""Fused attention: splash on a TPU, cuDNN on CUDA, each on its own part of a mesh."""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

# jax's own copy: tokamax 0.0.12 pins typeguard==2.13.3, which excludes tyro, and keeps
# its splash kernel in a private module.
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_kernel import (
    BlockSizes,
)
from jax.sharding import AxisType, PartitionSpec

from m3jax.core.mesh import BATCH_AXES

Local = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array
]

# The kernel wants blocks of whole lanes.
LANES = 128
# Tokens of a splash block, forward and backward: jax's usual choice, not timed here.
BLOCK = 512
# The segment of padding; no real token may have it.
PADDING = jnp.iinfo(jnp.int32).min
# What cuDNN takes on every GPU it supports; newer ones take wider heads.
CUDNN_WIDTH, CUDNN_STEP = 128, 8
CUDNN_DTYPES = (jnp.float16, jnp.bfloat16)


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    causal: bool,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Attend with the Pallas kernel for TPUs; arguments as in `attend`.

    Args:
        query: `[b l h c]`.
        key: `[b l k c]`.
        value: `[b l k c]`.
        mask: bool `[b l]`.
        segments: int `[b l]`, or None.
        causal: whether a token sees only what stands before it.
        interpret: run the kernel's body as plain jax, on any platform.

    Returns:
        `[b l h c]` in the dtype of `value`.

    Example:
        >>> x = jnp.ones((1, 2, 1, 4))
        >>> splash(x, x, x, jnp.ones((1, 2), bool), None, True, interpret=True).shape
        (1, 2, 1, 4)
    """
    local = functools.partial(_splash_local, causal=causal, interpret=interpret)
    return _over_mesh(local, query, key, value, mask, segments)


def cudnn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    causal: bool,
    *,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """Attend with cuDNN; arguments as in `attend`, for what `cudnn_refuses` lets pass.

    Args:
        query: `[b l h c]`.
        key: `[b l k c]`.
        value: `[b l k c]`.
        mask: bool `[b l]`.
        causal: whether a token sees only what stands before it.
        implementation: "xla" does the same without a GPU.

    Returns:
        `[b l h c]` in the dtype of `value`.

    Example:
        >>> x, mask = jnp.ones((1, 2, 1, 8)), jnp.ones((1, 2), bool)
        >>> cudnn(x, x, x, mask, False, implementation="xla").shape
        (1, 2, 1, 8)
    """
    local = functools.partial(
        _cudnn_local, causal=causal, implementation=implementation
    )
    return _over_mesh(local, query, key, value, mask, None)


def cudnn_refuses(
    query: jax.Array, key: jax.Array, value: jax.Array, segments: jax.Array | None
) -> tuple[str, str] | None:
    """Say what cuDNN would need and what it has been given; None where it can run.

    Example:
        >>> x = jnp.ones((1, 2, 1, 8))
        >>> cudnn_refuses(x, x, x, None)
        ('float16 or bfloat16 throughout', 'float32')
    """
    dtypes = {str(x.dtype) for x in (query, key, value)}
    if len(dtypes) > 1 or query.dtype not in CUDNN_DTYPES:
        return "float16 or bfloat16 throughout", " and ".join(sorted(dtypes))
    width = query.shape[-1]
    if width > CUDNN_WIDTH or width % CUDNN_STEP:
        return f"heads of {CUDNN_STEP}, 16, ... {CUDNN_WIDTH}", str(width)
    return None if segments is None else ("one text a row", "packed rows")


def has_cudnn() -> bool:
    """Whether this machine has a CUDA device that runs fused attention.

    Example:
        >>> has_cudnn() and jax.default_backend() == "cpu"
        False
    """
    try:
        device, *_ = jax.local_devices(backend="cuda")
    except RuntimeError:  # another maker's GPU, or none here
        return False
    return float(device.compute_capability) >= 8


def _over_mesh(
    local: Local,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
) -> jax.Array:
    """Run a kernel on each device's rows and heads: jit alone cannot divide one."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {
        axis: size
        for axis, size, kind in zip(
            mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True
        )
        if kind != AxisType.Manual  # an outer shard_map has divided those already
    }
    if not sizes:
        return local(query, key, value, mask, segments)
    # Masked rows up to a multiple cost less than every row on every device.
    axes = tuple(axis for axis in BATCH_AXES if axis in sizes)
    rows = mask.shape[0]
    extra = -rows % math.prod(sizes[axis] for axis in axes)
    arrays = jax.tree.map(
        lambda x: jnp.pad(x, ((0, extra), *[(0, 0)] * (x.ndim - 1))),
        (query, key, value, mask, segments),
    )
    query, key, value, mask, segments = arrays
    tensor = sizes.get("tensor", 1)
    divided = query.shape[2] % tensor == 0
    if divided:
        # Up to the fewest key heads that `tensor` divides, in the order of the groups.
        repeats = tensor // math.gcd(tensor, key.shape[2])
        key, value = (jnp.repeat(x, repeats, axis=2) for x in (key, value))
    by_row = PartitionSpec(axes)
    by_head = PartitionSpec(axes, None, "tensor" if divided and tensor > 1 else None)
    attended = jax.shard_map(
        local,
        in_specs=(by_head, by_head, by_head, by_row, by_row),
        out_specs=by_head,
        axis_names=set(sizes),
        check_vma=False,  # a Pallas kernel does not say over which axes it varies
    )(query, key, value, mask, segments)
    return attended[:rows]


def _splash_local(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    *,
    causal: bool,
    interpret: bool,
) -> jax.Array:
    _, length, heads, width = query.shape
    # The fewest blocks, then the smallest ones that hold the row.
    blocks = -(-length // BLOCK)
    block = -(-length // (blocks * LANES)) * LANES
    padding = (0, blocks * block - length)

    def prepare(x: jax.Array) -> jax.Array:  # [b l h c] -> [b h l c]
        return jnp.swapaxes(jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0))), 1, 2)

    ids = jnp.where(mask, 0 if segments is None else segments, PADDING)
    ids = jnp.pad(ids.astype(jnp.int32), ((0, 0), padding), constant_values=PADDING)
    masks = splash_attention.CausalMask if causal else splash_attention.FullMask
    one_head = masks((blocks * block, blocks * block))
    kernel = splash_attention.make_splash_mha(
        splash_attention.MultiHeadMask([one_head] * heads),
        block_sizes=BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # The kernel does not scale.
    scaled = (query.astype(jnp.float32) * width**-0.5).astype(query.dtype)
    attended = jax.vmap(
        lambda q, k, v, ids: kernel(q, k, v, splash_attention.SegmentIds(ids, ids))
    )(prepare(scaled), prepare(key), prepare(value), ids)
    assert isinstance(attended, jax.Array)  # a tuple only where residuals are asked for
    return jnp.swapaxes(attended, 1, 2)[:, :length].astype(value.dtype)


def _cudnn_local(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    *,
    causal: bool,
    implementation: Literal["cudnn", "xla"],
) -> jax.Array:
    assert segments is None
    # cuDNN takes lengths, not a mask: real tokens to the front, in their order.
    order = jnp.argsort(~mask, axis=1, stable=True)
    # A row of padding keeps one token: no kernel has to average over none.
    lengths = jnp.maximum(mask.sum(1, dtype=jnp.int32), 1)
    real = jnp.arange(mask.shape[1])[None, :] < lengths[:, None]

    def reorder(x: jax.Array, order: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, order[:, :, None, None], axis=1)

    def clean(x: jax.Array) -> jax.Array:
        # What the kernel leaves beyond a length, forward and backward, is anything.
        return jnp.where(real[:, :, None, None], x, 0)

    attended = jax.nn.dot_product_attention(
        clean(reorder(query, order)),
        clean(reorder(key, order)),
        clean(reorder(value, order)),
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return reorder(clean(attended), jnp.argsort(order, axis=1))
