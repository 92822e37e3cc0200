"""Interpolation along the arc between tensors: slerp, and for more than two."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.merging import settings, trees
from m3jax.merging.method import Axes, Method, Per, Round, State, Tensors, has_all
from m3jax.merging.weighted import only, weighted

# Whose cosine is beyond it, or below its negative, are interpolated linearly.
PARALLEL = 0.9995
# The squared length of a mean of two such opposite ones.
_SHORT = (1 - PARALLEL) / 2


def slerp(
    first: Params,
    second: Params,
    t: float | jax.Array | Mapping[str, float],
    *,
    per: Per = "tensor",
    keep: Sequence[str] = (),
    outside: settings.Outside = "refuse",
) -> Params:
    """Interpolate two models along the arc between their tensors.

    With cos(theta) = <a, b> / (|a| |b|), of a published tensor a and its counterpart b,

        sin((1 - t) theta) / sin(theta) a + sin(t theta) / sin(theta) b

    so the angle is that of the normalised tensors, and what is interpolated are the
    tensors as they are. Where |cos(theta)| > 0.9995, or one of them is zero and has no
    direction, it is (1 - t) a + t b. t = 0 and t = 1 give the models bit for bit, and
    slerp(a, b, t) is slerp(b, a, 1 - t).

    A leaf `[layers, ...]` under `layers` is as many tensors, each with its own angle.
    The angle is computed in float64 sums, the rest in float32; every leaf keeps the
    type that it has in the first model, and its sharding. Under jit t may be traced.

    Args:
        first: the model of t = 0.
        second: the model of t = 1, with the same names and shapes.
        t: where between them; or path regex -> t, for other values in other layers: of
            each tensor the first regex that is found in its name
            (`encoder.layers.7.mlp.up.kernel`) decides.
        per: what has one angle: every tensor, the whole tree, or every row of a tensor,
            as it is published: all that one number of the output, or one token, has.
        keep: regexes of tensors that stay as they are in the first model; the second
            need not have them.
        outside: "allow" takes t below 0 and above 1 too, which goes on beyond the
            models.

    Returns:
        A tree like the first.

    Raises:
        InputError: the models differ in names or shapes, or in a leaf of integers; t is
            outside [0, 1], or no regex is found in a name.

    Source:
        Shoemake 1985 (Animating rotation with quaternion curves); thresholds and the
        choice of tensors are those of mergekit's slerp. A tensor of norm below 1e-8,
        whose angle mergekit takes to be 90 degrees, has its own angle here.

    Example:
        >>> a, b = {"up": {"bias": jnp.eye(2)[0]}}, {"up": {"bias": jnp.eye(2)[1]}}
        >>> slerp(a, b, 0.5)["up"]["bias"].round(3)
        Array([0.707, 0.707], dtype=float32)
    """
    setting = settings.of_t(t, outside=outside)
    return trees.merge(SLERP, (first, second), setting, per=per, keep=keep)


def multi_slerp(
    models: Sequence[Params],
    weights: settings.Weights,
    *,
    per: Per = "tensor",
    keep: Sequence[str] = (),
    total: settings.Total = "check",
    compat: Literal["none", "mergekit"] = "none",
) -> Params:
    """Interpolate any number of models on the sphere of their directions.

    With u_i = x_i / |x_i|, weights w_i and m the direction of sum_i w_i u_i, tensors
    are seen from m, as on a map: v_i points from m to u_i and is as long as the arc
    between them. The result lies where the weighted mean v of these points to, and is
    as long as the tensors are on average:

        v_i = theta_i / sin(theta_i) (u_i - cos(theta_i) m),    v = sum_i w_i v_i
        sum_i w_i |x_i| (cos|v| m + sin|v| / |v| v)

    For two models of equal norms this is slerp with t = w_2. Where the weighted mean of
    directions nearly cancels (shorter than 0.016), or a tensor points away from it, it
    is sum_i w_i x_i. A zero tensor has no direction and only makes the result shorter.
    A model of weight 0 is not looked at, and one of weight 1 comes out bit for bit.

    Args:
        models: with the same names and shapes.
        weights: of the models; or path regex -> weights, as in `slerp`.
        per: as in `slerp`.
        keep: as in `slerp`.
        total: weights that do not sum to 1 are refused, or divided by their sum
            ("normalise").
        compat: "mergekit" leaves out theta_i / sin(theta_i). Then v is exactly 0, and
            the result is the weighted mean of directions, at its average length.

    Returns:
        A tree like the first.

    Raises:
        InputError: as `slerp`; or the weights are not one a model, are negative, or do
            not sum to 1.

    Source:
        One step of the mean on a sphere, from the projected mean, of Buss and Fillmore
        2001 (Spherical averages and applications); mergekit's multislerp.

    Example:
        >>> models = [{"bias": row} for row in jnp.eye(3)]
        >>> merged = multi_slerp(models, [0.25, 0.25, 0.5])["bias"]
        >>> [round(float(x), 2) for x in merged]
        [0.44, 0.44, 0.78]
    """
    setting = settings.of_weights(weights, len(models), total=total)
    methods = {"none": MULTI_SLERP, "mergekit": MEAN_DIRECTION}
    if compat not in methods:
        raise InputError(f"one of {', '.join(methods)}", f"{compat}", where="compat")
    method = methods[compat]
    return trees.merge(method, models, setting, per=per, keep=keep)


def products(block: Tensors, state: State, axes: Axes) -> jax.Array:
    """Inner products of all pairs of models, float64 `[k k ...]`."""
    del state
    x = [tensor.astype(jnp.float64) for tensor in block]
    count = range(len(x))
    found = {
        (i, j): jnp.sum(x[i] * x[j], axes, keepdims=axes is not None)
        for i in count
        for j in count[i:]
    }
    rows = [[found[min(i, j), max(i, j)] for j in count] for i in count]
    return jnp.stack([jnp.stack(row) for row in rows])


def _arc(sums: jax.Array, state: State) -> State:
    """Weights of slerp: `near` of a + b, and `far` of the one that is nearer to t.

    out = near (a + b) + far (b if t >= 1/2 else a) is the formula of `slerp` with its
    weights w_a and w_b as their smaller one and their difference. Of almost opposite
    tensors both are large, and a + b is as small: nothing is lost.
    """
    t = state["t"].astype(jnp.float32)
    both = sums[0, 0] * sums[1, 1]
    cos = sums[0, 1] / jnp.sqrt(jnp.where(both > 0, both, 1.0))
    straight = (both == 0) | (jnp.abs(cos) > PARALLEL)
    sin_half, cos_half = _half(jnp.where(straight, 0.0, cos))
    half = jnp.arctan2(sin_half, cos_half)
    side, away = jnp.minimum(t, 1 - t), jnp.abs(2 * t - 1)
    near = jnp.sin(2 * side * half) / (2 * sin_half * cos_half)
    far = jnp.sin(away * half) / jnp.sin(half)
    return {
        "t": t,
        "near": jnp.where(straight, side, near).astype(jnp.float32),
        "far": jnp.where(straight, away, far).astype(jnp.float32),
    }


def _on_arc(block: Tensors, state: State) -> jax.Array:
    a, b = block
    near, total = state["near"], a + b
    # Halves lose a bit of the smallest numbers: they are for what is too large to add.
    both = jnp.where(jnp.isinf(total), 2 * near * (a / 2 + b / 2), near * total)
    return both + state["far"] * jnp.where(state["t"] >= 0.5, b, a)


def _at_an_end(state: State) -> list[jax.Array]:
    return [state["t"] == 0, state["t"] == 1]


def _half(cos: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine of half an angle, float32, by the float64 cosine of the whole.

    Near 0 and 180 degrees these keep the digits that an arccos would lose.
    """
    cos = jnp.clip(cos, -1, 1)
    sine, cosine = jnp.sqrt((1 - cos) / 2), jnp.sqrt((1 + cos) / 2)
    return sine.astype(jnp.float32), cosine.astype(jnp.float32)


