"""What a student's scores lack of a teacher's."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.errors import InputError
from m3jax.losses import checks
from m3jax.losses.classification import check_scores, softmax_cross_entropy


def distill_kl(
    scores: Float[Array, "b n"],
    teacher_scores: Float[Array, "b n"],
    *,
    temperature: float | int | Float[Array, ""],
    teacher_temperature: float | int | Float[Array, ""] = 1.0,
    where: Bool[Array, "b n"] | None = None,
) -> Float[Array, " b"]:
    """Kullback-Leibler divergence of the student from the teacher, per row.

    l_i = sum_c t_ic (log t_ic - log p_ic) over the candidates that are there, with
    t = softmax(teacher_scores / teacher_temperature) without gradient, and
    p = softmax(scores / temperature).

    A row without a candidate has loss 0 and no gradient. NaN stays NaN.

    Args:
        scores: of the student, before the temperature.
        teacher_scores: of the teacher for the same candidates; -inf says "surely not".
        temperature: divides the student's scores; > 0; may be trained.
        teacher_temperature: divides the teacher's; > 0. SimLM and E5 have 1.
        where: False = there is no such candidate.

    Returns:
        float32 divergence of each row, in nats.

    Raises:
        InputError: shapes that do not fit, a temperature <= 0.

    Source: SimLM (arXiv:2207.02578), E5 (arXiv:2212.03533): own group, batchmean.

    Example:
        >>> scores = jnp.array([[0.2, 0.1]])
        >>> [f"{x:.3f}" for x in distill_kl(scores, -10 * scores, temperature=0.1)]
        ['0.462']
    """
    check_scores(scores, where)
    checks.shape("teacher_scores", teacher_scores, scores.shape)
    checks.temperature(temperature)
    checks.temperature(teacher_temperature, "teacher_temperature")
    there = jnp.ones(scores.shape, bool) if where is None else where
    teacher = _log_softmax(
        jax.lax.stop_gradient(teacher_scores), there, teacher_temperature
    )
    teacher = jax.lax.stop_gradient(teacher)  # nor has its temperature one
    student = _log_softmax(scores, there, temperature)
    share = jnp.exp(teacher)
    # 0 log 0 = 0; asked as == 0, NaN remains.
    lack = jnp.where(there & (share != 0), share * (teacher - student), 0)
    return lack.sum(1)


def m3_kd(
    scores: Float[Array, "b n"],
    teacher_scores: Float[Array, "b g"],
    own: Int[Array, "b g"],
    *,
    temperature: float | int | Float[Array, ""] = 1.0,
    where: Bool[Array, "b n"] | None = None,
) -> Float[Array, " b"]:
    """FlagEmbedding's `m3_kd_loss`: every own passage in its turn is the right one.

    l_i = sum_k t_ik (log sum_{c in C_ik} exp(s_ic / tau) - s_i,own(i,k) / tau), with
    t = softmax(teacher_scores) over the own group, without gradient, and C_ik all
    candidates but the own passages before the k-th. It takes the place of the plain
    cross-entropy and presumes own passages from the best to the worst.

    A row without an own passage has loss 0 and no gradient. NaN stays NaN.

    Args:
        scores: of all candidates, before the temperature.
        teacher_scores: for the own group.
        own: columns of the own group, each once; outside of 0 to n - 1 the loss is NaN.
        temperature: tau, divides the scores, not the teacher's; > 0; may be trained.
        where: False = there is no such candidate; an own passage that is not there
            has no share in t.

    Returns:
        float32 loss of each row, in nats.

    Raises:
        InputError: shapes that do not fit, temperature <= 0.

    Source: FlagEmbedding, `AbsEmbedderModel.distill_loss`.

    Example:
        >>> scores, own = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[0, 1]])
        >>> [f"{x:.3f}" for x in m3_kd(scores, jnp.array([[9.0, -9.0]]), own)]
        ['0.408']
    """
    check_scores(scores, where)
    check_scores(teacher_scores, None, name="teacher_scores")
    own = checks.array("own", own, "integers")
    checks.shape("own", own, (len(scores), own.shape[-1]))
    checks.shape("teacher_scores", teacher_scores, own.shape)
    checks.temperature(temperature)
    (b, n), g = scores.shape, own.shape[1]
    if g > n:
        raise InputError(f"at most {n} own passages", f"{g}", where="own")
    there = jnp.ones((b, n), bool) if where is None else jnp.asarray(where)
    column = jnp.where(own < 0, n, own)
    mine = jnp.take_along_axis(there, column, axis=1, mode="fill", fill_value=True)
    share = jax.lax.stop_gradient(teacher_scores)
    share = jnp.exp(_log_softmax(share, mine, 1.0))  # whatever where the loss is 0

    # All others are one candidate, the same at every turn: log sum exp of theirs.
    others = there.at[jnp.arange(b)[:, None], column].set(False, mode="drop")
    any_other = others.any(1, keepdims=True)
    logits = jnp.where(others, scores, 0).astype(jnp.float32) / temperature
    logits = jnp.where(others, logits, jnp.where(any_other, -jnp.inf, 0))
    rest = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    group = jnp.take_along_axis(scores, column, axis=1, mode="fill")
    group = jnp.where(mine, group, 0).astype(jnp.float32) / temperature
    left = jnp.triu(jnp.ones((g, g), bool))[None] & mine[:, None]  # [b turn passage]

    def turns(of_group: Array, rest: Array) -> Array:
        """[b turn passage] and [b 1] -> [b turn, passage + 1]."""
        rest = jnp.broadcast_to(rest[:, None], (b, g, 1))
        return jnp.concatenate((of_group, rest), axis=2).reshape(b * g, g + 1)

    loss = softmax_cross_entropy(
        turns(jnp.broadcast_to(group[:, None], (b, g, g)), rest),
        jnp.tile(jnp.arange(g), b),
        where=turns(left, any_other),
    )
    return jnp.where(there.any(1), (share * loss.reshape(b, g)).sum(1), 0)


def _log_softmax(
    scores: Float[Array, "b n"],
    where: Bool[Array, "b n"],
    temperature: float | int | Float[Array, ""],
) -> Float[Array, "b n"]:
    """Over the candidates that are there; 0 for the others, whatever they are."""
    logits = jnp.where(where, scores, 0).astype(jnp.float32) / temperature
    logs = jax.nn.log_softmax(jnp.where(where, logits, -jnp.inf), axis=1)
    return jnp.where(where, logs, 0)
