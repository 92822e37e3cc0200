"""Parameters from published tensors and back; one leaf in memory at a time.

A linear layer is `[in, out]` here and `[out, in]` there.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from m3jax.core import host, tree
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.hub.tensors import Stored

# Our leaf -> theirs; a kernel is transposed as well.
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "embedding": "weight",
}
# What the first BERT releases, and bert-base-uncased to this day, call the norms.
_OLD_LEAVES = {
    "LayerNorm.gamma": "LayerNorm.weight",
    "LayerNorm.beta": "LayerNorm.bias",
}
_BLOCK = 32 << 20  # bytes read at once


@dataclass(frozen=True)
class Names:
    """How a family calls its tensors.

    Attributes:
        modules: our module -> theirs; `#` stands for the number of a layer.
        prefixes: what all of their names may begin with, in a model with a task head.
        ignored: beginnings of tensors that our parameters do not need.
        written: prefix of their names when we write them, by our module's beginning.
    """

    modules: Mapping[str, str]
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    written: Mapping[str, str] = field(default_factory=dict)


def fill(
    stored: Stored,
    like: Params,
    names: Names,
    *,
    where: str,
    dtype: Any = np.float32,
    shardings: Params | None = None,
) -> Params:
    """Make parameters of published tensors.

    Everything is checked before anything is read. Then one leaf after the other goes
    to its devices: beyond the parameters themselves, the host holds at most one leaf
    (of a sharded one, the parts of this host) and a block of 32 MiB. Devices that hold
    the same part share one reading of it.

    Args:
        stored: published name -> tensor.
        like: parameters, or their shapes, that say what is expected.
        names: how the family calls them.
        where: the file, for messages.
        dtype: of the parameters.
        shardings: a tree like `like`; None leaves numpy arrays on the host.

    Returns:
        A tree like `like`.

    Raises:
        InputError: a tensor is missing, left over, of another shape, or no float.

    Example:
        >>> like = {"encoder": {"word": {"embedding": np.ones((3, 2))}}}
        >>> names = Names({"encoder.word": "words"}, prefixes=("bert.",))
        >>> found = fill({"bert.words.weight": np.zeros((3, 2))}, like, names, where="")
        >>> found["encoder"]["word"]["embedding"].shape
        (3, 2)
    """
    plan = find(stored, like, names, where=where)
    leaves = []
    layouts = [None] * len(plan) if shardings is None else jax.tree.leaves(shardings)
    shapes = tree.paths(like)
    for (path, published), layout in zip(plan.items(), layouts, strict=True):
        shape = tuple(shapes[path].shape)
        read = functools.partial(_read, stored, path, published, dtype=dtype)
        if layout is None:
            leaves.append(read(tuple(map(range, shape))))
            continue
        leaf = jax.make_array_from_callback(shape, layout, _once(read, shape))
        # While it is on its way, the host holds it; the next one has to wait.
        leaves.append(jax.block_until_ready(leaf))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def sizes(params: Params, names: Names) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Published name -> shape and dtype of every tensor, in the order of `tensors`.

    Example:
        >>> params = {"up": {"kernel": np.ones((3, 2))}}
        >>> sizes(params, Names({"up": "dense"}))
        {'dense.weight': ((2, 3), dtype('float64'))}
    """
    found = {}
    for path, leaf in tree.paths(params).items():
        shape = tuple(leaf.shape)
        if tree.is_stacked(path):
            shape = shape[1:]
        shape = shape[::-1] if _is_transposed(path) else shape
        for name in published_names(path, leaf.shape, names, written=True):
            found[name] = (shape, np.dtype(leaf.dtype))
    return found


