import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh, shardings
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
