"""Cross-entropy of one right candidate among given scores."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.errors import InputError
from m3jax.losses import checks
from m3jax.losses.partition import finish


def softmax_cross_entropy(
    scores: Float[Array, "b n"],
    target: Int[Array, " b"],
    *,
    temperature: float | int | Float[Array, ""] = 1.0,
    where: Bool[Array, "b n"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy of the right candidate, per row.

    l_i = log sum_{c: where_ic} exp(s_ic / tau) - s_it / tau, with t the target. The
    target stands as exp(0) in the sum, so that tiny losses keep their digits.

    A row of which the target is masked has loss 0 and no gradient, and so has one of
    which all is masked. NaN stays NaN.

    Args:
        scores: of the candidates, before the temperature.
        target: column of the right one; outside of 0 to n - 1 the loss is NaN, unless
            the row has no candidate at all.
        temperature: tau, divides the scores; > 0; may be trained.
        where: False = there is no such candidate; whatever its score is, NaN too.

    Returns:
        float32 loss of each row, in nats.

    Raises:
        InputError: shapes that do not fit, temperature <= 0.

    Source: the usual one; masked as in Qwen3-Embedding (arXiv:2506.05176).

    Example:
        >>> scores = jnp.array([[2.0, 1.0], [2.0, 2.0]])
        >>> [f"{x:.3f}" for x in softmax_cross_entropy(scores, jnp.array([0, 1]))]
        ['0.313', '0.693']
    """
    check_scores(scores, where)
    scores, target = jnp.asarray(scores), checks.array("target", target, "integers")
    checks.shape("target", target, scores.shape[:1])
    checks.temperature(temperature)
    scores, n = scores.astype(jnp.float32), scores.shape[1]
    column = jnp.where(target < 0, n, target)[:, None]  # -1 is no way to say n - 1
    positive = jnp.take_along_axis(scores, column, axis=1, mode="fill")
    lead = jnp.arange(n)[None] == column
    counts = jnp.ones_like(lead)
    if where is not None:
        counts = where & ~(lead & ~where).any(1, keepdims=True)
    # Before the division, so that what does not count is in no gradient.
    margin = jnp.where(counts, scores - positive, 0)
    logits = jnp.where(counts | lead, margin / temperature, -jnp.inf)
    most = jax.lax.stop_gradient(logits.max(1))  # 0 or more, for the target is there
    total = jnp.where(lead, 0, jnp.exp(logits - most[:, None])).sum(1)
    loss = finish(total, most)
    return loss if where is None else jnp.where(where.any(1), loss, 0)


def check_scores(scores: Any, where: Any, *, name: str = "scores") -> None:
    """Refuse scores that are not a row for each query, and a mask that does not fit.

    Raises:
        InputError: one of these.

    Example:
        >>> check_scores(jnp.ones((2, 3)), jnp.ones((2, 3), bool))
    """
    checks.array(name, scores, "floats")
    if scores.ndim != 2 or not scores.shape[1]:
        found = f"shape {tuple(scores.shape)}"
        raise InputError("[b n], n at least 1", found, where=name)
    if where is not None:
        checks.mask("where", where, tuple(scores.shape))