def tensors(params: Params, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    """Published tensors of parameters; no more than one is fetched, and none is kept.

    Example:
        >>> params = {"up": {"kernel": np.ones((3, 2))}}
        >>> [(name, t.shape) for name, t in tensors(params, Names({"up": "dense"}))]
        [('dense.weight', (2, 3))]
    """
    for path, leaf in tree.paths(params).items():
        published = published_names(path, leaf.shape, names, written=True)
        for name, tensor in zip(published, host.pieces(path, leaf), strict=True):
            yield name, tensor.T if _is_transposed(path) else tensor


def published_names(
    path: str, shape: Sequence[int], names: Names, *, written: bool = False
) -> list[str]:
    """Their names of one of our leaves, one a layer.

    Args:
        path: of the leaf.
        shape: of the leaf.
        names: how the family calls them.
        written: with the prefix that they have where we write them.

    Returns:
        The names.

    Example:
        >>> published_names("up.kernel", (3, 2), Names({"up": "dense"}))
        ['dense.weight']
    """
    module, leaf = path.rsplit(".", 1)
    parts = module.split(".")
    row = module
    if tree.STACK in parts:
        at = parts.index(tree.STACK) + 1
        row = ".".join([*parts[:at], "#", *parts[at:]])
    name = f"{names.modules[row]}.{_LEAVES[leaf]}".removeprefix(".")
    if written:
        prefix = (p for start, p in names.written.items() if path.startswith(start))
        name = next(prefix, "") + name
    return (
        [name.replace("#", str(layer)) for layer in range(shape[0])]
        if tree.STACK in parts
        else [name]
    )


def take_part(parts: Iterable[tuple[Params, Names]]) -> None:
    """Fetch tensors that another process writes, whose devices hold some of each.

    Args:
        parts: what it writes, in its order.

    Example:
        >>> take_part([({"up": {"kernel": np.ones((3, 2))}}, Names({"up": "dense"}))])
    """
    for params, names in parts:
        for _ in tensors(params, names):
            pass


def find(
    stored: Stored, like: Params, names: Names, *, where: str
) -> dict[str, list[str]]:
    """Find the tensor of every parameter; all of them are checked, none is read.

    Args:
        stored: published name -> tensor.
        like: parameters, or their shapes, that say what is expected.
        names: how the family calls them.
        where: the file, for messages.

    Returns:
        Our path -> their names as they are stored, one a layer.

    Raises:
        InputError: as `fill`.

    Example:
        >>> like = {"up": {"kernel": np.ones((3, 2))}}
        >>> find({"d.weight": np.ones((2, 3))}, like, Names({"up": "d"}), where="")
        {'up.kernel': ['d.weight']}
    """
    left: dict[str, str] = {}
    for name in stored:
        plain = _plain(name, names.prefixes)
        if plain in left:
            raise InputError("each tensor once", f"{name} twice", where=where)
        left[plain] = name
    plan: dict[str, list[str]] = {}
    for path, leaf in tree.paths(like).items():
        expected = tuple(leaf.shape)
        if tree.is_stacked(path):
            layers, expected = expected[0], expected[1:]
            # Checked before a name is made for every layer, which may fill the memory.
            if layers > len(stored):
                raise InputError(
                    f"a tensor a layer for {layers} layers (num_hidden_layers)",
                    f"{len(stored)} tensors in all",
                    where=where,
                )
        expected = expected[::-1] if _is_transposed(path) else expected
        plan[path] = []
        for published in published_names(path, leaf.shape, names):
            if published not in left:
                raise InputError(f"a tensor {published}", "none", where=where)
            name = left.pop(published)
            shape, dtype = tuple(stored[name].shape), np.dtype(stored[name].dtype)
            if shape != expected:
                raise InputError(
                    f"shape {expected} for {name}", f"{shape}", where=where
                )
            # ml_dtypes' bfloat16 is of numpy's kind V.
            if dtype.kind != "f" and dtype.name != "bfloat16":
                raise InputError(f"floats in {name}", dtype.name, where=where)
            plan[path].append(name)
    over = [name for plain, name in left.items() if not plain.startswith(names.ignored)]
    if over:
        raise InputError(
            "a parameter for every tensor",
            f"none for {', '.join(sorted(over)[:5])}"
            + (f" and {len(over) - 5} more" if len(over) > 5 else ""),
            where=where,
        )
    return plan


def _once(
    read: Callable[[tuple[range, ...]], np.ndarray], shape: tuple[int, ...]
) -> Callable[[Any], np.ndarray]:
    """Read by an index of a leaf; devices that hold the same part share one reading."""
    parts: dict[tuple[range, ...], np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        # `:` and `0:n` are one part.
        bounds = tuple(
            range(*one.indices(size)) for one, size in zip(index, shape, strict=True)
        )
        if bounds not in parts:
            parts[bounds] = read(bounds)
        return parts[bounds]

    return part


def _read(
    stored: Stored,
    path: str,
    names: list[str],
    bounds: tuple[range, ...],
    *,
    dtype: Any,
) -> np.ndarray:
    """The part of a leaf within bounds."""
    out = np.empty([len(one) for one in bounds], dtype)
    if not tree.is_stacked(path):
        _copy(stored, names[0], bounds, out, _is_transposed(path))
        return out
    for place, layer in enumerate(bounds[0]):
        _copy(stored, names[layer], bounds[1:], out[place], _is_transposed(path))
    return out


def _copy(
    stored: Stored,
    name: str,
    bounds: Sequence[range],
    out: np.ndarray,
    transposed: bool,
) -> None:
    """Copy a part of a tensor block by block, so that no more of it is in memory."""
    if transposed:
        bounds, out = bounds[::-1], out.T
    if not bounds:
        out[...] = stored[name][()]
        return
    rows, *rest = bounds
    inner = tuple(slice(one.start, one.stop) for one in rest)
    size = int(np.prod(stored[name].shape[1:])) * np.dtype(stored[name].dtype).itemsize
    step = max(1, _BLOCK // max(size, 1))
    for first in range(rows.start, rows.stop, step):
        last = min(first + step, rows.stop)
        # Named anew each time: a mapped part is let go again.
        block = stored[name][(slice(first, last), *inner)]
        out[first - rows.start : last - rows.start] = block


def _is_transposed(path: str) -> bool:
    return path.endswith(".kernel")


def _plain(name: str, prefixes: tuple[str, ...]) -> str:
    """Their name without prefix and in today's words."""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    for old, new in _OLD_LEAVES.items():
        name = name.replace(old, new)
    return name