def _mean(sums: jax.Array, state: State) -> State:
    """The weighted mean of directions, and as weights: it, at the average length."""
    count = len(sums)
    w = state["weights"].astype(jnp.float64)
    w = w.reshape(count, *[1] * (sums.ndim - 2))
    has_weight = w != 0
    sums = jnp.where(has_weight[:, None] & has_weight[None], sums, 0.0)
    norms = jnp.sqrt(sums[jnp.arange(count), jnp.arange(count)])
    inverse = jnp.where(norms > 0, 1 / jnp.where(norms > 0, norms, 1.0), 0.0)
    cos = sums * inverse[:, None] * inverse[None]
    dots = jnp.sum(cos * w[None], 1)
    squared = jnp.sum(w * dots, 0, keepdims=True)
    straight = (squared <= _SHORT) | jnp.any(has_all(w), 0, keepdims=True)
    length = jnp.sqrt(jnp.where(straight, 1.0, squared))
    scale = jnp.sum(w * norms, 0, keepdims=True) * inverse
    mean = jnp.where(straight, w, scale * w / length)
    return {
        **{"w": w, "cos": cos, "straight": straight, "length": length, "scale": scale},
        "seen": dots / length,  # cos(theta_i); 0 for a zero tensor
        "weights": mean,
    }


def _map(sums: jax.Array, state: State) -> State:
    """Weights of `multi_slerp`: everything is a sum of the tensors.

    They stay float64, and so is the sum: where directions nearly cancel they are large,
    and float32 would leave five digits of what is left.
    """
    found = _mean(sums, state)
    w, length, seen = found["w"], found["length"], found["seen"]
    straight = found["straight"] | jnp.any(seen < -PARALLEL, 0, keepdims=True)
    sin_half, cos_half = _half(jnp.where(straight, 1.0, seen))
    arc, sine = 2 * jnp.arctan2(sin_half, cos_half), 2 * sin_half * cos_half
    stretch = w * jnp.where(sine > 0, arc / jnp.where(sine > 0, sine, 1.0), 1.0)
    # v = sum_i tangent_i u_i
    along = jnp.sum(stretch * seen, 0, keepdims=True)
    tangent = stretch - along * w / length
    squared = jnp.sum(tangent[:, None] * tangent[None] * found["cos"], (0, 1))[None]
    angle = jnp.sqrt(jnp.maximum(squared, 0)).astype(jnp.float32)
    part = jnp.where(angle > 0, jnp.sin(angle) / jnp.where(angle > 0, angle, 1.0), 1.0)
    curved = found["scale"] * (jnp.cos(angle) * w / length + part * tangent)
    return {"weights": jnp.where(straight, w, curved)}


SLERP = Method((Round(products, _arc),), _on_arc, _at_an_end)
MULTI_SLERP = Method((Round(products, _map),), weighted, only)
MEAN_DIRECTION = Method((Round(products, _mean),), weighted, only)
