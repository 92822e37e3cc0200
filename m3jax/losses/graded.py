"""Pairs of texts with graded labels of how similar they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from m3jax.core.errors import InputError
from m3jax.losses import checks
from m3jax.losses.partition import finish
from m3jax.losses.travel import everyones


def cosent(
    scores: Float[Array, " n"],
    labels: Shaped[Array, " n"],
    *,
    temperature: float | int | Float[Array, ""] = 0.05,
    axis_name: str | tuple[str, ...] | None = None,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, ""]:
    """CoSENT: pairs of texts with a higher label should score higher; for the batch.

    l = log(1 + sum_{i, j: y_i < y_j} exp((s_i - s_j) / tau)), over the pairs of texts
    of all devices when `axis_name` is given; equal labels ask for nothing.

    The value is the same on every device, and both forms of `info_nce` give the
    gradient: under `jax.shard_map` as it is by default, `grad(pmean(loss))`, where
    `grad(loss)` is the same; under `jax.pmap`, or `shard_map(..., check_vma=False)`,
    `pmean(grad(loss))`. Memory: n rows of the scores of all devices.

    Nothing to compare gives 0 and no gradient. NaN stays NaN.

    Args:
        scores: similarity of each pair of texts, as a cosine.
        labels: how similar they are, on any scale: only the order counts.
        temperature: tau, divides the scores; > 0; may be trained.
        axis_name: mapped axis or axes over which `n` is divided.
        where: False = there is no such pair of texts.

    Returns:
        float32 loss of the batch, in nats; a sum, not a mean, under the logarithm.

    Raises:
        InputError: shapes that do not fit, temperature <= 0, `axis_name` outside of a
            mapped function.

    Source: Huang et al. 2024 (CoSENT, IEEE/ACM TASLP); sentence-transformers'
    `CoSENTLoss` with scale 1 / tau.

    Example:
        >>> scores, labels = jnp.array([0.9, 0.8]), jnp.array([1, 5])
        >>> f"{cosent(scores, labels, temperature=0.1):.3f}"
        '1.313'
    """
    scores = checks.array("scores", scores, "floats")
    labels = checks.array("labels", labels)
    if scores.ndim != 1:
        raise InputError("[n]", f"shape {tuple(scores.shape)}", where="scores")
    checks.shape("labels", labels, scores.shape)
    if where is not None:
        checks.mask("where", where, tuple(scores.shape))
    checks.temperature(temperature)
    checks.axis(axis_name)
    there = jnp.ones(scores.shape, bool) if where is None else where
    score = jnp.where(there, scores, 0).astype(jnp.float32)
    mine = score, labels, there
    others, higher, exist = everyones(mine, axis_name)
    counts = (labels[:, None] < higher[None]) & there[:, None] & exist[None]
    logits = (score[:, None] - others[None]) / temperature
    logits = jnp.where(counts, logits, -jnp.inf)
    most = jax.lax.stop_gradient(jnp.maximum(logits.max(initial=0), 0))
    if axis_name is not None:
        most = jax.lax.pmax(most, axis_name)
    # A label of NaN would be in no order, and so be hidden.
    unknown = (there & (jnp.isnan(score) | jnp.isnan(labels))).any()
    total = jnp.exp(logits - most).sum()
    total = jnp.where(unknown, jnp.float32(jnp.nan), total)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return finish(total[None], most[None])[0]
