"""Low-rank pairs beside chosen parameters: W + scale A B, of which A and B are trained.

A pair stands in the tree of parameters, next to what it changes, so checkpoints,
shardings and path regexes know it as they know everything else.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from m3jax.core.errors import InputError
from m3jax.core.tree import STACK
from m3jax.core.types import Params

# Paths of what is trained when a model has such pairs.
TRAINABLE = r"\.lora_[ab]$"
_PAIR = ("lora_a", "lora_b", "lora_scale")
_MATRICES = ("kernel", "embedding")


@dataclass(frozen=True)
class LoraConfig:
    """Which parameters get a low-rank pair, and of what size."""

    rank: int = 16
    """Inner width of the pair; a training with 0 has no pairs."""
    alpha: float = 32.0
    """The pair's product is multiplied by alpha / rank."""
    targets: str = r"(query|key|value|output|gate|up|down)\.kernel$"
    """Regex that is searched in the paths of the parameters."""


def add(params: Params, config: LoraConfig, rng: jax.Array) -> Params:
    """Put a pair beside every matrix whose path matches; outputs stay as they are.

    A is uniform within 1 / sqrt(inputs), B is zero. Stacked layers get one pair each.

    Args:
        params: parameters of a model.
        config: rank, alpha, targets.
        rng: for A.

    Returns:
        A new tree; leaves that were there are the same arrays.

    Raises:
        InputError: rank or alpha is not positive, the regex is none, matches nothing,
            or matches what is no matrix.

    Source: Hu et al. 2021 (arXiv:2106.09685).

    Example:
        >>> params = {"up": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}}
        >>> pair = add(params, LoraConfig(rank=2), jax.random.key(0))["up"]
        >>> pair["lora_a"].shape, pair["lora_b"].shape, float(pair["lora_scale"])
        ((4, 2), (2, 6), 16.0)
    """
    for name, number in (("rank", config.rank), ("alpha", config.alpha)):
        if number <= 0:
            raise InputError("a positive number", f"{number}", where=f"lora.{name}")
    try:
        targets = re.compile(config.targets)
    except re.error as error:
        raise InputError("a regex", str(error), where="lora.targets") from None
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(params))
    chosen = [path for path in flat if targets.search(".".join(path))]
    if not chosen:
        matrices = (path for path in flat if path[-1] == "kernel")
        example = ".".join(next(matrices, next(iter(flat))))
        raise InputError(
            "a regex that is found in some path",
            repr(config.targets),
            where="lora.targets",
            do=f"Paths look like {example}.",
        )
    new = dict(flat)
    for number, path in enumerate(chosen):
        leaf = flat[path]
        stacked = STACK in path
        if path[-1] not in _MATRICES or leaf.ndim != 2 + stacked:
            raise InputError(
                f"paths of matrices, which end in {' or '.join(_MATRICES)}",
                ".".join(path),
                where="lora.targets",
            )
        *layers, rows, columns = leaf.shape
        limit = rows**-0.5
        key = jax.random.fold_in(rng, number)
        new[*path[:-1], "lora_a"] = jax.random.uniform(
            key, (*layers, rows, config.rank), jnp.float32, -limit, limit
        )
        new[*path[:-1], "lora_b"] = jnp.zeros((*layers, config.rank, columns))
        new[*path[:-1], "lora_scale"] = jnp.full(layers, config.alpha / config.rank)
    return traverse_util.unflatten_dict(new)


def merge(params: Params) -> Params:
    """Add every pair to what it stands beside, and take it away: W + scale A B.

    Args:
        params: parameters, with pairs or without.

    Returns:
        A tree without pairs; sums are made in float32 and keep the dtype of W.

    Example:
        >>> params = {"up": {"kernel": jnp.ones((4, 6))}}
        >>> config = LoraConfig(rank=2)
        >>> sorted(merge(add(params, config, jax.random.key(0)))["up"])
        ['kernel']
    """
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(params))
    kept = {path: leaf for path, leaf in flat.items() if path[-1] not in _PAIR}
    for path, a in flat.items():
        if path[-1] != "lora_a":
            continue
        b, scale = (jnp.asarray(flat[*path[:-1], name]) for name in _PAIR[1:])
        change = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        (at,) = ((*path[:-1], n) for n in _MATRICES if (*path[:-1], n) in kept)
        leaf = jnp.asarray(kept[at])
        change = change * scale.reshape((*scale.shape, 1, 1))
        kept[at] = (leaf.astype(jnp.float32) + change).astype(leaf.dtype)
    return traverse_util.unflatten_dict(kept)
