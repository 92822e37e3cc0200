"""A stage checked on a slice that is not here."""

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

from m3jax import train
from m3jax.core import cli
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.data.shapes import Shape
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import counting, topology, topology_tables
from m3jax.pipeline.stage import Train
from m3jax.testing import tiny_config
from m3jax.training import flops
from m3jax.training.abstract import abstract_batch
from m3jax.training.chips import CHIPS, find
from m3jax.training.groups import Group
from m3jax.training.objectives import (
    ContrastiveConfig,
    MaskedLMConfig,
    RerankingConfig,
    RetroMAEConfig,
    SubBatches,
)
from m3jax.training.objectives.make import ObjectiveConfig
from m3jax.training.optimizer import OptimizerConfig

GOLDEN = Path(__file__).parent.parent / "golden"
# As little as there is to compile.
MODEL = tiny_config(layers=1, dropout=0.0, remat="none")
DATA: dict[str, Any] = {"batch_size": 16, "query_length": 8, "passage_length": 32}


def stage(**data: Any) -> Train:
    return Train(data=DataConfig(**(DATA | data)), model=MODEL)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's devices in place of a TPU's: seconds, not minutes, to compile."""
    monkeypatch.setattr(topology, "devices", lambda _: jax.devices())


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_every_bucket_has_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    config = stage(buckets=(16, 32), bucket_sizes=(32, 16), negatives=1)
    found = topology.check_topology(config, "v5e:4x2")
    assert [(x.query_length, x.passage_length, x.rows) for x in found] == [
        (8, 16, 32),
        (8, 32, 16),
    ]
    assert all(x.fits and x.group == 2 and x.chip.name == "v5e" for x in found)
    topology_tables.show(found, config, "v5e:4x2")
    assert "8 chips" in capsys.readouterr().out
    one = json.loads(json.dumps(topology_tables.to_json(found, config)))[0]
    assert one["fits"] and one["advice"] == "" and one["sent"]["all-reduce"] > 0
    held = found[0].params + found[0].optimizer
    small = dataclasses.replace(found[0].chip, memory=2.0 * held)
    worse = dataclasses.replace(found[0], chip=small, temporary=2 * held)
    told = topology_tables.advice(config, worse)
    assert "16 tokens" in told and "--mesh.fsdp 2" in told
    assert "--model.encoder.remat full" in told and "--sub-batches.count 2" in told


@pytest.mark.parametrize("width", [80, 120, topology_tables.WIDTH, 240])
def test_no_word_is_broken_on_any_terminal(width: int) -> None:
    sent = "all-reduce 16.67, all-gather 49.19, reduce-scatter 7.71, all-to-all 5.64"
    cells = "64, 8,192", "192", "832.8 / 1471.6", sent, "3.260", "0.440"
    row = *cells, "3.700 to 3.260", "49%", "0.59% / 2.0%", "11.9%"
    assert len(row) == len(topology_tables.SPEED)
    console = Console(width=width, file=io.StringIO())
    given = "v5p", topology_tables.SPEED, [row] * 5
    for table in topology_tables._tables(*given, width):
        console.print(table)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, said.splitlines())) <= width
    words = " ".join((*topology_tables.SPEED, *row)).split()
    for word in set(words):
        assert word in said
    assert said.count("3.700 to 3.260") == 5


def test_buckets_of_a_preset() -> None:
    """Of the nine those that texts of the stage can be in, rounded up to 8 devices."""
    config = stage(preset="bge_m3_finetune", query_length=256, passage_length=1_500)
    assert topology.buckets(config, make_mesh(MeshConfig())) == [
        (Shape(256, 500), 1_152),
        (Shape(256, 1_000), 768),
        (Shape(256, 2_000), 480),
    ]


def test_texts_beyond_the_last_bucket() -> None:
    """Rows get a shape of their own, as in training."""
    mesh = make_mesh(MeshConfig())
    found = topology.buckets(stage(buckets=(16, 24)), mesh)
    assert [shape for shape, _ in found] == [Shape(8, 16), Shape(8, 24), Shape(8, 32)]
    sized = stage(buckets=(16, 24), bucket_sizes=(32, 16))
    with pytest.raises(InputError, match=r"size for texts of 32 tokens, found .*24"):
        topology.buckets(sized, mesh)
    long = stage(query_length=64)
    assert topology.buckets(long, mesh) == [(Shape(64, 32), 16)]


def test_a_token_budget_and_sub_batches() -> None:
    config = stage(batch_tokens=1_000, negatives=1)
    config = dataclasses.replace(config, sub_batches=SubBatches(count=1))
    found = topology.buckets(config, make_mesh(MeshConfig()), group=2)
    assert found == [(Shape(8, 32), 8)]
    config = dataclasses.replace(stage(), sub_batches=SubBatches(count=3))
    with pytest.raises(InputError, match="A multiple of 24"):
        topology.buckets(config, make_mesh(MeshConfig()))


def test_heads_alone_need_no_backward_pass_of_the_encoder() -> None:
    mesh, shape = make_mesh(MeshConfig()), Shape(8, 32)
    model = dataclasses.replace(MODEL, sparse=True)
    full = dataclasses.replace(stage(), model=model)
    heads = OptimizerConfig(trainable="^sparse")
    others = OptimizerConfig(trainable=r"^(?!(sparse)\.)")
    frozen = OptimizerConfig(groups=(Group("^encoder", freeze=True),))
    found = {
        name: counting.count(one, shape, 16, mesh, group=1).model
        for name, one in {
            "all": full,
            "heads": dataclasses.replace(full, optimizer=heads),
            "others": dataclasses.replace(full, optimizer=others),
            "frozen": dataclasses.replace(full, optimizer=frozen),
        }.items()
    }
    assert found["all"] == found["others"] == 3 * found["heads"]
    assert found["frozen"] == found["heads"]


def test_only_published_models_have_sizes() -> None:
    config = dataclasses.replace(stage(), init="some/folder")
    with pytest.raises(InputError, match="init: expected a model that is here, that"):
        topology.in_shape({"train": config}, "a.py")


def test_a_bare_encoder_becomes_what_the_stage_says() -> None:
    """Of a folder that is here, its own files say how large it is."""
    first = dataclasses.replace(stage(), init="Qwen/Qwen3-0.6B-Base")
    found = topology.in_shape({"first": first}, "a.py")["first"].model
    assert isinstance(found, EmbeddingConfig) and found.pooling == MODEL.pooling
    assert (found.encoder.vocab_size, found.encoder.layers) == (151_936, 28)
    reranks = Train(
        init="BAAI/bge-m3", model=RerankerConfig(), objective=RerankingConfig()
    )
    model = topology.in_shape({"first": reranks}, "a.py")["first"].model
    assert isinstance(model, RerankerConfig) and model.encoder.hidden == 1_024
    here = dataclasses.replace(stage(), init=str(GOLDEN / "bert"))
    assert (
        topology.in_shape({"first": here}, "a.py")["first"].model.encoder.hidden < 100
    )


def test_what_another_recipe_makes_has_its_shape(tmp_path: Path) -> None:
    """Before that has run; here a recipe goes on from one that goes on from a third."""
    folder = tmp_path / "configs" / "mine"
    folder.mkdir(parents=True)
    for name, init in (("first", "intfloat/e5-small"), ("next", "runs/mine-first-b/")):
        (folder / f"{name}.py").write_text(
            "from typing import Literal\n"
            "from m3jax.pipeline.stage import Train\n"
            "def get_config(size: Literal['a', 'b'] = 'a'):\n"
            f"    return Train(init='intfloat/e5-base' if size == 'a' else '{init}')\n"
        )

    def hidden(init: str) -> int:
        config = dataclasses.replace(stage(), init=init)
        found = topology.in_shape({"train": config}, folder / "last.py")["train"]
        assert found.data.prompts.query == ""
        return found.model.encoder.hidden

    assert hidden("runs/mine-next-b/model") == hidden("runs/mine-first-b/model") == 384
    assert hidden("runs/mine-next/model") == 768
    own = folder / "own.py"
    own.write_text(
        "from m3jax.pipeline.stage import Train\n"
        "def get_config():\n    return Train(init='runs/mine-own/model')\n"
    )
    (folder / "mine.py").write_text("no config")
    with pytest.raises(InputError, match="init: expected a model that is here"):
        hidden("runs/mine-own/model")
    for init in ("runs/mine-next-c/model", "runs/next-b/model", "run/mine-next-b"):
        with pytest.raises(InputError, match="init: expected a model that is here"):
            hidden(init)


def test_shapes_of_what_is_read_alone_and_together() -> None:
    mesh, data = make_mesh(MeshConfig()), stage(pair_length=48)
    assert topology.buckets(data, mesh, reads="passages") == [(Shape(0, 32), 16)]
    assert topology.buckets(data, mesh, reads="together") == [(Shape(0, 48), 16)]


@pytest.mark.parametrize(
    "objective", [RetroMAEConfig(), MaskedLMConfig(), ContrastiveConfig(mlm_weight=0.1)]
)
def test_masked_words_cost_more_than_the_encoder(objective: ObjectiveConfig) -> None:
    """Head and vocabulary in the least, of what every chip computes."""
    mesh = make_mesh(MeshConfig())
    config = dataclasses.replace(stage(), objective=objective)
    alone = isinstance(objective, RetroMAEConfig | MaskedLMConfig)
    found = counting.count(
        config, Shape(8 * (not alone), 32), 16, mesh, group=1,
        reads="passages" if alone else "apart",
    )  # fmt: skip
    encoder = flops.encoding(MODEL.encoder, flops.Texts(16, 32))[0]
    words = 3 * 2 * MODEL.encoder.hidden * MODEL.encoder.vocab_size * 16 * 32
    told = 1.3 if isinstance(objective, RetroMAEConfig) else 0.15
    assert found.model > encoder + words * told
    assert found.hardware >= found.model


def test_a_batch_is_counted_by_its_shape() -> None:
    mesh, config = make_mesh(MeshConfig()), stage()
    batch = abstract_batch(mesh, 16, 2, query_length=8, passage_length=32)
    found = counting.of_batches(config, mesh, "apart")(batch)
    assert found == counting.count(config, Shape(8, 32), 16, mesh, group=2).model
    assert counting.peak(mesh) is None
    pairs = abstract_batch(mesh, 16, 2, pair_length=40)
    reranks = Train(model=RerankerConfig(MODEL.encoder), objective=RerankingConfig())
    found = counting.of_batches(reranks, mesh, "together")(pairs)
    assert found == flops.encoding(MODEL.encoder, flops.Texts(32, 40))[0]


def test_the_peak_of_all_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = make_mesh(MeshConfig())
    monkeypatch.setattr(counting.chips, "find", lambda _: CHIPS["v5e"])
    assert counting.peak(mesh) == 8 * CHIPS["v5e"].flops


def test_a_later_stage_has_the_shape_of_the_one_before() -> None:
    heads = dataclasses.replace(MODEL, sparse=True, multivec=4)
    found = topology.in_shape(
        {
            "first": dataclasses.replace(stage(), init="intfloat/e5-small"),
            "second": dataclasses.replace(stage(), model=heads),
        },
        "a.py",
    )
    model = found["second"].model
    assert isinstance(model, EmbeddingConfig) and model.multivec == 4
    assert model.encoder.hidden == 384


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_does_not_fit_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "from tests.pipeline.test_topology import stage\n"
        "def get_config():\n    return stage()\n"
    )

    def call(*words: str) -> int | str | None:
        words = ("--config", str(path), "--topology", "v5e:4x2", *words)
        monkeypatch.setattr(sys, "argv", ["train.py", *words])
        with pytest.raises(SystemExit) as end:
            cli.run(train.main)
        return end.value.code

    assert not call("--json")
    told = json.loads(capsys.readouterr().out)
    assert told["train"][0]["fits"]
    tiny = dataclasses.replace(CHIPS["v5e"], memory=1.0)
    monkeypatch.setattr(topology.chips, "find", lambda _: tiny)
    assert call() == 1
    assert "lack" in capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_a_mesh_that_does_not_multiply() -> None:
    config = dataclasses.replace(stage(), mesh=MeshConfig(data=3))
    with pytest.raises(InputError, match="the number of devices, 8"):
        topology.check_topology(config, "v5e:4x2")


@pytest.mark.parametrize("fsdp", [4, 8, 16, 32])
def test_axes_that_are_no_whole_axes_of_the_torus(
    fsdp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 of 4 x 4 x 4 chips are a cube of 2."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # of other workers
    mesh = make_mesh(MeshConfig(fsdp=fsdp), topology.devices("v5p:4x4x4"))
    assert mesh.shape["fsdp"] == fsdp and mesh.shape["data"] == 64 // fsdp
    assert len({device.id for device in mesh.devices.flat}) == 64


@pytest.mark.slow
def test_a_slice_of_tpus() -> None:
    pytest.importorskip("libtpu")
    config = dataclasses.replace(stage(), mesh=MeshConfig(fsdp=2))
    (one,) = topology.check_topology(config, "v5e:4x2")
    assert one.fits and one.chip is CHIPS["v5e"] and one.chips == 8
    assert one.sent["all-reduce"] > 0
    assert 0 < one.mfu < 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-PCIE-40GB", "a100-40"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
    ],
)
def test_relatives_of_a_chip_are_told_apart(kind: str, name: str) -> None:
    assert find(kind).name == name


def test_advice_is_what_could_help() -> None:
    said = topology_tables.changes(stage(), 42e9, 16e9, 16)
    assert said.startswith("--mesh.fsdp 8, then --model.encoder.remat full, then")
    said = topology_tables.changes(stage(), 42e9, 16e9, 2)
    assert said == "more than 2 devices, which parameters and optimizer alone fill"
