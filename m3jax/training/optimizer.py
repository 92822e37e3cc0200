"""How the parameters move: optimizer, schedule, and what stays as it is."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.training.groups import (
    Group,
    add_decay,
    by_tensor,
    check_groups,
    decaying,
    frozen,
    near,
    scale_by_group,
)

Mask = Callable[[Params], Params]
# What each optimizer is published with.
_B2 = {"adamw": 0.999, "lamb": 0.999, "lion": 0.99}
_EPS = {"adamw": 1e-8, "lamb": 1e-6}


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters move."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How it falls afterwards, to 0 or not at all."""
    weight_decay: float = 0.01
    """Pulls kernels and tables towards 0; biases and norms are left alone."""
    clip_norm: float = 1.0
    """Longest gradient, as a norm over all parameters; longer ones are scaled down."""
    b1: float = 0.9
    """Decay of the mean of the gradients; the momentum of sgd."""
    b2: float | None = None
    """Decay of the mean of their squares; by default as published: 0.999, of lion 0.99.
    Without use in adafactor and sgd."""
    eps: float | None = None
    """Added to the root of that mean; by default as published: 1e-8, of lamb 1e-6.
    Without use in the others."""
    trainable: str = ""
    """Regex of the parameters that are trained, e.g. "^(sparse|multivec)" for the heads
    alone; by default all, or with LoRA its pairs and the heads."""
    name: Literal["adamw", "adafactor", "lion", "lamb", "sgd"] = "adamw"
    """The rule. The learning rate of each is absolute: adafactor does not multiply it
    by the size of a parameter."""
    warmup_steps: int | None = None
    """Steps over which the learning rate rises, in place of the share."""
    groups: tuple[Group, ...] = ()
    """Parameters with another learning rate or weight decay, or frozen."""
    transform: Callable[[optax.Schedule, Mask], optax.GradientTransformation] | None = (
        None
    )
    """Any other optimizer of optax, set in Python only: (learning rate by step, which
    parameters decay) -> transformation of the clipped gradients. In place of `name`,
    the decays and eps."""


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    Args:
        config: peak, warm-up and shape.
        steps: length of the training.

    Returns:
        Step -> learning rate; 0 before the first update only if there is a warm-up.

    Example:
        >>> schedule = make_schedule(OptimizerConfig(learning_rate=1.0), steps=10)
        >>> [round(float(schedule(step)), 2) for step in (0, 1, 10)]
        [0.0, 1.0, 0.0]
    """
    warmup = config.warmup_steps
    if warmup is None:
        warmup = round(config.warmup * steps)
    rest = max(steps - warmup, 1)
    peak = config.learning_rate
    after = {
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    if warmup == 0:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), after], [warmup]
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip, then the optimizer under the schedule, for the parameters that are trained.

    update = -schedule(step) * factor * (direction + weight_decay * param), where the
    optimizer gives the direction and the group of a parameter the factor; lamb scales
    the sum to the norm of each published tensor.

    Args:
        config: everything but the length.
        steps: length of the training.

    Returns:
        The transformation; its `init` refuses what `check_optimizer` does.

    Source: AdamW, Loshchilov and Hutter 2017 (arXiv:1711.05101); Adafactor, Shazeer and
    Stern 2018 (arXiv:1804.04235); LAMB, You et al. 2019 (arXiv:1904.00962); Lion, Chen
    et al. 2023 (arXiv:2302.06675).

    Example:
        >>> tx = make_optimizer(OptimizerConfig(name="lion"), steps=10)
        >>> state = tx.init({"kernel": jnp.ones(2)})
    """
    schedule = make_schedule(config, steps)
    if config.transform is not None:
        moves = [config.transform(schedule, decaying)]
    else:
        moves = [*_direction(config), optax.scale_by_learning_rate(schedule)]
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        *moves,
        scale_by_group(config.groups),
    )
    if config.trainable or any(group.freeze for group in config.groups):
        tx = optax.partition(
            {True: tx, False: optax.set_to_zero()},
            lambda params: moving(params, config.trainable, config.groups),
        )

    def init(params: Params) -> Any:
        check_optimizer(params, config)
        return tx.init(params)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def _direction(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """The rule of an optimizer, with the weight decay where it belongs."""
    b2, eps = config.b2, config.eps
    b2 = _B2.get(config.name, 0.0) if b2 is None else b2
    eps = _EPS.get(config.name, 0.0) if eps is None else eps
    decay = add_decay(config.weight_decay, config.groups)
    match config.name:
        case "adamw":
            return [optax.scale_by_adam(config.b1, b2, eps), decay]
        case "lamb":
            return [optax.scale_by_adam(config.b1, b2, eps), decay, by_tensor(_trust)]
        case "lion":
            return [optax.scale_by_lion(config.b1, b2), decay]
        case "adafactor":
            return [optax.scale_by_factored_rms(), by_tensor(_at_most_one), decay]
        case "sgd":
            return [optax.trace(config.b1), decay]


def _trust(update: jax.Array, param: jax.Array) -> jax.Array:
    """Scale an update to the norm of its parameter, where both are above 0."""
    norms = jnp.linalg.norm(param), jnp.linalg.norm(update)
    either = (norms[0] == 0) | (norms[1] == 0)
    return update * jnp.where(either, 1, norms[0] / jnp.where(either, 1, norms[1]))


def _at_most_one(update: jax.Array, param: jax.Array) -> jax.Array:
    """Scale an update down to a root mean square of 1, where it is above."""
    del param
    return update / jnp.maximum(1, jnp.sqrt(jnp.mean(jnp.square(update))))


def moving(params: Params, trainable: str, groups: Sequence[Group] = ()) -> Params:
    """Say of every parameter whether it is trained.

    Args:
        params: parameters, or their shapes.
        trainable: regex searched in their paths; "" is all of them.
        groups: of which some may be frozen.

    Returns:
        A tree like `params`, of bool.

    Raises:
        InputError: of the layers of a stack, only some are frozen.

    Example:
        >>> moving({"sparse": {"bias": 0}, "encoder": {"bias": 0}}, "^sparse")
        {'encoder': {'bias': False}, 'sparse': {'bias': True}}
    """
    # The scale of a low-rank pair is a constant. Not "": of equal keys the later holds.
    rules = {r"\.lora_scale$": False, trainable or "()": True, "": False}
    chosen = tree.assign(params, rules)
    stays = jax.tree.unflatten(
        jax.tree.structure(chosen), list(frozen(params, groups).values())
    )
    return jax.tree.map(lambda moves, stays: moves and not stays, chosen, stays)


def all_but(heads: Sequence[str]) -> str:
    """Regex of the parameters outside of some heads; "" where there are none.

    Example:
        >>> moving({"sparse": {"bias": 0}, "encoder": {"bias": 0}}, all_but(["sparse"]))
        {'encoder': {'bias': True}, 'sparse': {'bias': False}}
    """
    return rf"^(?!({'|'.join(heads)})\.)" if heads else ""


def check_trainable(params: Params, trainable: str) -> None:
    """Refuse a regex that trains nothing.

    Args:
        params: parameters, or their shapes.
        trainable: see `moving`.

    Raises:
        InputError: the regex is none, or is found in no path.

    Example:
        >>> check_trainable({"encoder": {"bias": 0}}, "^sparse")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: optimizer.trainable: expected a regex that is \
found in some path, found '^sparse'. Paths look like encoder.bias.
    """
    try:
        found = moving(params, trainable)
    except re.error as error:
        raise InputError("a regex", str(error), where="optimizer.trainable") from None
    if not any(jax.tree.leaves(found)):
        raise InputError(
            "a regex that is found in some path",
            repr(trainable),
            where="optimizer.trainable",
            do=f"Paths look like {near(trainable, list(tree.paths(params)))}.",
        )


def check_optimizer(params: Params, config: OptimizerConfig) -> None:
    """Refuse an optimizer that cannot move these parameters as it says.

    Args:
        params: parameters, or their shapes.
        config: with `trainable` as it will be, e.g. the pairs of LoRA.

    Raises:
        InputError: a regex is none or is found in no path, nothing is left to train,
            two fields exclude each other, or a number is one that nobody can mean.

    Example:
        >>> config = OptimizerConfig(groups=(Group("", freeze=True),))
        >>> check_optimizer({"encoder": {"bias": 0}}, config)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: optimizer.groups: expected something to train, \
found that all of it is frozen
    """
    check_trainable(params, config.trainable)
    check_groups(params, config.groups)
    rules = {
        "warmup_steps": ("0 or more", (config.warmup_steps or 0) >= 0),
        "clip_norm": ("above 0", config.clip_norm > 0),
        "weight_decay": ("0 or more", config.weight_decay >= 0),
        "b1": ("a share from 0 to below 1", 0 <= config.b1 < 1),
        "b2": ("a share from 0 to below 1", 0 <= (config.b2 or 0) < 1),
        "eps": ("0 or more", (config.eps or 0) >= 0),
    }
    for name, (expected, holds) in rules.items():
        if not holds:
            found = f"{getattr(config, name)}"
            raise InputError(expected, found, where=f"optimizer.{name}")
    if config.transform is not None:
        for i, group in enumerate(config.groups):
            if group.weight_decay is not None:
                raise InputError(
                    "no weight decay of a group beside optimizer.transform",
                    f"{group.weight_decay}",
                    where=f"optimizer.groups.{i}.weight_decay",
                    do="The function decides on it.",
                )
    if not any(jax.tree.leaves(moving(params, config.trainable, config.groups))):
        raise InputError(
            "something to train", "that all of it is frozen", where="optimizer.groups"
        )
