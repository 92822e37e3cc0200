"""Parameters that move otherwise than the rest: chosen by name, layer by layer."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params

# Of these no weight is pulled towards 0.
_NO_DECAY = re.compile(r"(^|\.)(bias|scale)$")
_REST = -1


@dataclass(frozen=True)
class Group:
    """Parameters that move otherwise than the rest; of several the first holds."""

    pattern: str
    """Regex searched in the path of a parameter, e.g. "attention.query", and in the
    names of its layers: "layers\\.(0|1)\\." are the two lowest ones."""
    factor: float = 1.0
    """Their learning rate, as a multiple of the optimizer's."""
    weight_decay: float | None = None
    """In place of the optimizer's; biases and norms are left alone all the same."""
    freeze: bool = False
    """Leave them as they are: no gradient and no state of the optimizer. The layers of
    a stack are frozen together or not at all."""


def members(params: Params, groups: Sequence[Group]) -> dict[str, list[int]]:
    r"""Say of every parameter which group holds each of its layers.

    Args:
        params: parameters, or their shapes.
        groups: the first that matches holds.

    Returns:
        Path -> number of the group, one for each layer of a stack; -1 for none.

    Example:
        >>> params = {"layers": {"bias": np.zeros((3, 4))}, "head": {"bias": 0}}
        >>> members(params, [Group(r"layers\.0"), Group("head")])
        {'head.bias': [1], 'layers.bias': [0, -1, -1]}
    """
    patterns = [re.compile(group.pattern) for group in groups]

    def first(*names: str) -> int:
        found = (
            i for i, pattern in enumerate(patterns) if any(map(pattern.search, names))
        )
        return next(found, _REST)

    return {
        path: [first(path, name) for name in _names(path, leaf)]
        for path, leaf in tree.paths(params).items()
    }


def frozen(params: Params, groups: Sequence[Group]) -> dict[str, bool]:
    """Say of every parameter whether a group freezes it.

    Args:
        params: parameters, or their shapes.
        groups: the first that matches holds.

    Returns:
        Path -> whether it stays as it is.

    Raises:
        InputError: of the layers of a stack, only some are frozen.

    Example:
        >>> frozen({"head": {"bias": 0}}, [Group("^head", freeze=True)])
        {'head.bias': True}
    """
    found = {}
    for path, numbers in members(params, groups).items():
        stays = [i != _REST and groups[i].freeze for i in numbers]
        if any(stays) and not all(stays):
            raise InputError(
                "all layers of a stack frozen, or none",
                f"{sum(stays)} of {len(stays)} layers of {path}",
                where="optimizer.groups",
                do="Give these layers a factor of 0, which costs the state of the "
                "optimizer, or freeze them all.",
            )
        found[path] = stays[0]
    return found


def scale_by_group(groups: Sequence[Group]) -> optax.GradientTransformation:
    """Multiply the updates of each group by its factor.

    Example:
        >>> tx = scale_by_group([Group("a", factor=3.0)])
        >>> updates = {"a": jnp.ones(()), "b": jnp.ones(())}
        >>> {k: float(v) for k, v in tx.update(updates, tx.init(updates))[0].items()}
        {'a': 3.0, 'b': 1.0}
    """

    def scale(updates: Any, params: Any) -> Any:
        del params
        factors = _spread(updates, groups, lambda group, _: group.factor, 1.0)
        return jax.tree.map(
            lambda x, factor: x * jnp.asarray(factor, x.dtype), updates, factors
        )

    return optax.stateless(scale)


def add_decay(
    weight_decay: float, groups: Sequence[Group]
) -> optax.GradientTransformation:
    """Add to each update its parameter times its weight decay.

    Args:
        weight_decay: of what is in no group, or in one that does not say.
        groups: the first that matches holds.

    Returns:
        The transformation; biases and norms are left alone.

    Example:
        >>> params = {"kernel": jnp.full((), 2.0), "bias": jnp.full((), 2.0)}
        >>> tx, zeros = add_decay(0.5, ()), jax.tree.map(jnp.zeros_like, params)
        >>> updates, _ = tx.update(zeros, tx.init(params), params)
        >>> {name: float(x) for name, x in updates.items()}
        {'bias': 0.0, 'kernel': 1.0}
    """

    def of_group(group: Group, path: str) -> float:
        if _NO_DECAY.search(path):
            return 0.0
        return weight_decay if group.weight_decay is None else group.weight_decay

    def add(updates: Any, params: Any) -> Any:
        decays = _spread(params, groups, of_group, weight_decay)
        return jax.tree.map(
            lambda x, param, rate, decays: (
                x + jnp.asarray(rate, x.dtype) * param if decays else x
            ),
            updates,
            params,
            decays,
            decaying(params),
        )

    return optax.stateless(add)


