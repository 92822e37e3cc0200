"""The loop, around steps that do nothing but count."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Batch, Tokens
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.loop import Loop, train
from m3jax.training.state import TrainState
from m3jax.training.writer import Writer, read


def batch() -> Batch:
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
        row=np.arange(4),
        dataset=np.zeros(4, int),
    )


class Recorder(Checkpoints):
    """Remembers what is saved, in place of a disk."""

    def __init__(self) -> None:
        self.saved: list[tuple[int, dict, dict]] = []

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
    checkpoints: Recorder | None = None,
):
    state = TrainState(jnp.int32(first), {}, {}, {}, jnp.zeros(2))
    taken: list[int] = []

    def step(state: TrainState, batch: Batch):
        number = int(state.step) + 1
        taken.append(number)
        metrics = {"loss": 1.0 / number, "gradient_norm": 1.0, "parameter_norm": 1.0}
        metrics |= {"tokens": 30.0, "learning_rate": (number - 1) * 0.5} | (
            bad or {}
        ).get(number, {})
        new = TrainState(jnp.int32(number), {}, {}, {}, state.rng)
        return new, {name: jnp.float32(x) for name, x in metrics.items()}

    checkpoints = checkpoints or Recorder()
    writer = Writer(tmp_path, first)
    evaluated: list[int] = []

    def evaluate(params, step: int) -> dict[str, float]:
        evaluated.append(step)
        return {"ndcg@10": step / 100}

    try:
        state = train(
            state,
            step,
            iter([batch() for _ in range(steps - first)]),
            Loop(steps, 3, {"config": "c"}),
            evaluators={"dev": evaluate},
            checkpoints=checkpoints,
            writer=writer,
        )
    finally:
        writer.close()
    return state, taken, evaluated, checkpoints


def test_every_step_is_taken_recorded_and_evaluated(tmp_path: Path) -> None:
    state, taken, evaluated, checkpoints = run(tmp_path, steps=8)
    assert int(state.step) == 8 and taken == list(range(1, 9))
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
    ("step", "kept"), [(2, "None is saved yet"), (5, "of step 3 is kept"), (6, "3 is")]
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
    assert "padding efficiency 0.75" in said and "dev/ndcg@10 0.0800" in said
