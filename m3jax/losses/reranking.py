"""Losses of a reranker, which reads a query and a passage together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from m3jax.core.errors import InputError
from m3jax.losses import checks
from m3jax.losses.classification import check_scores, softmax_cross_entropy


def rerank_pointwise(
    yes: Float[Array, " n"],
    no: Float[Array, " n"],
    labels: Shaped[Array, " n"],
    *,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, " n"]:
    """Binary cross-entropy of the answers yes and no, per pair of query and passage.

    l_i = -y_i log sigma(z_i) - (1 - y_i) log sigma(-z_i), with z = yes - no, so that
    sigma(z) is the softmax over the two answers. NaN stays NaN.

    Args:
        yes: logit of "yes" for each pair.
        no: logit of "no".
        labels: y, from 0 to 1: 1 where the passage answers the query; outside of that
            the loss is NaN.
        where: False = there is no such pair: loss 0 and no gradient.

    Returns:
        float32 loss of each pair, in nats.

    Raises:
        InputError: shapes that do not fit.

    Source: Qwen3-Reranker (arXiv:2506.05176).

    Example:
        >>> yes, no = jnp.array([2.0, 0.0]), jnp.zeros(2)
        >>> [f"{x:.3f}" for x in rerank_pointwise(yes, no, jnp.array([1, 0]))]
        ['0.127', '0.693']
    """
    yes, no = (checks.array(n, x, "floats") for n, x in (("yes", yes), ("no", no)))
    labels = checks.array("labels", labels)
    if yes.ndim != 1:
        raise InputError("[n]", f"shape {tuple(yes.shape)}", where="yes")
    checks.shape("no", no, yes.shape)
    checks.shape("labels", labels, yes.shape)
    if where is not None:
        checks.mask("where", where, tuple(yes.shape))
    logit = yes.astype(jnp.float32) - no.astype(jnp.float32)
    label = labels.astype(jnp.float32)
    if where is not None:
        logit, label = jnp.where(where, logit, 0), jnp.where(where, label, 0)
    label = jnp.where((label >= 0) & (label <= 1), label, jnp.nan)
    loss = label * jax.nn.softplus(-logit) + (1 - label) * jax.nn.softplus(logit)
    return loss if where is None else jnp.where(where, loss, 0)


def rerank_listwise(
    scores: Float[Array, "b g"],
    *,
    temperature: float | int | Float[Array, ""] = 1.0,
    where: Bool[Array, "b g"] | None = None,
) -> Float[Array, " b"]:
    """Cross-entropy of the positive among the passages of its query, per query.

    l_i = log sum_{c: where_ic} exp(s_ic / tau) - s_i0 / tau.

    A query without a positive has loss 0 and no gradient. NaN stays NaN.

    Args:
        scores: of the passages of each query, the positive first; of a Qwen3 reranker
            yes - no.
        temperature: tau, divides the scores; > 0; may be trained.
        where: False = there is no such passage.

    Returns:
        float32 loss of each query, in nats.

    Raises:
        InputError: shapes that do not fit, temperature <= 0.

    Source: BGE rerankers (FlagEmbedding), ms-swift's trainer of Qwen3-Reranker.

    Example:
        >>> [f"{x:.3f}" for x in rerank_listwise(jnp.array([[2.0, 1.0]]))]
        ['0.313']
    """
    check_scores(scores, where)
    first = jnp.zeros(len(scores), jnp.int32)
    return softmax_cross_entropy(scores, first, temperature=temperature, where=where)
