"""Reports of compiled steps, on the eight CPU devices."""

import dataclasses
from typing import Any

import jax
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.testing import tiny_config
from m3jax.training import topology
from m3jax.training.abstract import abstract_batch
from m3jax.training.chips import CHIPS, find
from m3jax.training.flops import Flops
from m3jax.training.objectives import ContrastiveConfig, contrastive
from m3jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from m3jax.training.state import abstract_state, starting
from m3jax.training.step import make_step
from m3jax.training.topology import BucketReport, compile_report

FLOPS = Flops(8e12, 16e12, 2e12, 8e12)
# As little as there is to compile.
MODEL = tiny_config(layers=1, dropout=0.0, remat="none")


def report(fsdp: int, fails: str = "") -> BucketReport:
    mesh, module = make_mesh(MeshConfig(fsdp=fsdp)), EmbeddingModule(MODEL)
    objective = contrastive(module, mesh, ContrastiveConfig())
    config = OptimizerConfig()
    tx, schedule = make_optimizer(config, 2), make_schedule(config, 2)
    like = abstract_state(starting(module), objective, tx, mesh, SHARDING)
    step: Any = make_step(objective, tx, schedule, mesh, like)
    if fails:

        class Fails:
            def lower(self, *_: Any) -> "Fails":
                return self

            def compile(self) -> None:
                raise jax.errors.JaxRuntimeError(fails)

        step = Fails()
    batch = abstract_batch(mesh, 16, 2, query_length=8, passage_length=16)
    return compile_report(step, like, batch, CHIPS["v5e"], FLOPS, chips=8)


# Other tests of the worker come between those of a group.
@pytest.fixture(scope="session")
def one() -> BucketReport:
    return report(fsdp=4)


@pytest.mark.xdist_group("report")
def test_a_report_of_a_step(one: BucketReport) -> None:
    assert one.fits and one.group == 2 and one.rows == 16
    # Two moments of every parameter, the two counts of AdamW and its schedule.
    assert one.optimizer == 2 * one.params + 8
    assert one.flops.model == 1e12
    # Parameters are gathered over fsdp, gradients summed over all.
    assert one.sent["all-gather"] > 0 and one.sent["all-reduce"] > 0
    assert one.temporary > 0 and one.traffic > one.params
    assert one.memory < 10e6
    # fsdp divides nearly all of them.
    said = "Used 1G of 1G hbm"
    assert 2 * one.params < report(fsdp=1, fails=said).params


@pytest.mark.xdist_group("report")
def test_times_are_of_the_roofline(one: BucketReport) -> None:
    chip = dataclasses.replace(one.chip, flops=2e12, flops32=1e12, bandwidth=1e30)
    sent = sum(one.sent.values())
    chip = dataclasses.replace(chip, link=sent / 2)  # two links: one second
    one = dataclasses.replace(one, chip=chip)
    assert one.compute_seconds == pytest.approx(1 + 1)
    assert one.communication_seconds == pytest.approx(1)
    assert one.step_seconds == pytest.approx(3)
    assert one.overlapped_seconds == pytest.approx(2)
    assert one.mfu == pytest.approx(0.5 / 3)
    assert one.loss_share == pytest.approx(2 / 8)
    assert one.loss_time_share == pytest.approx(1 / (1 + 1))
    assert one.communication_share == pytest.approx(1 / 3)
    # The whole of the loss (it takes a second) in bfloat16 takes half of that here.
    half = dataclasses.replace(one.flops, loss_half=one.flops.loss)
    assert dataclasses.replace(one, flops=half).loss_seconds == pytest.approx(1 / 2)


def test_what_the_compiler_refuses_for_memory_does_not_fit() -> None:
    said = "Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm."
    one = report(fsdp=1, fails=said)
    assert not one.fits and one.memory == 20 * 1024**3
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for "
        "HLO temporaries (20.00G) exceeds available HBM (15.75G)."
    )
    one = report(fsdp=1, fails=said)
    # The state is not counted in it: step and key stand beside what is told apart.
    assert not one.fits and 0 <= one.temporary - 20 * 1024**3 < 100
    with pytest.raises(jax.errors.JaxRuntimeError, match="else"):
        report(fsdp=1, fails="something else")


@pytest.mark.xdist_group("report")
def test_a_compiled_step_may_still_not_fit(one: BucketReport) -> None:
    """The compiler's limit is not the table's."""
    small = dataclasses.replace(CHIPS["v5e"], memory=1e3)
    assert one.fits and not dataclasses.replace(one, chip=small).fits


def test_slices_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="v5e:4x4"):
        topology.devices("a pod")
    pytest.importorskip("libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # of other workers
    for name in ("v5e:3x7", "v9:2x2"):
        with pytest.raises(InputError, match="a slice that libtpu knows"):
            topology.devices(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_chips_by_what_jax_calls_them(kind: str, name: str) -> None:
    assert find(kind) is CHIPS[name]


def test_a_chip_that_is_not_known() -> None:
    with pytest.raises(InputError, match="one of the chips"):
        find("cpu")
