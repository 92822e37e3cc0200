"""What tensors are merged with: t and weights, one for all or by their names."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from m3jax.core.errors import InputError
from m3jax.merging.method import State, is_traced

Outside = Literal["refuse", "allow"]
Total = Literal["check", "normalise", "any"]
# Of the models, or path regex -> of the models.
Weights = Sequence[float] | jax.Array | Mapping[str, Sequence[float]]
_NEAR_ONE = 1e-4


@dataclass(frozen=True)
class Setting:
    """What each published tensor is merged with.

    Attributes:
        rules: regex -> state; the first one that is found in a name holds.
    """

    rules: Mapping[str, State]

    def at(self, name: str) -> State:
        """The state that a published tensor begins with.

        Raises:
            InputError: no rule is found in its name.
        """
        for pattern, state in self.rules.items():
            if re.search(pattern, name):
                return state
        expected = f"one of the rules {', '.join(self.rules)} to match"
        raise InputError(expected, "no match", where=f"tensor {name}")

    def beside(self, **values: Any) -> "Setting":
        """The same, with more that holds for all tensors."""
        more = {name: jnp.asarray(x, jnp.float32) for name, x in values.items()}
        return Setting({rule: {**state, **more} for rule, state in self.rules.items()})


def of_t(t: float | jax.Array | Mapping[str, float], *, outside: Outside) -> Setting:
    """Read t, or regex -> t.

    Args:
        t: where between two models.
        outside: whether it may be outside of [0, 1].

    Returns:
        The setting; a t that is traced is not checked.

    Raises:
        InputError: a wrong regex, or a t outside of [0, 1].

    Example:
        >>> of_t({"word": 0.25, "": 0.5}, outside="refuse").at("encoder.norm")["t"]
        Array(0.5, dtype=float32)
    """
    rules = {}
    for pattern, value in _rules(t, "t").items():
        if not is_traced(value):
            value = float(value)
            if not (math.isfinite(value) and (outside == "allow" or 0 <= value <= 1)):
                beyond = outside == "allow"
                do = "" if beyond else "Beyond the models: outside=allow."
                expected = "a number" if beyond else "from 0 to 1"
                raise InputError(expected, f"{value}", where="t", do=do)
        rules[pattern] = {"t": jnp.asarray(value, jnp.float32)}
    return Setting(rules)


def of_weights(weights: Weights, count: int, *, total: Total) -> Setting:
    """Read weights of the models, or regex -> weights.

    Args:
        weights: one a model.
        count: of models.
        total: whether they have to sum to 1, are divided by their sum, or may be
            anything ("any", then also negative).

    Returns:
        The setting; of weights that are traced only the number is checked.

    Raises:
        InputError: a wrong regex, or weights that do not do.

    Example:
        >>> setting = of_weights([1, 3], 2, total="normalise")
        >>> setting.at("encoder.norm")["weights"].tolist()
        [0.25, 0.75]
    """
    if not count:
        raise InputError("at least one model", "none", where="models")
    rules = {
        pattern: {"weights": _weights(each, count, total)}
        for pattern, each in _rules(weights, "weights").items()
    }
    return Setting(rules)


def check_regexes(patterns: Iterable[str], names: Sequence[str], *, where: str) -> None:
    """Refuse regexes that are none, or that are found in no name.

    Args:
        patterns: the regexes.
        names: of all published tensors.
        where: what they are, for the message.

    Raises:
        InputError: names the regex.

    Example:
        >>> check_regexes(["haed"], ["head.kernel"], where="keep")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: keep: expected a regex that is found in the name \
of a tensor, found 'haed'. Names look like head.kernel.
    """
    for pattern in patterns:
        _check_regex(pattern, where)
        if not any(re.search(pattern, name) for name in names):
            raise InputError(
                "a regex that is found in the name of a tensor",
                repr(pattern),
                where=where,
                do=f"Names look like {names[len(names) // 2]}." if names else "",
            )


def _weights(given: Any, count: int, total: Total) -> jax.Array:
    values = list(given)
    if len(values) != count:
        expected = f"{count} weights, one a model"
        raise InputError(expected, f"{len(values)}", where="weights")
    if any(is_traced(value) for value in values):
        traced = jnp.stack([jnp.asarray(value, jnp.float32) for value in values])
        return traced / traced.sum() if total == "normalise" else traced
    values = [float(value) for value in values]
    told, summed = f"{_told(values)}", math.fsum(values)
    if not all(map(math.isfinite, values)):
        raise InputError("numbers", told, where="weights")
    if total != "any" and min(values) < 0:
        raise InputError("weights of 0 or more", told, where="weights")
    if total == "check" and abs(summed - 1) > _NEAR_ONE:
        do = "Change them, or have them divided by their sum with total=normalise."
        raise InputError("a sum of 1", f"{_told([summed])}", where="weights", do=do)
    if total != "any":
        if not summed:
            raise InputError("a weight above 0", told, where="weights")
        values = [value / summed for value in values]
    return jnp.asarray(values, jnp.float32)


def _told(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _rules(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        return {"": given}
    if not given:
        raise InputError("regex -> value", "none", where=where)
    for pattern in given:
        _check_regex(pattern, where)
    return given


def _check_regex(pattern: str, where: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        found = f"{pattern!r}: {error}"
        raise InputError("a regex", found, where=where) from None
