"""Attention, with the kernel that suits the platform."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.errors import InputError
from m3jax.core.mesh import AXES
from m3jax.ops import attention_kernels

# Above this many bytes of float32 scores on a device, queries go in blocks.
SCORE_BUDGET = 256 * 2**20
# Shorter rows stay with XLA on a TPU: from here on a row fills a block of 512. A guess
# from shapes (a shorter one is a smaller block for each head); it has not been timed.
SPLASH_LENGTH = 385


def attend(
    query: Float[Array, "b l h c"],
    key: Float[Array, "b l k c"],
    value: Float[Array, "b l k c"],
    mask: Bool[Array, "b l"],
    *,
    causal: bool = False,
    segments: Int[Array, "b l"] | None = None,
    kernel: Literal["auto", "xla", "splash", "cudnn"] = "auto",
) -> Float[Array, "b l h c"]:
    """Attention over the real tokens: softmax(q k' / sqrt(c)) v.

    Scores are summed and softmax is taken in float32 whatever the operands are; the
    query is scaled in its own dtype. float32 products have the precision that jax gives
    them by default, which is that of bfloat16 on TPU. Padding may stand
    anywhere in a row. What a padding token gets, and a row without a real token, is
    unspecified but finite, and so is its gradient: whoever pools masks it out.

    `kernel="auto"` follows the platform of the ambient mesh (`jax.set_mesh`), else
    jax's default device: splash on a TPU from `SPLASH_LENGTH` tokens on; cuDNN on CUDA
    for float16 and bfloat16 without segments; XLA otherwise, which takes the queries
    in blocks where the scores would pass `SCORE_BUDGET`. Under a mesh, splash and cuDNN
    run on each device's own rows and heads; rows are padded to a multiple of data x
    fsdp, and heads that `tensor` does not divide are computed by each of its devices.

    Args:
        query: queries; head i attends with key head i // (h / k).
        key: keys; k divides h.
        value: values.
        mask: True where a token is real; other tokens are never attended.
        causal: a token attends only to itself and to tokens before it in the row.
        segments: which text of a packed row a token belongs to; it attends to that one
            only. The lowest int32 is reserved. None where every row is one text.
        kernel: "auto", or the one to use on any platform.

    Returns:
        The attended values, in the dtype of `value`.

    Raises:
        InputError: k does not divide h, or the kernel asked for cannot do it.

    Source: Vaswani et al. 2017, arXiv:1706.03762; grouped heads: Ainslie et al. 2023,
    arXiv:2305.13245.

    Example:
        >>> x = jnp.ones((1, 2, 1, 4))
        >>> attend(x, x, x, jnp.array([[True, False]]), causal=True).shape
        (1, 2, 1, 4)
    """
    heads, groups = query.shape[2], key.shape[2]
    if heads % groups:
        raise InputError(
            "a number of key heads that divides the query heads",
            f"{groups} for {heads}",
            where="attend: key",
        )
    refused = attention_kernels.cudnn_refuses(query, key, value, segments)
    if kernel == "auto":
        kernel = _pick(query.shape[1], refused)
    if kernel == "splash":
        return attention_kernels.splash(query, key, value, mask, segments, causal)
    if kernel == "cudnn":
        if refused:
            raise InputError(
                *refused, where="attend: kernel='cudnn'", do="Leave it at 'auto'."
            )
        return attention_kernels.cudnn(query, key, value, mask, causal)
    return _xla(query, key, value, mask, segments, causal)


def _pick(
    length: int, cudnn_refused: tuple[str, str] | None
) -> Literal["xla", "splash", "cudnn"]:
    platform = _platform()
    if platform == "tpu" and length >= SPLASH_LENGTH:
        return "splash"
    # Asked last: it looks at the devices, which only a GPU has to pay for.
    if platform == "gpu" and not cudnn_refused and attention_kernels.has_cudnn():
        return "cudnn"
    return "xla"


def _platform() -> str:
    """The platform that is traced for, which need not be the one that traces."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if device is None:
        return jax.default_backend()
    name = device if isinstance(device, str) else device.platform
    return "gpu" if name == "cuda" else name


class _Block(NamedTuple):
    """Some queries of every row: `[b i k g c]`, their positions and segments."""

    query: jax.Array
    position: jax.Array
    segments: jax.Array | None


def _xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    causal: bool,
) -> jax.Array:
    rows, length, heads, width = query.shape
    # Heads of one group side by side, so that no key is repeated for them.
    grouped = query.reshape(rows, length, key.shape[2], -1, width)
    everything = _Block(grouped, jnp.arange(length), segments)
    # [b k l c]: rows of a head side by side make the products twice as fast on a CPU.
    key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    seen = mask, segments, causal
    block = queries_at_once(rows, length, heads)
    if block >= length:
        attended = _attend_block(everything, key, value, *seen)
    else:
        attended = _in_blocks(everything, key, value, *seen, block)
    return attended.reshape(query.shape)


