"""From the words of a config to a method of merging, and what it is given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from m3jax.core.errors import InputError
from m3jax.merging import settings, spherical, trimmed, weighted
from m3jax.merging.method import Method
from m3jax.pipeline.merges.config import Merge

WITH_BASE = ("task_arithmetic", "ties")
# What a method looks at, beside the models.
_READS = {
    "slerp": ("t", "t_at", "outside", "per"),
    "linear": ("weights", "weights_at", "total"),
    "multi_slerp": ("weights", "weights_at", "total", "per"),
    "task_arithmetic": ("weights", "weights_at", "scale", "base"),
    "ties": ("weights", "weights_at", "scale", "density", "base", "per"),
}
_ALWAYS = ("models", "method", "keep", "last")


@dataclass(frozen=True)
class Recipe:
    """A method, and what tensors are merged with.

    Attributes:
        method: how.
        setting: with what.
        weights: of the models, for the card; of slerp 1 - t and t.
        told: the rest in words: option -> value, for the card.
    """

    method: Method
    setting: settings.Setting
    weights: tuple[float, ...]
    told: dict[str, str]


def make_recipe(config: Merge, count: int) -> Recipe:
    """Find the method of a config, and check what it is given.

    Args:
        config: the words.
        count: of models, without a base.

    Returns:
        The recipe.

    Raises:
        InputError: an option is wrong, is missing, or is not one of the method's.

    Example:
        >>> make_recipe(Merge(method="linear"), 2).weights
        (0.5, 0.5)
    """
    _check(config, count)
    weights = tuple(config.weights) or (1.0,) * count
    if config.method == "slerp":
        t = {**_by_regex(config.t_at, "t_at", 1), "": (config.t,)}
        setting = settings.of_t(
            {regex: x for regex, (x,) in t.items()}, outside=config.outside
        )
        told = {"t": f"{config.t:g}", **_told(config.t_at, "t"), **_told_per(config)}
        return Recipe(spherical.SLERP, setting, (1 - config.t, config.t), told)
    rules = {**_by_regex(config.weights_at, "weights_at", count), "": weights}
    told = _told(config.weights_at, "weights")
    if config.method in ("linear", "multi_slerp"):
        total = config.total if config.weights else "normalise"
        setting = settings.of_weights(rules, count, total=total)
        used = tuple(setting.rules[""]["weights"].tolist())
        if config.method == "linear":
            return Recipe(weighted.LINEAR, setting, used, told)
        told |= _told_per(config)
        return Recipe(spherical.MULTI_SLERP, setting, used, told)
    told["scale"] = f"{config.scale:g}"
    if config.method == "task_arithmetic":
        scaled = {x: [config.scale * one for one in each] for x, each in rules.items()}
        setting = settings.of_weights(scaled, count, total="any")
        return Recipe(weighted.TASK_ARITHMETIC, setting, weights, told)
    setting = trimmed.setting_of(
        rules, count, density=config.density, scale=config.scale
    )
    told |= {"density": f"{config.density:g}", **_told_per(config)}
    return Recipe(trimmed.TIES, setting, weights, told)


def _check(config: Merge, count: int) -> None:
    needs = "two models" if config.method == "slerp" else "one model or more"
    if config.method in ("linear", "multi_slerp"):
        needs = "two models or more"
    enough = {"slerp": count == 2, "linear": count > 1, "multi_slerp": count > 1}
    if not enough.get(config.method, count > 0):
        do = "multi_slerp takes more than two." if count > 2 else ""
        raise InputError(
            f"{needs} for {config.method}", f"{count}", where="models", do=do
        )
    if (config.base is None) == (config.method in WITH_BASE):
        raise InputError(
            f"a base for {' and '.join(WITH_BASE)}, and for no other method",
            f"{config.base or 'none'} for {config.method}",
            where="base",
        )
    default = Merge()
    for name in vars(default):
        unused = name not in (*_ALWAYS, *_READS[config.method])
        if unused and getattr(config, name) != getattr(default, name):
            raise InputError(
                f"an option of {config.method}: {', '.join(_READS[config.method])}",
                f"{name} {getattr(config, name)}",
                where=name,
            )
    if config.method == "ties" and config.per == "row":
        raise InputError("tensor or tree for ties", "row", where="per")
    if not math.isfinite(config.scale):
        raise InputError("a number", f"{config.scale}", where="scale")


def _by_regex(
    rows: Sequence[str], where: str, count: int
) -> dict[str, tuple[float, ...]]:
    """REGEX=NUMBER,NUMBER; a regex may have an = of its own."""
    found = {}
    for row in rows:
        regex, sign, numbers = row.rpartition("=")
        try:
            values = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            values = ()
        if not sign or len(values) != count:
            expected = "REGEX=" + ",".join(["NUMBER"] * count)
            raise InputError(expected, repr(row), where=where)
        found[regex] = values
    return found


def _told(rows: Sequence[str], what: str) -> dict[str, str]:
    pairs = (row.rpartition("=") for row in rows)
    return {f"{what} at `{regex}`": number for regex, _, number in pairs}


def _told_per(config: Merge) -> dict[str, str]:
    what = "threshold" if config.method == "ties" else "angle"
    return {} if config.per == "tensor" else {f"one {what} for": f"each {config.per}"}
