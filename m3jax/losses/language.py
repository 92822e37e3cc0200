"""Cross-entropy of tokens over a vocabulary whose logits never exist whole."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.errors import InputError
from m3jax.losses import checks
from m3jax.losses.by_rows import Gradient, by_rows
from m3jax.losses.products import add_product
from m3jax.ops.product import product

# Bytes of float32 logits that exist at once, if nobody says otherwise.
_BUDGET = 128 * 2**20


def masked_lm(
    hidden: Float[Array, "b l d"],
    table: Float[Array, "v d"],
    labels: Int[Array, "b l"],
    *,
    bias: Float[Array, " v"] | None = None,
    where: Bool[Array, "b l"] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    gradient: Gradient = "eager",
) -> Float[Array, "b l"]:
    """Cross-entropy of the right token of a vocabulary, per token.

    l_t = log sum_v exp(z_tv) - z_ty, with z_tv = <h_t, w_v> + bias_v and y the label.

    Tokens that count come first and are taken `tile` at a time, so that others cost
    next to nothing and `[l v]` never exists. The mean over the tokens that count is
    `loss.sum() / where.sum()`, or use `retromae`'s form of it.

    A token that does not count has loss 0 and no gradient, whatever its hidden state
    is, NaN too. NaN elsewhere stays NaN. float32 operands are multiplied in full
    precision; bfloat16 ones as they are, and so is the gradient of their logits; sums
    are float32. Within a mesh, call it inside `jax.shard_map` with the rows of one
    device: tokens are put in order, which must not cross devices. The gradient of a
    table that is the same on all devices is summed once, after the last tile.

    Args:
        hidden: of each token, from the encoder and its head.
        table: a row for each token of the vocabulary, often the input embeddings.
        labels: the right token; where it counts but is outside of 0 to v - 1 the loss
            is NaN.
        bias: added to the logits.
        where: False = there is nothing to predict; None = where the label is 0 or
            more.
        tile: tokens of which logits exist at once; auto = 128 MiB of them; None =
            all.
        gradient: with a tile: eager makes the gradient together with the value,
            which is fastest where all tokens that count have the same weight, as in
            a mean, and again if they turn out not to; late makes it when the weights
            are known.

    Returns:
        float32 loss of each token, in nats.

    Raises:
        InputError: shapes that do not fit, a tile that is no positive integer,
            `gradient` neither way.

    Source: Devlin et al. 2018 (BERT, arXiv:1810.04805); logits in tiles as in Liger
    Kernel (arXiv:2410.10989) and Cut Cross-Entropy (arXiv:2411.09009).

    Example:
        >>> hidden, table = jnp.ones((1, 2, 3)), jnp.zeros((4, 3))
        >>> loss = masked_lm(hidden, table, jnp.array([[2, -1]]))
        >>> [f"{x:.3f}" for x in loss[0]]
        ['1.386', '0.000']
    """
    _check(hidden, table, labels, bias, where, tile)
    hidden, table, labels = map(jnp.asarray, (hidden, table, labels))
    count = labels >= 0 if where is None else jnp.asarray(where)
    loss = _tokens(
        hidden.reshape(-1, hidden.shape[-1]),
        table,
        labels.reshape(-1),
        bias,
        count.reshape(-1),
        None,
        tile,
        gradient,
    )
    return loss.reshape(labels.shape)


def retromae(
    encoder_hidden: Float[Array, "b i d"],
    decoder_hidden: Float[Array, "b j d"],
    table: Float[Array, "v d"],
    encoder_labels: Int[Array, "b i"],
    decoder_labels: Int[Array, "b j"],
    *,
    bias: Float[Array, " v"] | None = None,
    encoder_where: Bool[Array, "b i"] | None = None,
    decoder_where: Bool[Array, "b j"] | None = None,
    tile: int | Literal["auto"] | None = "auto",
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    """RetroMAE: what the encoder and its weak decoder miss, for the batch.

    l = mean_t l_t of the encoder + mean_t l_t of the decoder, each the mean of
    `masked_lm` over its tokens that count, on all devices when `axis_name` is given.
    Both share the head, so their tokens go through one walk. A side without any
    token that counts gives 0.

    The value is the same on every device, and both forms of `info_nce` give the
    gradient: under `jax.shard_map` as it is by default, `grad(pmean(loss))`, where
    `grad(loss)` is the same; under `jax.pmap`, or `shard_map(..., check_vma=False)`,
    `pmean(grad(loss))`.

    Args:
        encoder_hidden: of the masked text.
        decoder_hidden: of the text that is rebuilt from its embedding.
        table: as of `masked_lm`.
        encoder_labels: the masked tokens, -1 elsewhere.
        decoder_labels: all tokens, -1 for the first, the last and padding.
        bias: as of `masked_lm`.
        encoder_where: as `where` of `masked_lm`.
        decoder_where: as `where` of `masked_lm`.
        tile: as of `masked_lm`.
        axis_name: mapped axis or axes over which `b` is divided.

    Returns:
        float32 loss, in nats.

    Raises:
        InputError: shapes that do not fit, a tile that is no positive integer,
            `axis_name` outside of a mapped function.

    Source: RetroMAE (arXiv:2205.12035).

    Example:
        >>> hidden, table = jnp.ones((1, 2, 3)), jnp.zeros((4, 3))
        >>> labels = jnp.array([[2, -1]]), jnp.array([[2, 3]])
        >>> f"{retromae(hidden, hidden, table, *labels):.3f}"
        '2.773'
    """
    encoder, decoder = retromae_sides(
        encoder_hidden,
        decoder_hidden,
        table,
        encoder_labels,
        decoder_labels,
        bias=bias,
        encoder_where=encoder_where,
        decoder_where=decoder_where,
        tile=tile,
        axis_name=axis_name,
    )
    return encoder + decoder


def retromae_sides(
    encoder_hidden: Any,
    decoder_hidden: Any,
    table: Any,
    encoder_labels: Any,
    decoder_labels: Any,
    *,
    bias: Any = None,
    encoder_where: Any = None,
    decoder_where: Any = None,
    tile: int | Literal["auto"] | None = "auto",
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Array, Array]:
    """The two terms of `retromae`, to be watched one by one.

    Their plain sum costs one walk through the tokens; with other weights the gradient
    is made once more.

    Args:
        encoder_hidden: as of `retromae`, and so are all others.
        decoder_hidden: likewise.
        table: likewise.
        encoder_labels: likewise.
        decoder_labels: likewise.
        bias: likewise.
        encoder_where: likewise.
        decoder_where: likewise.
        tile: likewise.
        axis_name: likewise.

    Returns:
        float32 loss of the encoder and of the decoder, in nats.

    Raises:
        InputError: as `retromae`.

    Source: RetroMAE (arXiv:2205.12035).

    Example:
        >>> hidden, table = jnp.ones((1, 2, 3)), jnp.zeros((4, 3))
        >>> labels = jnp.array([[2, -1]]), jnp.array([[-1, -1]])
        >>> [f"{x:.3f}" for x in retromae_sides(hidden, hidden, table, *labels)]
        ['1.386', '0.000']
    """
    sides = {
        "encoder_": (encoder_hidden, encoder_labels, encoder_where),
        "decoder_": (decoder_hidden, decoder_labels, decoder_where),
    }
    checks.axis(axis_name)
    if len(encoder_hidden) != len(decoder_hidden):
        rows, found = len(encoder_hidden), len(decoder_hidden)
        raise InputError(f"{rows} texts", f"{found}", where="decoder_hidden")
    table, flat = jnp.asarray(table), []
    for side, (hidden, labels, where) in sides.items():
        _check(hidden, table, labels, bias, where, tile, side)
        hidden, labels = map(jnp.asarray, (hidden, labels))
        count = labels >= 0 if where is None else jnp.asarray(where)
        number = count.sum()
        if axis_name is not None:
            number = jax.lax.psum(number, axis_name)
        weight = jnp.full(labels.size, 1 / jnp.maximum(number, 1), jnp.float32)
        tokens = hidden.reshape(-1, hidden.shape[-1])
        flat.append((tokens, labels.reshape(-1), count.reshape(-1), weight))
    hidden, labels, count, weight = map(jnp.concatenate, zip(*flat, strict=True))
    # The weights are known beforehand, so that the sum is all that is left to do.
    loss = _tokens(hidden, table, labels, bias, count, weight, tile, "eager")
    of_encoder = encoder_labels.size
    found = loss[:of_encoder].sum(), loss[of_encoder:].sum()
    return found if axis_name is None else jax.lax.psum(found, axis_name)


def _tokens(
    hidden: Float[Array, "n d"],
    table: Float[Array, "v d"],
    labels: Int[Array, " n"],
    bias: Float[Array, " v"] | None,
    count: Bool[Array, " n"],
    weight: Float[Array, " n"] | None,
    tile: int | Literal["auto"] | None,
    gradient: Gradient,
) -> Float[Array, " n"]:
    """Loss of each token times its weight."""
    labels = labels.astype(jnp.int32)
    order = jnp.argsort(~count, stable=True)

    facts = labels, weight
    hidden, facts, count = _take((hidden, facts, count), order)
    loss, _ = by_rows(
        _tile,
        hidden,
        facts,
        (table, bias),
        None,
        tile=_fitting(labels.size, len(table)) if tile == "auto" else tile,
        gradient=gradient,
        counts=count,
        add=_add,
    )
    return _take(loss, jnp.argsort(order))


def _take(tree: Any, order: Int[Array, " n"]) -> Any:
    def take(x: Array) -> Array:
        return x.at[order].get(unique_indices=True, mode="promise_in_bounds")

    return jax.tree.map(take, tree)


def _fitting(tokens: int, vocabulary: int) -> int:
    """Tokens at once: as many as fit, and a divisor if one is near."""
    most = min(max(1, tokens), max(1, _BUDGET // (4 * max(1, vocabulary))))
    even = max(n for n in range(1, most + 1) if tokens % n == 0)
    return even if 2 * even > most else most


def _tile(hidden: Array, facts: Any, shared: Any, _: None) -> tuple[Array, None]:
    """The value of a tile of tokens; a `PerRow` of `by_rows`."""
    return _losses(_logits(hidden, *shared), *facts)[0], None


def _logits(hidden: Array, table: Array, bias: Array | None) -> Array:
    logits = product("td,vd->tv", hidden, table)
    return logits if bias is None else logits + bias.astype(jnp.float32)[None]


def _losses(logits: Array, labels: Array, weight: Array | None) -> tuple[Array, Array]:
    """Loss of each token times its weight, and the logarithm of its sum."""
    known = (labels >= 0) & (labels < logits.shape[1])
    column = jnp.where(known, labels, 0)[:, None]
    right = jnp.take_along_axis(logits, column, axis=1)[:, 0]
    whole = jax.nn.logsumexp(logits, axis=1)
    loss = whole - jnp.where(known, right, jnp.nan)
    return loss if weight is None else loss * weight, whole


def _add(
    total: Any, hidden: Array, facts: Any, shared: Any, _: None, weigh: Any
) -> tuple[Any, Any]:
    """As `add_tile`, with the gradient of the table added a piece at a time."""
    (labels, weight), (table, _) = facts, shared
    of_table, of_bias = total
    logits = _logits(hidden, *shared)
    loss, whole = _losses(logits, labels, weight)
    scale = weigh((loss, None))
    scale = scale if weight is None else scale * weight
    right = jnp.arange(len(table), dtype=jnp.int32)[None] == labels[:, None]
    slope = (jnp.exp(logits - whole[:, None]) - right) * scale[:, None]
    if of_bias is not None:
        of_bias += slope.sum(0)
    slope = slope.astype(jnp.result_type(hidden, table))
    of_table = add_product(of_table, slope, hidden)
    of_hidden = product("tv,vd->td", slope, table)
    return (of_table, of_bias), ((loss, None), of_hidden)


def _check(
    hidden: Any,
    table: Any,
    labels: Any,
    bias: Any,
    where: Any,
    tile: Any,
    side: str = "",
) -> None:
    checks.array(f"{side}hidden", hidden, "floats")
    checks.array("table", table, "floats")
    checks.array(f"{side}labels", labels, "integers")
    if isinstance(tile, str) and tile != "auto":
        found = repr(tile)
        raise InputError("a positive integer, 'auto' or None", found, where="tile")
    if hidden.ndim != 3:
        found = f"shape {tuple(hidden.shape)}"
        raise InputError("[b l d]", found, where=f"{side}hidden")
    if table.ndim != 2 or not len(table):
        found = f"shape {tuple(table.shape)}"
        raise InputError("[v d], v at least 1", found, where="table")
    if table.shape[1] != hidden.shape[-1]:
        width, found = table.shape[1], hidden.shape[-1]
        raise InputError(f"width {width}, as table", f"{found}", where=f"{side}hidden")
    checks.shape(f"{side}labels", labels, hidden.shape[:2])
    if bias is not None:
        checks.shape("bias", bias, table.shape[:1])
    if where is not None:
        checks.mask(f"{side}where", where, tuple(hidden.shape[:2]))
