"""Weighted sums of models, and of what they learned beyond a base."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.merging import settings, trees
from m3jax.merging.method import Method, State, Tensors, has_all, is_traced, times


def linear(
    models: Sequence[Params],
    weights: settings.Weights,
    *,
    keep: Sequence[str] = (),
    total: settings.Total = "check",
) -> Params:
    """Average models: sum_i w_i x_i, a soup.

    Args:
        models: with the same names and shapes.
        weights: of the models; or path regex -> weights, for others in other layers: of
            each published tensor the first regex that is found in its name
            (`encoder.layers.7.mlp.up.kernel`) decides. Under jit they may be traced.
        keep: regexes of tensors that stay as they are in the first model; the others
            need not have them.
        total: weights that do not sum to 1 are refused, or divided by their sum
            ("normalise").

    Returns:
        A tree like the first: sums are float32, and every leaf keeps the type that it
        has in the first model, and its sharding. A model whose weight is 1 beside zeros
        comes out bit for bit.

    Raises:
        InputError: the models differ in names or shapes, or in a leaf of integers; the
            weights are not one a model, are negative, or do not sum to 1.

    Source: Wortsman et al. 2022 (model soups, arXiv:2203.05482).

    Example:
        >>> models = [{"bias": jnp.zeros(2)}, {"bias": jnp.ones(2)}]
        >>> linear(models, [0.25, 0.75])["bias"]
        Array([0.75, 0.75], dtype=float32)
    """
    setting = settings.of_weights(weights, len(models), total=total)
    return trees.merge(LINEAR, models, setting, keep=keep)


def task_arithmetic(
    base: Params,
    models: Sequence[Params],
    weights: settings.Weights,
    *,
    keep: Sequence[str] = (),
) -> Params:
    """Add what models learned to their base: x_0 + sum_i w_i (x_i - x_0).

    Args:
        base: what all of them were trained from.
        models: with its names and shapes.
        weights: of the models, which need not sum to 1; a negative one takes away. Or
            path regex -> weights, as in `linear`.
        keep: regexes of tensors that stay as they are in the first model; base and
            other models need not have them.

    Returns:
        A tree like the first model, in its types.

    Raises:
        InputError: as `linear`.

    Source: Ilharco et al. 2023 (arXiv:2212.04089).

    Example:
        >>> base, tuned = {"bias": jnp.ones(2)}, {"bias": jnp.full(2, 3.0)}
        >>> task_arithmetic(base, [tuned], [0.5])["bias"]
        Array([2., 2.], dtype=float32)
    """
    setting = settings.of_weights(weights, len(models), total="any")
    return trees.merge(TASK_ARITHMETIC, models, setting, base=base, keep=keep)


def cocktail_weights(
    losses: Sequence[float] | np.ndarray | jax.Array, *, temperature: float = 5.0
) -> jax.Array:
    """Weights of models by how well each does on a few examples.

        w_i = exp(-loss_i / T) / sum_j exp(-loss_j / T)

    Args:
        losses: of the models, `[k]`, each on the same examples.
        temperature: T; a small one leaves all to the best model.

    Returns:
        float32 `[k]`, which sum to 1.

    Raises:
        InputError: the temperature is not above 0, or a loss is not a number.

    Source:
        Xiao et al. 2023 (LM-Cocktail, arXiv:2311.13534); T = 5 as in its code.

    Example:
        >>> cocktail_weights([0.1, 0.1]).tolist()
        [0.5, 0.5]
    """
    if not temperature > 0:
        raise InputError("above 0", f"{temperature}", where="temperature")
    values = jnp.asarray(losses, jnp.float32)
    if not is_traced(values) and not jnp.isfinite(values).all():
        raise InputError("numbers", f"{values.tolist()}", where="losses")
    return jax.nn.softmax(-values / temperature)


def weighted(block: Tensors, state: State) -> jax.Array:
    """sum_i w_i x_i, float32; the sum is in the type of the weights."""
    terms = [times(state["weights"][i], x) for i, x in enumerate(block)]
    return sum(terms[1:], start=terms[0]).astype(jnp.float32)


def only(state: State) -> jax.Array:
    """Of each model, whether `weighted` gives that model."""
    return has_all(state["weights"])


def _added(block: Tensors, state: State) -> jax.Array:
    base, *models = block
    changes = [times(state["weights"][i], x - base) for i, x in enumerate(models)]
    return sum(changes, start=base)


def _nothing_added(state: State) -> list[jax.Array]:
    return [jnp.all(state["weights"] == 0)]


LINEAR = Method((), weighted, only)
TASK_ARITHMETIC = Method((), _added, _nothing_added)
