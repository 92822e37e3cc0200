"""A run that ends in a merge, and checkpoints of a run that are merged."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import merge as program
from m3jax import merging
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.hub import folder
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.lora import LoraConfig
from m3jax.pipeline import flags
from m3jax.pipeline.merges import run as merges
from m3jax.pipeline.merges import steps
from m3jax.pipeline.stage import SCRATCH, Merge, Stage, Train
from m3jax.pipeline.stages import split
from m3jax.pipeline.train import run_stages
from m3jax.training.checkpoint import read_params
from m3jax.training.checkpoint_config import CheckpointConfig
from tests.pipeline import test_stages

# One worker makes the run for all.
pytestmark = pytest.mark.xdist_group("merge stage")


def made(tmp_path: Path) -> dict[str, Stage]:
    one = next(iter(test_stages.stages(tmp_path).values()))
    one = dataclasses.replace(
        one, evaluate_every=2, checkpoints=CheckpointConfig(keep_last=3)
    )
    tokenizer = dataclasses.replace(one.tokenizer)
    again = dataclasses.replace(one, tokenizer=tokenizer, seed=1, steps=6)
    return {
        "first": one,
        "second": dataclasses.replace(again, lora=LoraConfig(rank=2)),
        "both": Merge(("first", "second"), t=0.25),
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("merge-stage")
    run_stages(made(to), to / "run")
    return to / "run"


def params(path: Path | str) -> dict[str, Any]:
    return tree.named(folder.load(path).params)


def close(found: dict[str, Any], want: dict[str, Any]) -> None:
    assert found.keys() == want.keys()
    for name, tensor in want.items():
        np.testing.assert_allclose(found[name], tensor, atol=1e-6, err_msg=name)


def test_the_last_stage_merges_the_others(run: Path) -> None:
    first, second = (folder.load(run / x / "model") for x in ("first", "second"))
    want = merging.slerp(first.params, second.params, 0.25)
    close(params(run / "model"), tree.named(want))
    up = "encoder.layers.0.mlp.up.kernel"
    one, two = (tree.named(x.params)[up] for x in (first, second))
    assert np.abs(one - two).max() > 1e-4
    results = json.loads((run / "results.json").read_text())["stages"]
    assert list(results) == ["first", "second", "both"]
    assert list(results["both"]["results"]["dev"]) == [
        "after second",
        "after merging",
        "BM25",
    ]
    card = (run / "model" / "README.md").read_text()
    assert f"| 1. {run / 'first' / 'model'} | 0.75 |" in card
    assert "| after merging |" in card
    config = json.loads((run / "config.json").read_text())
    assert config["both"]["models"] == ["first", "second"]
    lineage = json.loads((run / "lineage.json").read_text())["stages"]
    assert lineage["both"]["parent"] == ["first", "second"]


def test_what_is_finished_is_not_done_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    run_stages(made(run.parent), run)
    said = capsys.readouterr().out
    assert "stage both is finished" in said and "after both" in said
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(run / "model")
    (run / "both" / "results.json").unlink()
    run_stages(made(run.parent), run)
    assert (run / "model" / "model.safetensors").is_file()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: Any) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["merge", *map(str, words)])
        program.main()
        return capsys.readouterr()

    return call


def test_checkpoints_are_merged(run: Path, tmp_path: Path, call: Any) -> None:
    checkpoints = run / "first" / "checkpoints"
    there = sorted(int(x.name) for x in checkpoints.iterdir() if x.name.isdigit())
    assert there == [2, 4]
    at = [str(checkpoints / str(step)) for step in there]
    call("--models", *at, "--t", 0.5, "--output", tmp_path / "out")
    two, four = (read_params(Path(step)) for step in at)
    close(params(tmp_path / "out"), tree.named(merging.slerp(two, four, 0.5)))
    assert [x.name for x in tmp_path.iterdir()] == ["out"]
    # A checkpoint and a model folder, mixed; the end of the stage is the step it chose.
    call("--models", at[0], run / "first" / "model", "--output", tmp_path / "mixed")
    model = folder.load(run / "first" / "model").params
    close(params(tmp_path / "mixed"), tree.named(merging.slerp(two, model, 0.5)))


def test_a_base_may_be_a_checkpoint(run: Path, tmp_path: Path, call: Any) -> None:
    at = run / "first" / "checkpoints" / "2"
    models = [run / name / "model" for name in ("first", "second")]
    words = ["--method", "task_arithmetic", "--base", at, "--models", *models]
    call(*words, "--weights", 0.5, 0.25, "--output", tmp_path / "out")
    trees = [folder.load(path).params for path in models]
    want = merging.task_arithmetic(read_params(at), trees, [0.5, 0.25])
    close(params(tmp_path / "out"), tree.named(want))


def test_the_model_of_a_run_is_not_written_over(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [run / "first" / "checkpoints" / step for step in ("2", "4")]
    with pytest.raises(InputError, match="--output: expected another folder than the"):
        call("--models", *at, "--output", run / "first" / "model")


def test_room_for_checkpoints_is_asked_for_first(
    run: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = (run / "first" / "model" / "model.safetensors").stat().st_size
    monkeypatch.setattr(merges, "_BESIDE", 0)
    usage = shutil.disk_usage(tmp_path)._replace(free=2 * weights)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    at = [run / "first" / "checkpoints" / step for step in ("2", "4")]
    with pytest.raises(InputError, match="of free disk"):
        call("--models", *at, "--output", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_low_rank_pairs_of_a_checkpoint_are_added(run: Path, tmp_path: Path) -> None:
    checkpoints = run / "second" / "checkpoints"
    raw = read_params(checkpoints / "6")
    assert any("lora_a" in path for path in tree.paths(raw))
    steps.export_step(str(checkpoints / "6"), tmp_path / "six")
    found = params(tmp_path / "six")
    assert found.keys() == params(run / "second" / "model").keys()
    name = "encoder.layers.0.attention.query.kernel"
    assert np.abs(found[name] - tree.named(raw)[name]).max() > 0


def test_the_last_checkpoints_of_a_run(run: Path, tmp_path: Path, call: Any) -> None:
    words = ["--models", run, "--last", 2, "--method", "linear"]
    call(*words, "--output", tmp_path / "out")
    for step in (4, 6):
        steps.export_step(
            str(run / "second" / "checkpoints" / str(step)), tmp_path / f"{step}"
        )
    models = [folder.load(tmp_path / f"{step}").params for step in (4, 6)]
    close(params(tmp_path / "out"), tree.named(merging.linear(models, [0.5, 0.5])))
    with pytest.raises(InputError, match="expected 9 checkpoints, found 3: 2, 4, 6"):
        call(*words[:3], 9, *words[4:], "--output", tmp_path / "none")
    at = run / "second" / "checkpoints"
    with pytest.raises(InputError, match="/5: expected a checkpoint, found only 2, 4"):
        call("--models", at / "5", at / "6", "--output", tmp_path / "none")


def test_a_stage_may_merge_its_last_checkpoints(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "run"
    shutil.copytree(run, there)
    shutil.rmtree(there / "both")
    stages = made(run.parent)
    stages["both"] = Merge(("second",), method="linear", last=2)
    run_stages(stages, there)
    models = []
    for step in ("4", "6"):
        steps.export_step(str(run / "second" / "checkpoints" / step), tmp_path / step)
        models.append(folder.load(tmp_path / step).params)
    want = tree.named(merging.linear(models, [0.5, 0.5]))
    close(params(there / "model"), want)
    name = "encoder.layers.0.attention.query.kernel"
    assert np.abs(want[name] - tree.named(models[1])[name]).max() > 1e-5


BAD: dict[str, tuple[Any, str]] = {
    "unknown": (Merge(("first", "third")), "both: third: expected a local folder, or"),
    "one": (Merge(("first",)), "both: models: expected two models for slerp, found 1"),
    "t": (Merge(("first", "second"), t=2.0), "both: t: expected from 0 to 1"),
    "last": (
        Merge(("first",), method="linear", last=9),
        "both: first: expected checkpoints.keep_last of 9 or more, for last, found 3",
    ),
    "few checkpoints": (
        Merge(("first",), method="linear", last=3),
        "both: first: expected 3 checkpoints or more in 4 steps, for last, found 2",
    ),
    "keep": (
        Merge(("first", "second"), keep=("hed",)),
        "both: keep: expected a regex that is found in the name of a tensor, found 'h",
    ),
    "regex": (
        Merge(("first", "second"), t_at=("hed=0.1",)),
        "both: t_at: expected a regex that is found in the name of a tensor",
    ),
    "last of two": (
        Merge(("first", "second"), method="linear", last=2),
        "both: last: expected one of the stages first, second, found first, second",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    merge, message = BAD[name]
    with pytest.raises(InputError, match=message):
        run_stages({**made(tmp_path), "both": merge}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stages_of_other_shapes_are_refused(tmp_path: Path) -> None:
    stages = made(tmp_path)
    second = stages["second"]
    assert isinstance(second, Train) and isinstance(second.model, EmbeddingConfig)
    encoder = dataclasses.replace(
        second.model.encoder, layers=second.model.encoder.layers + 1
    )
    model = dataclasses.replace(second.model, encoder=encoder)
    stages["second"] = dataclasses.replace(second, model=model, init=SCRATCH)
    match = "both: second: expected the architecture of first, found other values of la"
    with pytest.raises(InputError, match=match):
        run_stages(stages, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_merge_that_fails_costs_no_training(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "run"
    shutil.copytree(run, there)
    shutil.rmtree(there / "model")
    (there / "both" / "results.json").unlink()
    stages = made(run.parent)
    wrong = merges.opened

    def fails(*args: Any, **options: Any) -> Any:
        raise InputError("numbers", "NaN", where="first")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merges, "opened", fails)
        with pytest.raises(InputError, match="both: first: expected numbers, found"):
            run_stages(stages, there)
    assert merges.opened is wrong
    # Another merge is made of what was trained, and is what the run tells of itself.
    stages["both"] = Merge(("second", "first"), method="linear", weights=(0.9, 0.1))
    run_stages(stages, there)
    assert "stage second is finished" in capsys.readouterr().out
    config = json.loads((there / "config.json").read_text())
    lineage = json.loads((there / "lineage.json").read_text())["stages"]
    assert config["both"]["weights"] == [0.9, 0.1]
    assert lineage["both"]["parent"] == ["second", "first"]
    # Once it is finished, it is that one.
    stages["both"] = Merge(("second", "first"), method="linear", weights=(0.5, 0.5))
    match = r"other values of both\.weights: .*Remove .*/both to merge anew"
    with pytest.raises(InputError, match=match):
        run_stages(stages, there)
    shutil.rmtree(there / "both")
    run_stages(stages, there)
    assert json.loads((there / "config.json").read_text())["both"]["weights"] == [
        *(0.5, 0.5)
    ]


def test_a_stage_may_merge_with_a_checkpoint(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "run"
    shutil.copytree(run, there)
    shutil.rmtree(there / "model")
    (there / "both" / "results.json").unlink()
    at = run / "first" / "checkpoints" / "2"
    stages = made(run.parent)
    stages["both"] = Merge(("second", str(at)), t=0.25)
    run_stages(stages, there)
    want = merging.slerp(
        folder.load(run / "second" / "model").params, read_params(at), 0.25
    )
    close(params(there / "model"), tree.named(want))


def test_a_merge_comes_last(tmp_path: Path) -> None:
    stages = made(tmp_path)
    for wrong in ({"both": stages["both"]}, dict(reversed(stages.items()))):
        with pytest.raises(InputError, match="stages that train, and perhaps one in"):
            split(wrong)


def test_flags_of_a_merge(tmp_path: Path) -> None:
    config = tmp_path / "two.py"
    config.write_text(
        "from m3jax.pipeline.stage import Merge, Train\n"
        "def get_config():\n"
        "    one = Train()\n"
        "    return {'a': one, 'b': one, 'end': Merge(('a', 'b'))}\n"
    )
    from m3jax.train import Program

    words = ["--config", str(config), "--end.t", "0.3", "--a.steps", "7"]
    _, stages, _ = flags.parse(Program, words, prog="train", description="")
    assert stages["end"] == Merge(("a", "b"), t=0.3)
    trains, end = split(stages)
    assert trains["a"].steps == 7 and end is not None and end[0] == "end"