def decaying(params: Params) -> Params:
    """Say of every parameter whether weight decay is for it: no bias and no norm.

    Example:
        >>> decaying({"up": {"kernel": 0, "bias": 0}})
        {'up': {'bias': False, 'kernel': True}}
    """
    return tree.assign(params, {_NO_DECAY.pattern: False, "": True})


def by_tensor(
    change: Callable[[jax.Array, jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Change the update of each published tensor, also where layers are stacked.

    What an optimizer says of one tensor, as a norm, is not for a whole stack of them.

    Args:
        change: (update, parameter) -> update.

    Returns:
        The transformation.

    Example:
        >>> tx = by_tensor(lambda update, param: update / jnp.abs(update).max())
        >>> updates = {"layers": {"bias": jnp.array([[1.0, 2.0], [4.0, 4.0]])}}
        >>> tx.update(updates, tx.init(updates), updates)[0]["layers"]["bias"].tolist()
        [[0.5, 1.0], [1.0, 1.0]]
    """

    def one(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return (jax.vmap(change) if _is_stack(name) else change)(update, param)

    return optax.stateless(
        lambda updates, params: jax.tree_util.tree_map_with_path(one, updates, params)
    )


def check_groups(params: Params, groups: Sequence[Group]) -> None:
    """Refuse groups that hold nothing, or cannot be.

    Args:
        params: parameters, or their shapes.
        groups: as in the config.

    Raises:
        InputError: names the group, and paths that are near.

    Example:
        >>> check_groups({"encoder": {"bias": 0}}, [Group("^encodr")])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: optimizer.groups.0.pattern: expected a regex \
that is found in some path, found '^encodr'. Paths look like encoder.bias.
    """
    for i, group in enumerate(groups):
        where = f"optimizer.groups.{i}"
        try:
            pattern = re.compile(group.pattern)
        except re.error as error:
            raise InputError("a regex", str(error), where=f"{where}.pattern") from None
        for name in ("factor", "weight_decay"):
            value = getattr(group, name)
            if value is not None and not 0 <= value < float("inf"):
                raise InputError("0 or more", f"{value}", where=f"{where}.{name}")
        held = members(params, groups[: i + 1])
        if any(i in numbers for numbers in held.values()):
            continue
        leaves = tree.paths(params).items()
        names = [*held, *(name for leaf in leaves for name in _names(*leaf))]
        if any(map(pattern.search, names)):
            raise InputError(
                "a pattern for what earlier groups leave",
                f"{group.pattern!r}, of which they hold everything",
                where=f"{where}.pattern",
                do="The first group that matches holds: put the narrower one first.",
            )
        raise InputError(
            "a regex that is found in some path",
            repr(group.pattern),
            where=f"{where}.pattern",
            do=f"Paths look like {near(group.pattern, list(held))}.",
        )
    frozen(params, groups)


def near(pattern: str, names: Sequence[str]) -> str:
    """The names that are most like a regex, for a message.

    Example:
        >>> near("^sprse", ["encoder.bias", "sparse.bias"])
        'sparse.bias'
    """
    plain = re.sub(r"\\.|[^\w.]", ".", pattern).strip(".")
    parts = {name[: max(len(plain), 1)]: name for name in reversed(names)}
    parts |= {part: name for name in reversed(names) for part in name.split(".")}
    parts |= {name: name for name in names}
    found = [parts[x] for x in difflib.get_close_matches(plain, parts, n=3)]
    return ", ".join(dict.fromkeys(found)) or next(iter(names), "none")


def _is_stack(path: str) -> bool:
    return tree.STACK in path.split(".")


def _names(path: str, leaf: Any) -> list[str]:
    """Names of the published tensors that a leaf stands for."""
    if not _is_stack(path):
        return [path]
    head, tail = re.split(rf"(?<![^.]){tree.STACK}\.", path, maxsplit=1)
    return [f"{head}{tree.STACK}.{i}.{tail}" for i in range(leaf.shape[0])]


def _spread(
    params: Params,
    groups: Sequence[Group],
    value: Callable[[Group, str], float],
    rest: float,
) -> Params:
    """A value for every parameter, or `[y 1 ...]` where its layers differ."""
    leaves = tree.paths(params)
    found = []
    for path, numbers in members(params, groups).items():
        values = [rest if i == _REST else value(groups[i], path) for i in numbers]
        if len(set(values)) == 1:
            found.append(values[0])
        else:
            shape = (len(values),) + (1,) * (leaves[path].ndim - 1)
            found.append(np.reshape(np.array(values, np.float32), shape))
    return jax.tree.unflatten(jax.tree.structure(params), found)
