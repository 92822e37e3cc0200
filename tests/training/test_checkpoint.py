import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from tensorboardX.proto.event_pb2 import (  # made at run time from a description
    Event,  # pyright: ignore[reportAttributeAccessIssue]
)

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.nn.bert import SHARDING
from m3jax.nn.embedding import EmbeddingModule
from m3jax.testing import tiny_config
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.objectives import ContrastiveConfig, contrastive
from m3jax.training.optimizer import OptimizerConfig, make_optimizer
from m3jax.training.state import TrainState, abstract_state, new_state, starting
from m3jax.training.writer import Writer, read, series


def build(mesh_config: MeshConfig, devices: int) -> tuple[TrainState, TrainState]:
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    module = EmbeddingModule(tiny_config(layers=1))
    objective = contrastive(module, mesh, ContrastiveConfig())
    tx = make_optimizer(OptimizerConfig(), steps=10)
    like = abstract_state(starting(module), objective, tx, mesh, SHARDING)
    return like, new_state(starting(module), objective, tx, like, seed=0)


def at(state: TrainState, step: int) -> TrainState:
    """The state as it might be after some steps."""
    params = jax.tree.map(lambda x: x + step, state.params)
    return TrainState(jnp.int32(step), params, state.opt_state, state.extra, state.rng)