def queries_at_once(rows: int, length: int, heads: int) -> int:
    """Queries of a row whose scores, on one device, keep to `SCORE_BUDGET`.

    Args:
        rows: of the whole batch, which the ambient mesh divides.
        length: keys of a row, and all its queries.
        heads: of the queries.

    Returns:
        The length, or a power of two below it.

    Example:
        >>> queries_at_once(rows=4, length=8_192, heads=16)
        128
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = math.prod(
        size
        for axis, size, kind in zip(
            mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True
        )
        if axis in AXES and kind != jax.sharding.AxisType.Manual
    )
    budget = SCORE_BUDGET * devices
    of_one_query = 4 * rows * heads * length
    if of_one_query * length <= budget:
        return length
    # A power of two divides the usual lengths, so that no query is padded.
    return 2 ** int(math.log2(max(1, budget // of_one_query)))


def _in_blocks(
    everything: _Block,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    causal: bool,
    block: int,
) -> jax.Array:
    """One block of queries after the other; the backward pass recomputes its scores."""
    rows, length = mask.shape
    blocks = -(-length // block)
    padding = (0, blocks * block - length)

    def split(x: jax.Array) -> jax.Array:  # [b l ...] -> [n b i ...]
        x = jnp.pad(x, ((0, 0), padding, *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(rows, blocks, block, *x.shape[2:]), 1, 0)

    dtypes = key.dtype, value.dtype
    # The gradients of all blocks are summed in the dtype that crosses into the loop.
    wide = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def one(part: _Block) -> jax.Array:
        key, value = (x.astype(dtype) for x, dtype in zip(wide, dtypes, strict=True))
        return _attend_block(part, key, value, mask, segments, causal)

    parts = _Block(
        split(everything.query),
        jnp.arange(blocks * block).reshape(blocks, block),
        None if segments is None else split(segments),
    )
    attended = jnp.moveaxis(jax.lax.map(one, parts), 0, 1)
    return attended.reshape(rows, -1, *attended.shape[3:])[:, :length]


def _attend_block(
    block: _Block,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    segments: jax.Array | None,
    causal: bool,
) -> jax.Array:
    """Keys and values are `[b k j c]`."""
    rows, queries, kv_heads, groups, width = block.query.shape
    shape = (rows, kv_heads, groups, queries)
    query = jnp.moveaxis(block.query * width**-0.5, 1, 3)
    # The heads of a group and their queries are one dimension of a plain product.
    scores = jnp.einsum(
        "bkic,bkjc->bkij",
        query.reshape(rows, kv_heads, -1, width),
        key,
        preferred_element_type=jnp.float32,
    ).reshape(*shape, -1)
    seen = mask[:, None, None, None, :]
    if causal:
        before = block.position[:, None] >= jnp.arange(mask.shape[1])[None, :]
        seen = seen & before[None, None, None]
    if segments is not None:
        assert block.segments is not None
        same = block.segments[:, :, None] == segments[:, None, :]
        seen = seen & same[:, None, None]
    # The lowest finite number, not -inf: a query that sees nothing stays finite. Any
    # score vanishes in it, and a sum is cheaper than a choice.
    scores = scores + jnp.where(seen, 0, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    # Dividing after the product touches [l c] numbers instead of [l l].
    attended = jnp.einsum(
        "bkij,bkjc->bkic",
        weights.astype(value.dtype).reshape(rows, kv_heads, groups * queries, -1),
        value,
        preferred_element_type=jnp.float32,
    ).reshape(*shape, width)
    attended = (attended / weights.sum(-1, keepdims=True)).astype(value.dtype)
    return jnp.moveaxis(attended, 3, 1)
