import re

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from m3jax.core.errors import InputError
from m3jax.core.mesh import (
    batch_shards,
    look_up,
    make_mesh,
    replicated,
    shardings,
    split_rows,
)
from m3jax.core.mesh_config import MeshConfig
from m3jax.nn.bert import SHARDING
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import tiny_config


def test_axes_are_auto_and_fill_up() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2))
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert batch_shards(make_mesh(MeshConfig(tensor=4))) == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MeshConfig(data=3), "8"),
        (MeshConfig(fsdp=16), "fsdp=16"),
        (MeshConfig(data=-1, fsdp=-1), "at most one of them -1"),
        (MeshConfig(tensor=0), "tensor=0"),
        (MeshConfig(tensor=-2), "tensor=-2"),
    ],
)
def test_sizes_that_do_not_fit(config: MeshConfig, said: str) -> None:
    with pytest.raises(InputError, match="expected") as error:
        make_mesh(config)
    assert said in str(error.value)


def test_every_parameter_has_a_place() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    params = init(EmbeddingModule(tiny_config()), jax.random.key(0))
    layout = shardings(mesh, params, SHARDING)
    layer = layout["encoder"]["layers"]
    assert layer["attention"]["query"]["kernel"].spec == PartitionSpec(
        None, "fsdp", "tensor"
    )
    assert layer["mlp"]["down"]["kernel"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert layout["encoder"]["norm"]["scale"].spec == PartitionSpec()
    jax.device_put(params, layout)


def test_an_axis_that_does_not_divide_is_named() -> None:
    mesh = make_mesh(MeshConfig(fsdp=8))
    params = init(EmbeddingModule(tiny_config(hidden=12)), jax.random.key(0))
    with pytest.raises(InputError) as error:
        shardings(mesh, params, SHARDING)
    assert "fsdp=8" in str(error.value) and "found 12" in str(error.value)
    with pytest.raises(InputError, match="no match"):
        shardings(mesh, params, {"kernel": PartitionSpec()})


@pytest.mark.parametrize("rows", [8, 6])  # 6: data does not divide them
@pytest.mark.parametrize("data", [1, 2, 4, 8])
def test_a_table_is_looked_up_where_it_lies(data: int, rows: int) -> None:
    mesh = make_mesh(MeshConfig(data=data, fsdp=-1))
    rng = np.random.default_rng(0)
    table = rng.normal(size=(100, 16)).astype(np.float32)
    ids = rng.integers(0, 100, size=(rows, 5))
    weights = rng.normal(size=(rows, 5, 16)).astype(np.float32)

    def on_mesh(table: jax.Array, ids: jax.Array) -> jax.Array:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return (split_rows(look_up(table, ids)) * weights).sum()

    in_order = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    placed = jax.device_put(table, in_order), jax.device_put(ids, replicated(mesh))
    step = jax.jit(jax.value_and_grad(on_mesh), out_shardings=(None, in_order))
    found, gradient = step(*placed)
    np.testing.assert_allclose(found, (table[ids] * weights).sum(), rtol=1e-4)
    expected = np.zeros_like(table)
    np.add.at(expected, ids, weights)
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    if rows == 8:  # the compiler copies neither the table nor rows
        text = step.lower(*placed).compile().as_text() or ""
        assert not re.search(r"= f32\S+ all-gather\(", text)
