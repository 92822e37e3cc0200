"""Fields of a config.json, checked."""

from collections.abc import Mapping
from typing import Any

from m3jax.core.errors import InputError

_MOST = 2**31 - 1  # ids and positions are int32


def sizes(
    config: Mapping[str, Any], names: Mapping[str, str], defaults: Any, *, where: str
) -> dict[str, int]:
    """Read positive integers that int32 holds.

    Args:
        config: content of config.json.
        names: key there -> field here.
        defaults: has the fields, for keys that are absent.
        where: the file, for messages.

    Returns:
        Field -> number.

    Raises:
        InputError: a number is not a positive integer, or too large.

    Example:
        >>> sizes({"hidden_size": 4}, {"hidden_size": "hidden"}, None, where="a")
        {'hidden': 4}
    """
    found = {}
    for key, field in names.items():
        size = config[key] if key in config else getattr(defaults, field)
        if type(size) is not int or size < 1:
            raise InputError("a positive integer", repr(size), where=f"{where}: {key}")
        if size > _MOST:
            raise InputError(f"at most {_MOST}", repr(size), where=f"{where}: {key}")
        found[field] = size
    return found


def floats(
    config: Mapping[str, Any],
    names: Mapping[str, str],
    defaults: Any,
    *,
    where: str,
    below: float,
) -> dict[str, float]:
    """Read numbers from 0 to below a limit; else as `sizes`.

    Example:
        >>> floats({"eps": 1}, {"eps": "eps"}, None, where="a", below=1)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a: eps: expected a number from 0 to below 1, \
found 1
    """
    found = {}
    for key, field in names.items():
        number = config[key] if key in config else getattr(defaults, field)
        if type(number) not in (int, float) or not 0 <= number < below:
            raise InputError(
                f"a number from 0 to below {below:g}",
                repr(number),
                where=f"{where}: {key}",
            )
        found[field] = float(number)
    return found


def architectures(config: Mapping[str, Any], *, where: str) -> list[str]:
    """Read the names of the classes that the weights belong to; none if not said.

    Args:
        config: content of config.json.
        where: the file, for messages.

    Returns:
        The names.

    Raises:
        InputError: they are no list of texts.

    Example:
        >>> architectures({"architectures": ["BertModel"]}, where="a")
        ['BertModel']
    """
    names = config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(
            "a list of names", repr(names), where=f"{where}: architectures"
        )
    return names
