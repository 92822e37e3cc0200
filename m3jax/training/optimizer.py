"""AdamW with warm-up, decay and gradient clipping."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import optax

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params


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
    """Decay of the mean of the gradients."""
    b2: float = 0.999
    """Decay of the mean of their squares."""
    eps: float = 1e-8
    """Added to the root of that mean."""
    trainable: str = ""
    """Regex of the parameters that are trained, e.g. "^(sparse|multivec)" for the heads
    alone; by default all, or with LoRA its pairs."""


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
    """Clip, then AdamW under the schedule, for the parameters that are trained.

    Args:
        config: everything but the length.
        steps: length of the training.

    Returns:
        The transformation.

    Source: Loshchilov and Hutter 2017 (arXiv:1711.05101).

    Example:
        >>> import jax.numpy as jnp
        >>> tx = make_optimizer(OptimizerConfig(), steps=10)
        >>> state = tx.init({"kernel": jnp.ones(2)})
    """
    adamw = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: tree.assign(
                params, {r"(^|\.)(bias|scale)$": False, "": True}
            ),
        ),
    )
    if not config.trainable:
        return adamw
    return optax.partition(
        {True: adamw, False: optax.set_to_zero()},
        lambda params: moving(params, config.trainable),
    )


def moving(params: Params, trainable: str) -> Params:
    """Say of every parameter whether it is trained.

    Args:
        params: parameters, or their shapes.
        trainable: regex searched in their paths; "" is all of them.

    Returns:
        A tree like `params`, of bool.

    Example:
        >>> moving({"sparse": {"bias": 0}, "encoder": {"bias": 0}}, "^sparse")
        {'encoder': {'bias': False}, 'sparse': {'bias': True}}
    """
    # The scale of a low-rank pair is a constant. Not "": of equal keys the later holds.
    rules = {r"\.lora_scale$": False, trainable or "()": True, "": False}
    return tree.assign(params, rules)


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
            do=f"Paths look like {next(iter(tree.paths(params)))}.",
        )
