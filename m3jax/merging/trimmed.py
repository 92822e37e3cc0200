"""TIES: what models learned, without what is small and what they disagree on."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.merging import settings, trees
from m3jax.merging.method import Axes, Method, Round, State, Tensors, is_traced, times

# A float32 without its sign, read as a whole number, is in the same order. Its 31 bits
# are found in two rounds: first the upper 15, then the lower 16.
_LOW = 16
_UPPER, _LOWER = 1 << 15, 1 << _LOW


def ties(
    base: Params,
    models: Sequence[Params],
    weights: settings.Weights | None = None,
    *,
    density: float = 0.2,
    scale: float = 1.0,
    per: Literal["tensor", "tree"] = "tensor",
    keep: Sequence[str] = (),
) -> Params:
    """Add what models learned to their base, where it is large and they agree.

    Of the changes d_i = x_i - x_0, float32:

        trim    d_i stays where |d_i| is among the largest, a share `density`
        elect   s = sign(sum_i w_i d_i)
        merge   x_0 + scale sum_i w_i d_i [a_i] / sum_i |w_i| [a_i],
                a_i: sign(w_i d_i) = s

    and x_0 where nothing stays or the sum is 0. A negative weight turns a change round,
    so what is added is never larger than scale times the largest |d_i|. The threshold
    of a trim is exact: it is the n-th largest |d_i|, n = round(density size), at least
    1; all that equal it stay.

    Args:
        base: what all of them were trained from.
        models: with its names and shapes.
        weights: of the models, by default the same; only their ratios count, and a
            negative one takes away. Or path regex -> weights, as in `linear`.
        density: share of each change that stays, above 0 and at most 1.
        scale: of what is added.
        per: what a trim is over, every published tensor or the whole tree.
        keep: regexes of tensors that stay as they are in the first model; base and
            other models need not have them.

    Returns:
        A tree like the first model, in its types.

    Raises:
        InputError: as `linear`; or the density is outside (0, 1].

    Source:
        Yadav et al. 2023 (TIES-Merging, arXiv:2306.01708), whose trims are over the
        tree; weights and trims per tensor as in mergekit, which divides by the sum of
        w_i: the same but for negative weights, where that sum may come near 0.

    Example:
        >>> base = {"bias": jnp.zeros(3)}
        >>> models = [{"bias": jnp.array(x)} for x in ([3.0, 2, 0], [-1.0, 4, 0.1])]
        >>> ties(base, models, density=0.7)["bias"]
        Array([3., 3., 0.], dtype=float32)
    """
    setting = setting_of(weights, len(models), density=density, scale=scale)
    return trees.merge(TIES, models, setting, per=per, keep=keep, base=base)


def setting_of(
    weights: settings.Weights | None, count: int, *, density: float, scale: float
) -> settings.Setting:
    """What tensors are merged with; see `ties`.

    Args:
        weights: of the models; None = 1 each.
        count: of the models.
        density: share of each change that stays.
        scale: of what is added.

    Returns:
        The setting.

    Raises:
        InputError: as `ties`.

    Example:
        >>> setting = setting_of(None, 2, density=0.5, scale=1.0)
        >>> setting.at("bias")["weights"].tolist()
        [1.0, 1.0]
    """
    if not is_traced(density) and not 0 < density <= 1:
        raise InputError("above 0 and at most 1", f"{density}", where="density")
    given = [1.0] * count if weights is None else weights
    found = settings.of_weights(given, count, total="any")
    return found.beside(density=density, scale=scale)


def _magnitudes(block: Tensors) -> list[jax.Array]:
    base, *models = block
    return [jax.lax.bitcast_convert_type(jnp.abs(x - base), jnp.uint32) for x in models]


def _count_upper(block: Tensors, state: State, axes: Axes) -> jax.Array:
    """How many magnitudes begin with each 15 bits, int64 `[k 2**15]`."""
    del state, axes
    return jnp.stack([_histogram(x >> _LOW, _UPPER) for x in _magnitudes(block)])


def _find_upper(sums: jax.Array, state: State) -> State:
    """The first 15 bits of each threshold, and its rank among those that have them."""
    size = sums[0].sum()
    kept = jnp.round(state["density"].astype(jnp.float64) * size).astype(jnp.int64)
    rank = jnp.full(len(sums), jnp.clip(kept, 1, size))
    upper, rank = _nth_largest(sums, rank)
    return {**state, "upper": upper, "rank": rank}


def _count_lower(block: Tensors, state: State, axes: Axes) -> jax.Array:
    """How many that begin like the threshold go on with each 16 bits, `[k 2**16]`."""
    del axes
    rows = []
    for x, upper in zip(_magnitudes(block), state["upper"], strict=True):
        # What begins otherwise is counted beyond the end, which is dropped.
        at = jnp.where(x >> _LOW == upper, x & (_LOWER - 1), jnp.uint32(_LOWER))
        rows.append(_histogram(at, _LOWER))
    return jnp.stack(rows)


def _find_lower(sums: jax.Array, state: State) -> State:
    lower, _ = _nth_largest(sums, state["rank"])
    bits = (state["upper"] << _LOW) | lower
    return {
        "weights": state["weights"],
        "scale": state["scale"],
        "threshold": jax.lax.bitcast_convert_type(bits, jnp.float32),
    }


def _histogram(at: jax.Array, length: int) -> jax.Array:
    # Over the axes as they are: to flatten them would gather what is spread.
    counts = jnp.zeros(length, jnp.int32).at[at].add(1, mode="drop")
    return counts.astype(jnp.int64)


def _nth_largest(sums: jax.Array, rank: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Bin that holds the element of each rank from the top, and its rank in there."""
    above = jnp.cumsum(sums[:, ::-1], axis=1)[:, ::-1]  # in this bin or a higher one
    at = jnp.sum(above >= rank[:, None], axis=1) - 1
    over = jnp.take_along_axis(above - sums, at[:, None], axis=1)[:, 0]
    return at.astype(jnp.uint32), rank - over


def _agreed(block: Tensors, state: State) -> jax.Array:
    base, *models = block
    weights, threshold = state["weights"], state["threshold"]
    changes = [x - base for x in models]
    terms = [
        times(weights[i], jnp.where(jnp.abs(change) >= threshold[i], change, 0.0))
        for i, change in enumerate(changes)
    ]
    elected = jnp.sign(sum(terms))
    total = share = jnp.zeros_like(base)
    for i, term in enumerate(terms):
        agrees = term * elected > 0
        total += jnp.where(agrees, term, 0.0)
        share += jnp.where(agrees, jnp.abs(weights[i]), 0.0)
    step = state["scale"] * total / jnp.where(share == 0, 1.0, share)
    return jnp.where(step == 0, base, base + step)


TIES = Method(
    (Round(_count_upper, _find_upper), Round(_count_lower, _find_lower)), _agreed
)
