"""Parameters by name.

Layers are stacked: a leaf `[layers, ...]` under a module called `layers` stands for
that many published tensors. `paths` names leaves, `named` names published tensors.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.types import Params

STACK = "layers"


def paths(tree: Params) -> dict[str, Any]:
    """Leaves by dotted path, in tree order.

    Example:
        >>> paths({"mlp": {"up": {"kernel": 1}}})
        {'mlp.up.kernel': 1}
    """
    return {_dotted(path): leaf for path, leaf in _flatten(tree)[0]}


def named(tree: Params) -> dict[str, Any]:
    """Published tensors by name: stacked leaves come apart, one entry a layer.

    Args:
        tree: parameters; leaves under `layers` have the layer as first dimension.

    Returns:
        Name -> tensor, e.g. `encoder.layers.7.attention.query.kernel`.

    Example:
        >>> list(named({"layers": {"bias": np.zeros((2, 4))}}))
        ['layers.0.bias', 'layers.1.bias']
    """
    tensors = {}
    for path, leaf in paths(tree).items():
        names = published(path, leaf.shape)
        pieces = leaf if is_stacked(path) else [leaf]
        tensors |= zip(names, pieces, strict=True)
    return tensors


def is_stacked(path: str) -> bool:
    """Whether the leaf of this path stands for a tensor of every layer.

    Example:
        >>> is_stacked("encoder.layers.mlp.up.bias"), is_stacked("encoder.norm.scale")
        (True, False)
    """
    return STACK in path.split(".")


def published(path: str, shape: Sequence[int]) -> list[str]:
    """Names of the published tensors that a leaf stands for, in their order.

    Args:
        path: of the leaf.
        shape: of the leaf; under `layers` the first dimension is the layer.

    Returns:
        One name, or one a layer.

    Example:
        >>> published("layers.bias", (2, 4)), published("norm.bias", (4,))
        (['layers.0.bias', 'layers.1.bias'], ['norm.bias'])
    """
    parts = path.split(".")
    if STACK not in parts:
        return [path]
    at = parts.index(STACK) + 1
    return [".".join([*parts[:at], str(n), *parts[at:]]) for n in range(shape[0])]


def from_named(tensors: Mapping[str, Any], like: Params) -> Params:
    """Stack published tensors back into parameters; the inverse of `named`.

    Args:
        tensors: name -> numpy array.
        like: parameters, or their shapes, that say what is expected.

    Returns:
        A tree like `like`, of numpy arrays.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.

    Example:
        >>> like = {"layers": {"bias": np.zeros((2, 4))}}
        >>> from_named(named(like), like)["layers"]["bias"].shape
        (2, 4)
    """
    left = dict(tensors)
    leaves = []
    for path, leaf in paths(like).items():
        names, shape = published(path, leaf.shape), leaf.shape
        if is_stacked(path):
            shape = shape[1:]
        found = []
        for name in names:
            if name not in left:
                raise InputError(f"a tensor for parameter {name}", "none")
            tensor = left.pop(name)
            if tensor.shape != shape:
                raise InputError(
                    f"shape {tuple(shape)}",
                    f"{tuple(tensor.shape)}",
                    where=f"parameter {name}",
                )
            found.append(tensor)
        leaves.append(np.stack(found) if is_stacked(path) else found[0])
    if left:
        raise InputError(
            "a parameter for every tensor", f"none for {', '.join(sorted(left))}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def assign(tree: Params, rules: Mapping[str, Any]) -> Params:
    """Give every leaf the value of the first rule whose regex is found in its path.

    Args:
        tree: parameters, or their shapes.
        rules: path regex -> value.

    Returns:
        A tree like `tree`, of rule values.

    Raises:
        InputError: a leaf matches no rule.

    Example:
        >>> assign({"a": {"bias": 0, "kernel": 0}}, {"bias$": False, "": True})
        {'a': {'bias': False, 'kernel': True}}
    """
    leaves, structure = _flatten(tree)
    values = []
    for path, _ in leaves:
        name = _dotted(path)
        for pattern, value in rules.items():
            if re.search(pattern, name):
                values.append(value)
                break
        else:
            raise InputError(
                f"one of the rules {', '.join(rules)} to match",
                "no match",
                where=f"parameter {name}",
            )
    return jax.tree.unflatten(structure, values)


def _flatten(tree: Params) -> tuple[list[tuple[Any, Any]], Any]:
    # A PartitionSpec is a tuple, and None a leaf that is absent: neither is opened.
    return jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec)
    )


def _dotted(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
