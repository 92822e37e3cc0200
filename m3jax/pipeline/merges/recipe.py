"""From the words of a config to a method of merging, and what it is given."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
        setting = _setting(
            *(config.t_at, "t_at", (config.t,)),
            lambda rules: settings.of_t(
                {regex: x for regex, (x,) in rules.items()}, outside=config.outside
            ),
        )
        told = {"t": f"{config.t:g}", **_told(setting, "t"), **_told_per(config)}
        return Recipe(spherical.SLERP, setting, (1 - config.t, config.t), told)
    mean = config.method in ("linear", "multi_slerp")
    if mean and not config.weights:
        weights = (1 / count,) * count
    total: settings.Total = config.total if mean else "any"
    scale = config.scale if config.method == "task_arithmetic" else 1.0

    def of_weights(rules: Mapping[str, tuple[float, ...]]) -> settings.Setting:
        if config.method == "ties":
            return trimmed.setting_of(
                rules, count, density=config.density, scale=config.scale
            )
        scaled = {name: [scale * x for x in each] for name, each in rules.items()}
        return settings.of_weights(scaled, count, total=total)

    setting = _setting(config.weights_at, "weights_at", weights, of_weights)
    told = _told(setting, "weights", scale)
    if mean:
        used = tuple(setting.rules[""]["weights"].tolist())
        if config.method == "linear":
            return Recipe(weighted.LINEAR, setting, used, told)
        told |= _told_per(config)
        return Recipe(spherical.MULTI_SLERP, setting, used, told)
    told["scale"] = f"{config.scale:g}"
    if config.method == "task_arithmetic":
        return Recipe(weighted.TASK_ARITHMETIC, setting, weights, told)
    told |= {"density": f"{config.density:g}", **_told_per(config)}
    return Recipe(trimmed.TIES, setting, weights, told)


def check_names(config: Merge, recipe: Recipe, names: Sequence[str]) -> None:
    """Refuse regexes that are found in no name of a tensor.

    Args:
        config: the words.
        recipe: what was made of them.
        names: of all published tensors.

    Raises:
        InputError: names the option and the regex.
    """
    settings.check_regexes(config.keep, names, where="keep")
    where = "t_at" if config.method == "slerp" else "weights_at"
    settings.check_regexes(recipe.setting.rules, names, where=where)


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


def _setting(
    rows: Sequence[str],
    where: str,
    usual: tuple[float, ...],
    make: Callable[[Mapping[str, tuple[float, ...]]], settings.Setting],
) -> settings.Setting:
    """What tensors are merged with: by REGEX=NUMBER,NUMBER, and all the others."""
    found = make({"": usual})
    if not rows:
        return found
    try:
        rules = make(_by_regex(rows, where, len(usual))).rules
    except InputError as error:
        raise InputError(
            error.expected, error.found, where=where, do=error.do
        ) from None
    return settings.Setting({**rules, **found.rules})


def _by_regex(
    rows: Sequence[str], where: str, count: int
) -> dict[str, tuple[float, ...]]:
    """REGEX=NUMBER,NUMBER; a regex may have an = of its own."""
    found = {}
    for row in rows:
        regex, _, numbers = row.rpartition("=")
        try:
            values = tuple(float(number) for number in numbers.split(","))
        except ValueError:
            values = ()
        if not regex or len(values) != count:
            expected = "REGEX=" + ",".join(["NUMBER"] * count)
            raise InputError(expected, repr(row), where=where)
        found[regex] = values
    return found


def _told(setting: settings.Setting, name: str, scale: float = 1.0) -> dict[str, str]:
    """What tensors of their own rule are merged with."""
    told = {}
    for regex, state in setting.rules.items():
        values = np.atleast_1d(state[name]) / (scale or 1.0)
        if regex:
            told[f"{name} at `{regex}`"] = ", ".join(f"{x:.4g}" for x in values)
    return told


def _told_per(config: Merge) -> dict[str, str]:
    what = "threshold" if config.method == "ties" else "angle"
    return {} if config.per == "tensor" else {f"one {what} for": f"each {config.per}"}
