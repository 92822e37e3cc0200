"""Merging of parameter trees in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.merging.agree import is_kept, require_alike
from m3jax.merging.method import (
    Axes,
    Method,
    Per,
    State,
    combine,
    conclude,
    is_traced,
    reduce,
    wide,
)
from m3jax.merging.settings import Setting, check_regexes


@dataclass(frozen=True)
class _Leaf:
    """A leaf that is merged: one tensor, or one a layer.

    Attributes:
        block: of each model.
        like: of the first model.
        kept: which layers stay as they are in it.
        stacked: whether there are layers.
        axes: what is summed.
    """

    block: list[Any]
    like: Any
    kept: tuple[bool, ...]
    stacked: bool
    axes: Axes


def merge(
    method: Method,
    models: Sequence[Params],
    setting: Setting,
    *,
    per: Per = "tensor",
    keep: Sequence[str] = (),
    base: Params | None = None,
) -> Params:
    """Merge parameter trees by a method; see there.

    Leaves are merged by programs of their own, all started at once, and nothing of them
    is gathered: where they are spread over devices, sums are of what each has, and the
    result stays spread.

    Args:
        method: the method.
        models: the trees.
        setting: what each tensor is merged with.
        per: what the sums are over.
        keep: regexes of tensors that stay as they are in the first model.
        base: goes before the models in every block; None where the method has none.

    Returns:
        A tree like the first model.

    Raises:
        InputError: the trees differ in names, shapes, or in a leaf of integers, or a
            regex is found in no name.
    """
    if per not in get_args(Per):
        raise InputError(f"one of {', '.join(get_args(Per))}", f"{per}", where="per")
    labels = {f"model {number}": one for number, one in enumerate(models, start=1)}
    if base is not None:
        labels["base"] = base
    found = {label: tree.paths(one) for label, one in labels.items()}
    shapes = {label: _shapes(one) for label, one in found.items()}
    names = list(shapes["model 1"])
    check_regexes(keep, names, where="keep")
    check_regexes(setting.rules, names, where="regex -> value")
    require_alike(shapes, keep=keep)
    first, order = found["model 1"], list(models if base is None else [base, *models])
    given = [tree.paths(one) for one in order]
    merged = dict(first)
    leaves: dict[str, _Leaf] = {}
    states: dict[str, State] = {}
    with wide():
        for path, like in first.items():
            published = tree.published(path, np.shape(like))
            kept = tuple(is_kept(name, keep) for name in published)
            if all(kept):
                continue
            block = [one[path] for one in given]
            if not _are_floats(path, block):
                continue
            stacked = tree.is_stacked(path)
            axes = _axes(path, np.ndim(like) - stacked) if per == "row" else None
            leaves[path] = _Leaf(block, like, kept, stacked, axes)
            own = [setting.at(name) for name in published]
            states[path] = _stack(own) if stacked else own[0]
        for number in range(len(method.rounds)):
            states = _round(method, number, leaves, states, shared=per == "tree")
        for path, leaf in leaves.items():
            merged[path] = _combine(method, leaf, states[path])
    return jax.tree.unflatten(jax.tree.structure(models[0]), list(merged.values()))


def _round(
    method: Method,
    number: int,
    leaves: dict[str, _Leaf],
    states: dict[str, State],
    *,
    shared: bool,
) -> dict[str, State]:
    """States after a round."""
    sums = {
        path: reduce(
            leaf.block,
            states[path],
            method=method,
            number=number,
            axes=leaf.axes,
            stacked=leaf.stacked,
        )
        for path, leaf in leaves.items()
    }
    if shared:
        total = sum(_of_layers(leaves[path], one) for path, one in sums.items())
        sums = dict.fromkeys(sums, total)
    return {
        path: conclude(
            sums[path],
            states[path],
            method=method,
            number=number,
            stacked=leaf.stacked,
            shared=shared,
        )
        for path, leaf in leaves.items()
    }


def _of_layers(leaf: _Leaf, sums: Any) -> Any:
    """The sums of a leaf, without those of layers that stay as they are."""
    return sums[~np.array(leaf.kept)].sum(0) if leaf.stacked else sums


def _combine(method: Method, leaf: _Leaf, state: State) -> Any:
    dtype = leaf.like.dtype
    merged = combine(
        leaf.block, state, method=method, dtype=dtype, stacked=leaf.stacked
    )
    if any(leaf.kept):
        kept = np.array(leaf.kept).reshape(-1, *[1] * (merged.ndim - 1))
        merged = jnp.where(kept, leaf.like, merged)
    return merged


def _shapes(leaves: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Published name -> shape."""
    return {
        name: np.shape(leaf)[tree.is_stacked(path) :]
        for path, leaf in leaves.items()
        for name in tree.published(path, np.shape(leaf))
    }


def _are_floats(path: str, block: Sequence[Any]) -> bool:
    """Whether a leaf is merged; one of integers has to be the same in all models."""
    if all(jnp.issubdtype(x.dtype, jnp.floating) for x in block):
        return True
    if any(is_traced(x) for x in block):
        return False
    for number, x in enumerate(block[1:], start=2):
        if not np.array_equal(np.asarray(block[0]), np.asarray(x)):
            raise InputError(
                f"the same {block[0].dtype} in all models, which cannot be averaged",
                f"other values in tree {number}",
                where=f"parameter {path}",
            )
    return False


def _axes(path: str, rank: int) -> tuple[int, ...]:
    """All but that of the rows, as they are published: of a kernel its last."""
    if rank < 2:
        return tuple(range(rank))
    return tuple(range(rank - 1) if path.endswith("kernel") else range(1, rank))


def _stack(states: Sequence[State]) -> State:
    return jax.tree.map(lambda *x: jnp.stack(x), *states)
