"""The loop, around steps that do nothing but count."""

import json
import re
import shutil
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Batch, Tokens
from m3jax.training import display, preemption, speed
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.checkpoint_config import CheckpointConfig
from m3jax.training.loop import End, Loop, train
from m3jax.training.plots import write_plots
from m3jax.training.profiling import parse_profile
from m3jax.training.state import TrainState
from m3jax.training.writer import Writer, check_wandb, read


def batch(number: int = 0) -> Batch:
    ids = np.ones((4, 5), np.int32)
    passage = np.ones((4, 1, 5), np.int32)
    words = np.zeros((4, 2), np.uint32)
    return Batch(
        query=Tokens(ids, ids > 0),
        passage=Tokens(passage, passage > 0),
        where=np.ones((4, 1), bool),
        query_ids=words,
        passage_ids=words[:, None],
        in_batch=np.ones(4, bool),
        row=np.arange(4) + 10 * number,
        dataset=np.array([0, 0, 1, 1]),
    )


class Recorder(Checkpoints):
    """Remembers what is saved, in place of a disk."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, dict, dict]] = []
        self._metric = None

    def save(self, state: TrainState, about: dict, metrics: dict) -> None:
        self.saved.append((int(state.step), about, metrics))

    def wait(self) -> None:
        self.waited = len(self.saved)


def run(
    tmp_path: Path,
    *,
    steps: int,
    first: int = 0,
    bad: dict | None = None,
    checkpoints: Checkpoints | None = None,
    scores: Callable[[int], float] | None = lambda step: step / 100,
    seconds: float = 0.0,
    stop: preemption.Stop = preemption.never,
    wandb: str = "",
    batches: Iterator[Batch] | None = None,
    **loop: Any,
) -> tuple[End, list[int], list[int], Any]:
    state = TrainState(jnp.int32(first), {}, {}, {}, jnp.zeros(2))
    taken: list[int] = []

    def step(state: TrainState, batch: Batch):
        number = int(state.step) + 1
        taken.append(number)
        time.sleep(seconds)
        metrics = {"loss": 1.0 / number, "gradient_norm": 1.0, "parameter_norm": 1.0}
        metrics |= {"tokens": 30.0, "learning_rate": (number - 1) * 0.5} | (
            bad or {}
        ).get(number, {})
        new = TrainState(jnp.int32(number), {}, {}, {}, state.rng)
        return new, {name: np.float32(x) for name, x in metrics.items()}

    checkpoints = checkpoints or Recorder()
    writer = Writer(tmp_path, first, wandb=wandb)
    evaluated: list[int] = []

    def evaluate(params, step: int) -> dict[str, float]:
        assert scores is not None
        evaluated.append(step)
        return {"ndcg@10": scores(step)}

    try:
        end = train(
            state,
            step,  # pyright: ignore[reportArgumentType]  (numbers from the host)
            batches or iter([batch(number) for number in range(first + 1, steps + 1)]),
            Loop(**{"steps": steps, "evaluate_every": 3, "about": {"config": "c"}}
                 | loop),
            evaluators={} if scores is None else {"dev": evaluate},
            checkpoints=checkpoints,
            writer=writer,
            stop=stop,
        )  # fmt: skip
    finally:
        writer.close()
    return end, taken, evaluated, checkpoints


def test_every_step_is_taken_recorded_and_evaluated(tmp_path: Path) -> None:
    end, taken, evaluated, checkpoints = run(tmp_path, steps=8)
    assert isinstance(end, End) and end.reason == "finished"
    assert int(end.state.step) == 8 and taken == list(range(1, 9))
    assert evaluated == [3, 6, 8]
    assert checkpoints.saved == [
        (n, {"config": "c", "data_position": n}, {"dev/ndcg@10": n / 100})
        for n in (3, 6, 8)
    ]
    assert checkpoints.waited == 3
    rows = read(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))
    for row in rows:
        if "loss" in row:
            assert row["loss"] == pytest.approx(1 / row["step"])
            assert row["learning_rate"] == (row["step"] - 1) * 0.5
            assert row["padding_efficiency"] == 30 / 40
            assert row["queries_per_second"] > 0 and row["tokens_per_second"] > 0
    assert [row["step"] for row in rows if "dev/ndcg@10" in row] == [3, 6, 8]


def test_goes_on_where_the_state_is(tmp_path: Path) -> None:
    _, taken, evaluated, _ = run(tmp_path, steps=8, first=5)
    assert taken == [6, 7, 8] and evaluated == [6, 8]


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "parameter_norm"])
@pytest.mark.parametrize(
    ("step", "kept"),
    [(2, "No checkpoint is saved yet"), (5, "of step 3 is kept"), (6, "3 is")],
)
def test_stops_where_a_number_is_not_finite(
    tmp_path: Path, name: str, step: int, kept: str
) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(InputError) as error:
            run(tmp_path, steps=8, bad={step: {name: value}})
        said = str(error.value)
        assert said.startswith(f"step {step}: expected a finite {name}, found {value}")
        assert kept in said
        # The step that failed is not on record, and not in a checkpoint.
        assert max(row["step"] for row in read(tmp_path)) == step - 1


def test_a_bad_last_step_is_not_saved(tmp_path: Path) -> None:
    recorder = Recorder()
    with pytest.raises(InputError, match="step 8"):
        run(tmp_path, steps=8, bad={8: {"loss": float("nan")}}, checkpoints=recorder)
    assert [step for step, _, _ in recorder.saved] == [3, 6]
    assert recorder.waited == 2, "what was saved is on the disk before the end"
    assert all("dev/ndcg@10" not in row or row["step"] < 8 for row in read(tmp_path))


def test_lines_where_there_is_no_terminal(tmp_path: Path, capsys) -> None:
    run(tmp_path, steps=8)
    said = capsys.readouterr().err
    for word in ("step 8/8", "loss 0.1250", "queries/s", "tokens/s", "s left"):
        assert word in said
    assert "25% padding" in said and "dev/ndcg@10 0.0800" in said


def saved_in(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def test_without_evaluators_it_saves_all_the_same(tmp_path: Path) -> None:
    end, _, _, checkpoints = run(tmp_path, steps=8, scores=None, checkpoint_every=2)
    assert end.reason == "finished"
    assert [(step, results) for step, _, results in checkpoints.saved] == [
        (n, {}) for n in (2, 4, 6, 8)
    ]
    _, _, _, checkpoints = run(tmp_path, steps=8, scores=None)
    assert [step for step, _, _ in checkpoints.saved] == [3, 6, 8]
    # Beside evaluations, what has no scores is no evaluation.
    _, _, evaluated, checkpoints = run(tmp_path, steps=8, checkpoint_every=2)
    assert evaluated == [3, 6, 8]
    assert [(n, bool(found)) for n, _, found in checkpoints.saved] == [
        (2, False), (3, True), (4, False), (6, True), (8, True)
    ]  # fmt: skip


def test_a_stop_between_evaluations_does_not_confuse_the_best(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    scores = {3: 0.9, 6: 0.4, 9: 0.5, 10: 0.3}
    taken, reasons = [], []
    # The first is not disturbed; at 3 and 10 an evaluation is due.
    for ends in ((), (4, 7), (3,), (10,)):
        for path in (folder, tmp_path / "metrics.jsonl"):
            if path.exists():
                path.rename(tmp_path / f"old-{path.name}-{len(reasons)}")
        first = 0
        for at in (*ends, 99):
            checkpoints = Checkpoints(folder, "dev/ndcg@10")
            like = TrainState(jnp.int32(0), {}, {}, {}, jnp.zeros(2))
            found = checkpoints.restore_last(like)
            first = 0 if found is None else int(found.step)
            end, steps, evaluated, _ = run(
                tmp_path,
                steps=10,
                first=first,
                checkpoints=checkpoints,
                scores=scores.__getitem__,
                stop=lambda step, at=at: step >= at,
            )
            reasons.append(end.reason)
            taken += steps
            assert int(end.state.step) == min(at, 10)
            # What is due when it has to leave, the next start does first.
            due = [n for n in (3, 6, 9, 10) if first <= n < at or n == first]
            assert evaluated == [n for n in due if n > first or n in ends]
            if end.reason == "preempted":
                assert max(saved_in(folder)) == at
                assert checkpoints.restore_best(end.state)[0] in (3, at)
            else:
                assert checkpoints.restore_best(end.state)[0] == 3
            checkpoints.close()
        # 7 was saved in passing: it is not kept for ever.
        assert saved_in(folder) == {3, 9, 10}
        rows = read(tmp_path)
        assert [row["step"] for row in rows if "loss" in row] == list(range(1, 11))
        assert [row["step"] for row in rows if "dev/ndcg@10" in row] == [3, 6, 9, 10]
    assert taken == list(range(1, 11)) * 4
    assert reasons == ["finished", "preempted", "preempted", "finished",
                       "preempted", "finished", "preempted", "finished"]  # fmt: skip


def test_a_late_evaluation_is_done_once(tmp_path: Path) -> None:
    """Killed after it and before the next checkpoint, its result is there."""

    def go(first: int, until: int) -> tuple[list[int], int, str]:
        checkpoints = Checkpoints(tmp_path / "c", "dev/ndcg@10")
        end, _, evaluated, _ = run(
            tmp_path, steps=9, first=first, checkpoints=checkpoints, patience=1,
            scores={3: 0.5, 6: 0.4}.__getitem__, stop=lambda step: step >= until,
        )  # fmt: skip
        best = checkpoints.restore_best(end.state)[0]
        checkpoints.close()
        return evaluated, best, end.reason

    assert go(0, 3) == ([], 3, "preempted")
    assert go(3, 4) == ([3], 3, "preempted")
    shutil.rmtree(tmp_path / "c" / "4")  # as if it had been killed before it was saved
    assert go(3, 6) == ([], 3, "preempted")
    # And patience counts it.
    assert go(6, 9) == ([6], 3, "early")


def test_keeps_every_so_many(tmp_path: Path) -> None:
    config = CheckpointConfig(keep_last=1, keep_every=6)
    checkpoints = Checkpoints(tmp_path / "c", "dev/ndcg@10", config)
    run(
        tmp_path,
        steps=14,
        checkpoints=checkpoints,
        scores=lambda step: -abs(step - 9.0),
        checkpoint_every=2,
    )
    checkpoints.close()
    assert saved_in(tmp_path / "c") == {6, 9, 12, 14}
    for bad in (CheckpointConfig(keep_last=0), CheckpointConfig(keep_every=-1)):
        with pytest.raises(InputError, match=r"checkpoints\.keep_"):
            Checkpoints(tmp_path / "d", None, bad)


@pytest.mark.parametrize("restart", [None, 2, 5, 6])
def test_patience_is_the_same_after_a_restart(
    tmp_path: Path, restart: int | None, capsys: pytest.CaptureFixture
) -> None:
    scores = {1: 0.1, 2: 0.5, 3: 0.5, 4: 0.2, 5: 0.4}

    def go(first: int, until: int) -> tuple[End, list[int]]:
        checkpoints = Checkpoints(tmp_path / "c", "dev/ndcg@10")
        end, taken, _, _ = run(
            tmp_path, steps=9, first=first, checkpoints=checkpoints, evaluate_every=1,
            patience=3, scores=scores.__getitem__, stop=lambda step: step >= until,
        )  # fmt: skip
        checkpoints.close()
        return end, taken

    if restart is not None:
        end, _ = go(0, restart)
        assert end.reason == ("early" if restart == 6 else "preempted")
    first = 0 if restart is None else min(restart, 5)
    end, taken = go(first, 99)
    # 3 is as good as 2, and no better.
    assert end.reason == "early" and int(end.state.step) == 5
    assert taken == list(range(first + 1, 6))
    said = capsys.readouterr().err
    assert "stopped at step 5: dev/ndcg@10 was best at step 2 with 0.5000" in said


def test_patience_needs_a_metric(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", None)
    with pytest.raises(InputError, match="patience: expected a dev set"):
        run(tmp_path, steps=3, checkpoints=checkpoints, patience=2, scores=None)


def test_rows_of_a_batch_that_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run(tmp_path, steps=8, bad={5: {"loss": np.nan}}, folder=tmp_path / "stage")
    path = tmp_path / "stage" / "nonfinite-step-5.json"
    assert str(path) in str(error.value)
    found = json.loads(path.read_text())
    assert found["step"] == 5 and found["row"] == [50, 51, 52, 53]
    assert found["dataset"] == [0, 0, 1, 1]
    assert found["metrics"]["loss"] == "nan" and found["metrics"]["tokens"] == 30


def test_rows_that_lie_on_several_devices() -> None:
    from m3jax.core.mesh import batch_sharding, make_mesh
    from m3jax.core.mesh_config import MeshConfig
    from m3jax.training.loop import _local

    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    rows = jax.device_put(np.arange(8)[::-1], batch_sharding(mesh))
    assert _local(rows).tolist() == list(range(8))[::-1]


def test_the_loop_itself_takes_little(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(speed, "_WINDOW", 1)
    run(tmp_path, steps=16, seconds=0.05, evaluate_every=20)
    rows = [row for row in read(tmp_path) if "overhead_share" in row]
    assert len(rows) == 16
    # What else the machine does is not the loop's: the step that it disturbed least.
    assert min(row["overhead_share"] for row in rows[:-1]) <= 0.02
    assert max(row["dispatch_share"] for row in rows[:-1]) > 0.9
    assert min(row["data_wait_share"] for row in rows[:-1]) < 0.05
    assert max(row["tokens_per_second"] for row in rows[:-1]) < 30 / 0.05


def test_speed_is_that_of_steps_that_compile_nothing(
    tmp_path: Path, monkeypatch
) -> None:
    """On a CPU, each shape is compiled in the step that meets it first."""
    now = iter(range(10**6))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: float(next(now)))
    timer = speed.Speed()
    cost = speed.Cost(queries=8, padded_tokens=80, wait=0.0, dispatch=0.0)
    timer.compiled()
    for _ in range(99):
        next(now)
    assert timer.per_step is None
    assert timer.update(cost, 60)["queries_per_second"] < 0.1
    assert timer.per_step is None
    assert timer.update(cost, 60)["queries_per_second"] == 8.0
    timer.compiled()
    for _ in range(99):
        next(now)
    assert timer.update(cost, 60)["queries_per_second"] == 8.0
    assert timer.per_step == 1.0 and timer.steps == 3 and timer.seconds > 200
    monkeypatch.undo()
    # Of two shapes: each is told to the timer once.
    told: list[int] = []
    monkeypatch.setattr(speed.Speed, "compiled", lambda self: told.append(1))
    other = jax.tree.map(lambda x: np.repeat(x, 2, axis=0), batch())
    run(tmp_path, steps=4, batches=iter([batch(), other, batch(), other]))
    assert len(told) == 2


def test_a_line_where_it_was_silent_for_long(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(display, "_SILENCE", 0.0)
    run(tmp_path, steps=100, evaluate_every=1000)
    assert capsys.readouterr().err.count("queries/s") == 100
    monkeypatch.undo()
    (tmp_path / "quick").mkdir()
    run(tmp_path / "quick", steps=100, evaluate_every=1000)
    assert capsys.readouterr().err.count("queries/s") == 21


def test_share_of_the_peak_and_memory(tmp_path: Path, monkeypatch) -> None:
    class Device:
        def __init__(self, used: int) -> None:
            self.used = used

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_in_use": self.used, "peak_bytes_in_use": 2 * self.used}

    monkeypatch.setattr(
        speed.jax, "local_devices", lambda: [Device(5), Device(7)], raising=True
    )
    run(
        tmp_path,
        steps=6,
        seconds=0.01,
        evaluate_every=9,
        flops_per_step=lambda batch: 1e3 * batch.query.ids.size,
        peak_flops=1e7,
    )
    row = [row for row in read(tmp_path) if "loss" in row][-2]
    assert row["memory_bytes"] == 7 and row["memory_peak_bytes"] == 14
    flops_per_token = 1e3 * 20 / 30
    mfu = row["tokens_per_second"] * flops_per_token / 1e7
    assert row["mfu"] == pytest.approx(mfu)


def test_a_trace_of_some_steps(tmp_path: Path) -> None:
    def traces() -> list[Path]:
        return list((tmp_path / "profile").rglob("*.xplane.pb"))

    there: list[int] = []
    run(
        tmp_path, steps=5, folder=tmp_path, profile=(2, 3),
        stop=lambda _: there.append(len(traces())) or False,
    )  # fmt: skip
    assert there == [0, 0, 1, 1, 1] and traces()[0].stat().st_size > 0
    # It is over: another one can begin. And one that an error cuts short is written.
    with pytest.raises(InputError, match="step 3"):
        run(
            tmp_path, steps=6, folder=tmp_path / "b", profile=(2, 99),
            bad={3: {"loss": np.inf}},
        )  # fmt: skip
    assert list((tmp_path / "b" / "profile").rglob("*.xplane.pb"))
    for text in ("", "3", "0:2", "5:4", "1:2:3", "a:b", "-1:4"):
        with pytest.raises(InputError, match=re.escape("--profile")):
            parse_profile(text)


class FakeWandb(types.ModuleType):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict] = []
        self.told: list[tuple[int, dict]] = []
        self.finished = 0

    def init(self, **fields: Any) -> "FakeWandb":
        self.started.append(fields)
        return self

    def log(self, values: dict, step: int) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_gets_what_the_file_gets(tmp_path: Path, monkeypatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run(tmp_path, steps=4, wandb="mine")
    assert [{"step": step, **values} for step, values in fake.told] == read(tmp_path)
    assert fake.started[0]["project"] == "mine" and fake.finished == 1
    run(tmp_path, steps=6, first=4, wandb="mine")  # goes on in the same run
    run(tmp_path, steps=2, wandb="mine")  # and anew in another one
    idents = [fields["id"] for fields in fake.started]
    assert idents[0] == idents[1] != idents[2]
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if not installed
    with pytest.raises(InputError, match="pip install wandb"):
        check_wandb("mine")
    with pytest.raises(InputError, match="pip install wandb"):
        Writer(tmp_path / "new", 0, wandb="mine")


def test_pictures_show_what_is_there(tmp_path: Path, monkeypatch) -> None:
    from matplotlib import pyplot

    from m3jax.training import plots

    seen: dict[str, list[tuple[str, list[str]]]] = {}

    def look(figure: Any, path: Path) -> None:
        seen[path.name] = [
            (axis.get_title(), [str(line.get_label()) for line in axis.lines])
            for axis in figure.axes
            if axis.get_visible()
        ]
        pyplot.close(figure)

    monkeypatch.setattr(plots, "save", look)
    rows: list[dict[str, Any]] = [
        {"step": n, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": 2.0}
        for n in range(3)
    ]
    write_plots(tmp_path, rows, selected=2, positive=None, negative=None)
    assert seen.keys() == {"loss.png", "training.png"}
    assert seen["loss.png"][0] == ("Training loss", ["loss"])
    assert seen["training.png"] == [("Gradient", ["gradient"])]
    rows[1] |= {"dense_loss": 1.0, "distill": 0.5, "positive": 0.9, "negative": 0.1}
    rows[1] |= {"masked_share": 0.0, "tokens_per_second": 9.0}
    write_plots(tmp_path, rows, selected=2, positive=None, negative=None)
    assert "Masked negatives" not in dict(seen["training.png"])
    rows[2] |= {"masked_share": 0.1}
    write_plots(tmp_path, rows, selected=2, positive=None, negative=None)
    assert seen["loss.png"][0] == ("Training loss", ["loss", "dense", "distill"])
    assert "evaluation.png" not in seen
    # Graded pairs and rerankers have no cosines, and a curve all the same.
    rows[0] |= {"dev/spearman": -0.2}
    rows[2] |= {"dev/spearman": 0.4, "dev/hybrid/ndcg@10": 0.6}
    write_plots(tmp_path, rows, selected=2, positive=None, negative=None)
    labels = ["nDCG@10, hybrid", "Spearman", "kept"]
    assert seen["evaluation.png"] == [("Dev set", labels)]
    assert "scores.png" not in seen
    assert seen["training.png"] == [
        ("Gradient", ["gradient"]),
        ("Scores", ["positive", "negatives"]),
        ("Masked negatives", ["masked"]),
        ("Speed", ["tokens"]),
    ]
