"""Devices as a mesh of three axes, and parameters laid out on it by their names."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Params

AXES = ("data", "fsdp", "tensor")
# The rows of a batch are divided over both; `tensor` sees every row.
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Arrange devices as `data x fsdp x tensor`.

    Args:
        config: sizes of the axes.
        devices: the devices to use; all of them by default.

    Returns:
        A mesh whose axes are all `Auto`: the compiler propagates shardings. Axes are
        whole axes of a TPU's torus where that can be, else they share some of its
        wires, and are slower.

    Raises:
        InputError: the sizes do not multiply to the number of devices.

    Example:
        >>> make_mesh(MeshConfig(), jax.devices()[:1]).shape["data"]
        1
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices))
    # Explicit axes, jax's default, refuse nn.Embed with sharded weights.
    kinds = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(sizes, AXES, axis_types=kinds, devices=devices)
    except NotImplementedError:
        pass
    # Of a torus of 4 x 4 x 4 chips 8 are no whole axes: some wires are shared then.
    shared = mesh_utils.create_device_mesh(
        sizes, devices, allow_split_physical_axes=True
    )
    return Mesh(shared, AXES, axis_types=kinds)


def axis_sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of the axes on so many devices, which need not be here.

    Args:
        config: sizes of the axes, one of them perhaps -1.
        devices: how many.

    Returns:
        Sizes of data, fsdp and tensor.

    Raises:
        InputError: the sizes do not multiply to the number of devices.

    Example:
        >>> axis_sizes(MeshConfig(fsdp=4), 32)
        (8, 4, 1)
    """
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError(
            "positive sizes, at most one of them -1", _asked(config), where="mesh axes"
        )
    fixed = math.prod(size for size in sizes if size > 0)
    sizes = [devices // fixed if size == -1 else size for size in sizes]
    if math.prod(sizes) != devices:
        raise InputError(
            f"mesh axes whose product is the number of devices, {devices}",
            _asked(config),
            where="mesh",
            do="The others have to divide it."
            if -1 in (config.data, config.fsdp, config.tensor)
            else "Leave one axis at -1 to take what is left.",
        )
    return tuple(sizes)


def inference_mesh(config: MeshConfig) -> Mesh | None:
    """Arrange all devices; None where there is only one, which needs no mesh.

    Raises:
        InputError: as `make_mesh`.

    Example:
        >>> inference_mesh(MeshConfig(data=3))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: mesh: expected mesh axes whose product is the \
number of devices, 8, found data=3 x fsdp=1 x tensor=1. Leave one axis at -1 to take \
what is left.
    """
    mesh = make_mesh(config)
    return mesh if mesh.size > 1 else None


def local_mesh(mesh: Mesh) -> Mesh | None:
    """The devices of a mesh that this process has, in a row; None if it is only one.

    For work that every process does for itself, on what it has.

    Example:
        >>> local_mesh(make_mesh(MeshConfig(), jax.devices()[:1])) is None
        True
    """
    here = jax.process_index()
    own = [device for device in mesh.devices.flat if device.process_index == here]
    if len(own) < 2:
        return None
    return jax.make_mesh((len(own),), ("data",), (AxisType.Auto,), devices=own)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data and fsdp, everything else whole.

    Example:
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> batch_sharding(mesh).spec
        P(('data', 'fsdp'),)
    """
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are divided.

    Example:
        >>> batch_shards(make_mesh(MeshConfig(), jax.devices()[:1]))
        1
    """
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def split_rows(x: jax.Array) -> jax.Array:
    """Keep the rows of activations divided over data and fsdp, where a mesh is ambient.

    Left alone, the compiler follows a table that fsdp divides by its width, and gives
    every device all rows: more memory and twice the work, for the same result.

    Args:
        x: `[b ...]`.

    Returns:
        x, constrained under a mesh with automatic axes of these names, else as it is.

    Example:
        >>> split_rows(jax.numpy.ones(2)).tolist()
        [1.0, 1.0]
    """
    if _ambient() is None:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES))


def look_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Rows of a table that fsdp divides by its width; every device looks up its part.

    From there `split_rows` is one exchange between the devices of fsdp. Left to the
    compiler, the table may be copied to every device, and its gradient summed whole.

    Args:
        table: `[v d]`.
        ids: `[b l]`.

    Returns:
        `[b l d]`, its rows divided over data and its width over fsdp, under a mesh with
        automatic axes of these names that divide them.

    Example:
        >>> look_up(jax.numpy.eye(3), jax.numpy.array([[2, 0]])).tolist()
        [[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]
    """

    def local(table: jax.Array, ids: jax.Array) -> jax.Array:
        return jax.numpy.take(table, ids, axis=0)

    mesh = _ambient()
    if mesh is None:
        return local(table, ids)
    rows, width = (mesh.shape[axis] for axis in BATCH_AXES)
    if ids.shape[0] % rows or table.shape[-1] % width:
        return local(table, ids)
    between = (None,) * (ids.ndim - 1)
    return jax.shard_map(
        local,
        in_specs=(PartitionSpec(None, "fsdp"), PartitionSpec("data")),
        out_specs=PartitionSpec("data", *between, "fsdp"),
    )(table, ids)


def _ambient() -> AbstractMesh | None:
    """The mesh that is traced under, where the compiler divides rows over its axes."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    automatic = all(kinds.get(axis) == AxisType.Auto for axis in BATCH_AXES)
    return mesh if automatic else None


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device.

    Example:
        >>> replicated(make_mesh(MeshConfig(), jax.devices()[:1])).spec
        P()
    """
    return NamedSharding(mesh, PartitionSpec())


def shardings(mesh: Mesh, params: Params, rules: Mapping[str, PartitionSpec]) -> Params:
    """Give every parameter the sharding of the first rule that its path matches.

    Args:
        mesh: the devices.
        params: parameters, or their shapes.
        rules: path regex -> partition of the leaf's dimensions.

    Returns:
        A tree like `params`, of `NamedSharding`.

    Raises:
        InputError: a parameter matches no rule, or an axis does not divide it.

    Example:
        >>> import numpy as np
        >>> mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        >>> tree = {"norm": {"scale": np.ones(4)}}
        >>> shardings(mesh, tree, {"norm": PartitionSpec()})["norm"]["scale"].spec
        P()
    """
    specs = tree.assign(params, rules)
    paths = tree.paths(params)
    for name, spec in tree.paths(specs).items():
        shape = paths[name].shape
        for size, axes in zip(shape, spec, strict=False):
            names = (axes,) if isinstance(axes, str) else axes or ()
            parts = math.prod(mesh.shape[axis] for axis in names)
            if size % parts:
                raise InputError(
                    f"a size that the mesh axes {'x'.join(names)}={parts} divide",
                    f"{size} in shape {tuple(shape)}",
                    where=f"parameter {name}",
                )
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def _asked(config: MeshConfig) -> str:
    sizes = (config.data, config.fsdp, config.tensor)
    return " x ".join(f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