def test_it_leaves_the_count_of_preemption_to_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told steps too, jax would agree on a number that no stage comes to."""
    told: list[int] = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda n: bool(told.append(n))
    )
    _, state = build(MeshConfig(), 1)
    checkpoints = Checkpoints(tmp_path / "c", None)
    for step in (7, 8):
        checkpoints.save(at(state, step), {}, {})
    checkpoints.close()
    assert (tmp_path / "c" / "8").is_dir() and told == []


def assert_same(one: TrainState, two: TrainState) -> None:
    def arrays(state: TrainState) -> list[np.ndarray]:
        raw = jax.tree.map(
            lambda x: (
                jax.random.key_data(x)
                if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                else x
            ),
            state,
        )
        return [np.asarray(x) for x in jax.tree.leaves(raw)]

    for x, y in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(x, y)


def test_another_state_is_no_damage(tmp_path: Path) -> None:
    """A checkpoint of other code is whole: it stays where it is."""
    like, state = build(MeshConfig(), 1)
    checkpoints = Checkpoints(tmp_path / "c", None)
    checkpoints.save(state, {}, {})
    checkpoints.wait()
    more = jax.ShapeDtypeStruct((3,), jnp.float32)
    other = TrainState(
        like.step, {**like.params, "new": more}, like.opt_state, like.extra, like.rng
    )
    with pytest.raises(InputError, match=r"params\.new \[3\], as this .* found none"):
        checkpoints.restore_last(other)
    assert (tmp_path / "c" / "0").is_dir() and not (tmp_path / "damaged").exists()
    found = checkpoints.restore_last(like)
    assert found is not None
    assert_same(found, state)


def save(folder: Path, scores: dict[int, float]) -> TrainState:
    _, state = build(MeshConfig(fsdp=2), 8)
    checkpoints = Checkpoints(folder, "score")
    for step, score in scores.items():
        checkpoints.save(at(state, step), {"data_position": step}, {"score": score})
    checkpoints.wait()
    checkpoints.close()
    return state


def test_round_trip_on_another_mesh(tmp_path: Path) -> None:
    state = save(tmp_path / "c", {4: 0.5})
    like, _ = build(MeshConfig(tensor=2), 2)
    found = Checkpoints(tmp_path / "c", "score").restore_last(like)
    assert found is not None
    assert_same(found, at(state, 4))
    jax.tree.map(
        lambda x, y: np.testing.assert_equal(x.sharding, y.sharding), found, like
    )


def test_nothing_to_restore(tmp_path: Path) -> None:
    like, _ = build(MeshConfig(), 1)
    assert Checkpoints(tmp_path / "c", "score").restore_last(like) is None


def test_keeps_the_best_and_the_last_two(tmp_path: Path) -> None:
    state = save(tmp_path / "c", {1: 0.2, 2: 0.9, 3: 0.4, 4: 0.5, 5: 0.3})
    kept = {int(path.name) for path in (tmp_path / "c").iterdir() if path.is_dir()}
    assert kept == {2, 4, 5}
    like, _ = build(MeshConfig(fsdp=2), 8)
    checkpoints = Checkpoints(tmp_path / "c", "score")
    last = checkpoints.restore_last(like)
    assert last is not None and int(last.step) == 5
    step, params = checkpoints.restore_best(last)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, params, at(state, 2).params)


def test_without_a_metric_the_last_is_the_best(tmp_path: Path) -> None:
    _, state = build(MeshConfig(), 1)
    checkpoints = Checkpoints(tmp_path / "c", None)
    for step in (1, 2, 3):
        checkpoints.save(at(state, step), {}, {})
    checkpoints.wait()
    kept = {int(path.name) for path in (tmp_path / "c").iterdir() if path.is_dir()}
    assert kept == {2, 3}
    assert checkpoints.restore_best(at(state, 3))[0] == 3


@pytest.mark.parametrize(
    "damage", ["cut", "zeros", "gone", "empty folder", "metrics", "about"]
)
def test_a_damaged_step_gives_way_to_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "c"
    state = save(folder, {3: 0.1, 6: 0.2})
    content = [path for path in (folder / "6").rglob("d/*") if path.is_file()]
    assert content
    for path in content:
        size = path.stat().st_size
        if damage == "cut":
            os.truncate(path, size // 2)
        elif damage == "zeros":
            path.write_bytes(b"\0" * size)
        elif damage == "gone":
            path.unlink()
    if damage in ("metrics", "about"):
        file = "metadata" if damage == "about" else damage
        (folder / "6" / damage / file).write_text("\0\0")
    if damage == "empty folder":
        shutil.rmtree(folder / "6" / "state")
    like, _ = build(MeshConfig(), 1)
    checkpoints = Checkpoints(folder, "score")
    found = checkpoints.restore_last(like)
    assert found is not None
    assert_same(found, at(state, 3))
    said = capsys.readouterr().err
    assert "step 6 is damaged" in said and "goes on from step 3" in said
    assert said.count("\n") == 1
    assert (tmp_path / "damaged" / "6").is_dir()
    # The step can be written again.
    checkpoints.save(at(state, 6), {}, {"score": 0.3})
    checkpoints.wait()
    again = Checkpoints(folder, "score").restore_last(like)
    assert again is not None and int(again.step) == 6


def test_a_damaged_best_step_gives_way_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "c"
    state = save(folder, {1: 0.9, 2: 0.2, 3: 0.4, 4: 0.3})
    for step, next_best in ((1, 3), (3, 4)):
        for path in (folder / f"{step}").rglob("d/*"):
            os.truncate(path, path.stat().st_size // 2)
        checkpoints = Checkpoints(folder, "score")
        best, params = checkpoints.restore_best(at(state, 4))
        checkpoints.close()
        assert best == next_best
        jax.tree.map(np.testing.assert_array_equal, params, at(state, best).params)
        said = capsys.readouterr().err
        assert f"step {step} is damaged" in said and "best of the others" in said
        assert (tmp_path / "damaged" / f"{step}").is_dir()


def test_all_damaged_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "c"
    save(folder, {3: 0.1})
    shutil.rmtree(folder / "3" / "state")
    like, _ = build(MeshConfig(), 1)
    assert Checkpoints(folder, "score").restore_last(like) is None
    assert "goes on from the start" in capsys.readouterr().err


def test_config_and_position_are_saved_together(tmp_path: Path) -> None:
    _, state = build(MeshConfig(), 1)
    checkpoints = Checkpoints(tmp_path / "c", "score")
    about = {"config": {"seed": 3}, "data_position": 7}
    checkpoints.save(at(state, 7), about, {"score": 0.1})
    checkpoints.wait()
    assert json.loads((tmp_path / "c/7/about/metadata").read_text()) == about
    saved = {path.name for path in (tmp_path / "c/7").iterdir() if path.is_dir()}
    assert {"state", "about", "metrics"} <= saved


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch) -> None:
    _, state = build(MeshConfig(), 1)
    checkpoints = Checkpoints(tmp_path / "c", None)
    full = "RESOURCE_EXHAUSTED: Failed to write [os_error_code='28']"

    def wait(self) -> None:
        raise ValueError(full)

    checkpoints.save(at(state, 1), {}, {})
    checkpoints.wait()
    monkeypatch.setattr(type(checkpoints._manager), "wait_until_finished", wait)
    with pytest.raises(OSError) as error:
        checkpoints.wait()
    assert error.value.errno == errno.ENOSPC and str(tmp_path) in str(error.value)


def test_metrics_go_on_where_the_state_does(tmp_path: Path) -> None:
    writer = Writer(tmp_path, 0)
    for step in range(6):
        writer.write(step, {"loss": 1.0 / (step + 1)})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # a kill in the middle of a line
    assert [row["step"] for row in read(tmp_path)] == [0, 1, 2, 3, 4, 5]
    writer = Writer(tmp_path, 3)
    writer.write(4, {"loss": 9.0})
    writer.close()
    rows = read(tmp_path)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert series(rows, "loss")[1][-1] == 9.0
    assert series([*rows, {"step": 5, "loss": float("nan")}], "loss")[0][-1] == 4
    events = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert len(events) >= 1 and all(path.stat().st_size > 100 for path in events)
    writer = Writer(tmp_path, 0)
    writer.close()
    assert read(tmp_path) == []


def events(path: Path) -> list[Any]:
    """Records of a length, its sum of 4 bytes, an event, and its sum."""
    found, data = [], path.read_bytes()
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return found


@pytest.mark.parametrize("evaluated", [True, False])
def test_an_evaluation_that_comes_again_is_written_once(
    tmp_path: Path, evaluated: bool
) -> None:
    """A kill came between its line and the note in the checkpoint."""
    kept = [{"step": 1, "dev/a": 1.0}, {"step": 2, "loss": 2.0}]
    again = {"step": 2, "dev/a": 3.0}
    lines = [json.dumps(row) + "\n" for row in (*kept, again)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    Writer(tmp_path, 2, evaluated=evaluated).close()
    assert read(tmp_path) == kept + [again] * evaluated
    (made,) = (tmp_path / "tensorboard").iterdir()
    # What comes from its first step on is forgotten, and the loss told again.
    told = [
        (event.step, [x.tag for x in event.summary.value]) for event in events(made)
    ]
    assert told[1:] == ([(3, [])] if evaluated else [(2, []), (2, ["loss"])])
