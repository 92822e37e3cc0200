"""Several processes train as one does, and end together when one fails."""

import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from m3jax import train
from m3jax.core import cli
from m3jax.training.writer import read
from tests.processes import ended, launch
from tests.test_train import write_data

# Enough to learn what the dev set asks; its scores move.
WORDS = ("--steps", "50", "--evaluate-every", "25", "--data.query-length", "16")
WORDS += ("--optimizer.learning-rate", "3e-3", "--data.workers", "0")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    write_data(folder)
    return folder


@pytest.fixture(scope="session")
def alone(folder: Path) -> Path:
    """A run of one process with one device."""
    (done,) = ended(launch([folder], *WORDS, "--run-dir", "alone"))
    assert done.code == 0, done.err
    return folder / "alone"


def series(run: Path, name: str) -> list[float]:
    return [row[name] for row in read(run) if name in row]


def assert_same(run: Path, other: Path) -> None:
    """Losses, scores and weights of two runs."""
    assert len(series(run, "loss")) == 50
    assert len(set(series(run, "dev/ndcg@10"))) == 3, "scores that say nothing"
    np.testing.assert_allclose(series(run, "loss"), series(other, "loss"), rtol=1e-4)
    for name in ("dev/ndcg@10", "dev/mrr@10", "test/ndcg@10"):
        assert series(run, name), name
        np.testing.assert_allclose(series(run, name), series(other, name), atol=1e-6)
    found = [json.loads((path / "results.json").read_text()) for path in (run, other)]
    assert found[0]["step"] == found[1]["step"]
    first, second = (
        load_file(path / "model/model.safetensors") for path in (run, other)
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_allclose(tensor, second[name], atol=1e-4, err_msg=name)


@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_train_as_one(folder: Path, alone: Path, count: int) -> None:
    run = f"of-{count}"
    done = ended(launch([folder] * count, *WORDS, "--run-dir", run, "--mesh.fsdp", "2"))
    assert [one.code for one in done] == [0] * count, [one.err for one in done]
    assert_same(folder / run, alone)
    # One of them writes and tells.
    assert "after training (step" in done[0].out and "step 50/50" in done[0].err
    for one in done[1:]:
        assert "after" not in one.out and "step" not in one.err
    assert not list((folder / run).glob(".*")), "leftovers"


@pytest.mark.xdist_group("processes")
def test_bad_data_in_one_ends_both(folder: Path, tmp_path: Path) -> None:
    """A file of the same name on each host; one is damaged."""
    write_data(tmp_path)
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write("{oops\n")
    words = ["--data.train", "train.jsonl", "--run-dir", str(tmp_path / "run")]
    done = ended(launch([folder, tmp_path], *words), seconds=60)
    assert [one.code for one in done] == [2, 2]
    (line,) = done[0].errors
    assert line.startswith("error: process 1: train.jsonl:61: expected")
    assert done[1].errors == [line.replace("process 1: ", "")]
    assert not (tmp_path / "run").exists(), "something was written"


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_what_all_find_is_told_once(folder: Path) -> None:
    words = ["--steps", "0", "--run-dir", "bad"]
    done = ended(launch([folder] * 2, *words), seconds=60)
    assert [one.code for one in done] == [2, 2]
    assert done[0].errors == ["error: steps: expected at least 1, found 0"]
    assert done[1].errors == []


@pytest.mark.xdist_group("processes")
def test_nobody_comes(folder: Path) -> None:
    began = time.monotonic()
    process, other = launch([folder] * 2, "--run-dir", "never", "--start-timeout", "3")
    process.kill()
    process.communicate()
    (done,) = ended([other], seconds=60)
    assert done.code == 2 and time.monotonic() - began < 50
    (line,) = done.errors
    assert re.search(
        r"--coordinator: expected 2 processes at 127\.0\.0\.1:\d+ within 3 s, found "
        r"nobody there \(connection refused\)\. Start the same command",
        line,
    )


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "tiny.py", *words])
    with pytest.raises(SystemExit) as end:
        cli.run(train.main)
    return int(end.value.code or 0)


FLAGS = {
    "some": (
        ["--process", "1"],
        "command line: expected all of --coordinator, --processes and --process, or "
        "none, found no --coordinator and no --processes",
    ),
    "no port": (
        ["--coordinator", "here", "--processes", "2", "--process", "0"],
        "--coordinator: expected HOST:PORT, found 'here'",
    ),
    "too high": (
        ["--coordinator", "a:1", "--processes", "2", "--process", "2"],
        "--process: expected a number from 0 to 1, below --processes, found 2",
    ),
    "no number": (["--processes=two"], "--processes: expected a number, found 'two'"),
    "no time": (["--start-timeout", "0"], "--start-timeout: expected seconds above 0"),
}


@pytest.mark.parametrize("name", FLAGS)
def test_flags_that_do_not_do(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
) -> None:
    words, said = FLAGS[name]
    monkeypatch.chdir(folder)
    assert call(monkeypatch, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {said}") and err.count("\n") == 1


def wait_for(ready: Callable[[], bool], processes: list) -> None:
    until = time.monotonic() + 200
    while not ready():
        assert time.monotonic() < until
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def in_training(run: Path, step: int = 2) -> Callable[[], bool]:
    return lambda: any(row["step"] >= step and "loss" in row for row in read(run))


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("victim", [1, 2])
def test_a_process_is_killed(folder: Path, victim: int) -> None:
    run = f"killed-{victim}"
    words = ["--run-dir", run, "--steps", "100000", "--data.batch-size", "6"]
    processes = launch([folder] * 3, *words)
    wait_for(in_training(folder / run), processes)
    processes[victim].kill()
    began = time.monotonic()
    done = ended(processes, seconds=60)
    assert time.monotonic() - began < 30
    assert [one.code for one in done if one is not done[victim]] == [1, 1]
    (line,) = done[0].errors
    assert line.startswith(f"error: process {victim}: gone without a word: killed")
    (line,) = done[3 - victim].errors
    assert line.startswith(f"stopped: process {victim}: gone")


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_the_first_process_is_killed(folder: Path) -> None:
    """Whose console is gone; jax may be the first to notice, in its own words."""
    processes = launch([folder] * 2, "--run-dir", "headless", "--steps", "100000")
    wait_for(in_training(folder / "headless"), processes)
    processes[0].kill()
    began = time.monotonic()
    done = ended(processes, seconds=60)
    assert time.monotonic() - began < 30
    assert done[1].code not in (0, None)
    assert "process 0: gone" in done[1].err or "leader task" in done[1].err


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_ctrl_c_in_all(folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    processes = launch([folder] * 2, "--run-dir", "stopped", "--steps", "100000")
    signal.signal(signal.SIGINT, before)
    wait_for(in_training(folder / "stopped"), processes)
    for process in processes:
        os.killpg(process.pid, signal.SIGINT)
    done = ended(processes, seconds=60)
    assert [one.code for one in done] == [130, 130]
    told = "interrupted; run the same command again to go on from what was saved last"
    assert done[0].errors == [told]
    assert done[1].errors in ([], done[0].errors)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("group", [False, True], ids=["one", "group"])
def test_sigterm_in_all(folder: Path, alone: Path, group: bool) -> None:
    """As schedulers send it, some of them to every process of a job: all save."""
    name = f"preempted-{group}"
    words = [*WORDS, "--data.workers", "1", "--run-dir", name, "--mesh.fsdp", "2"]
    processes = launch([folder] * 2, *words)
    wait_for(in_training(folder / name, 5), processes)
    for process in processes:
        (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    done = ended(processes, seconds=100)
    assert [one.code for one in done] == [0, 0], [one.err for one in done]
    saved = folder / name / "train/checkpoints"
    step = max(int(path.name) for path in saved.iterdir() if path.name.isdigit())
    assert f"preempted: step {step} is saved" in done[0].err
    assert not (folder / name / "results.json").exists()
    done = ended(launch([folder] * 2, *words))
    assert [one.code for one in done] == [0, 0], [one.err for one in done]
    assert_same(folder / name, alone)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_killed_and_gone_on_with_by_other_numbers(folder: Path, alone: Path) -> None:
    """Four processes, then two with two devices each, then one with four."""
    run = folder / "changing"
    words = [*WORDS, "--run-dir", "changing", "--mesh.data", "2", "--mesh.fsdp", "2"]
    for count, devices, step in ((4, 1, 27), (2, 2, 27)):
        processes = launch([folder] * count, *words, devices=devices)
        wait_for(in_training(run, step), processes)
        for process in processes:
            process.kill()
        ended(processes)
    (done,) = ended(launch([folder], *words, devices=4))
    assert done.code == 0, done.err
    assert_same(run, alone)


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_other_data_in_one(folder: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    shutil.copy(folder / "tiny.py", tmp_path)
    rows = (tmp_path / "train.jsonl").read_text().splitlines()
    (tmp_path / "train.jsonl").write_text("\n".join([*rows[1:], rows[0]]) + "\n")
    words = ["--data.train", "train.jsonl", "--data.batch-size", "6"]
    words += ["--run-dir", str(tmp_path / "run")]
    done = ended(launch([folder, folder, tmp_path], *words), seconds=60)
    assert [one.code for one in done] == [2, 2, 2]
    (line,) = done[0].errors
    assert line.startswith("error: data.train.train.fingerprint: expected the same")
    assert " in process 2. All processes need" in line
    assert done[1].errors == done[2].errors == []
    assert not (tmp_path / "run").exists(), "something was written"


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
def test_a_run_folder_that_one_does_not_see(folder: Path, tmp_path: Path) -> None:
    write_data(tmp_path)
    data = [f"{folder}/train.jsonl", "--data.dev", f"{folder}/beir", "--data.test"]
    words = ["--data.train", *data, f"{folder}/beir", "--run-dir", "own"]
    done = ended(launch([folder, tmp_path], *words), seconds=150)
    assert [one.code for one in done] == [2, 2]
    (line,) = done[0].errors
    assert line.startswith(f"error: process 1: {tmp_path}/own: expected a folder that")


@pytest.mark.slow
@pytest.mark.xdist_group("processes")
@pytest.mark.parametrize("parts", ["ocdbt.process_1", ""], ids=["one", "all"])
def test_a_damaged_checkpoint(folder: Path, alone: Path, parts: str) -> None:
    """Where one process alone meets the damage, the others do not wait for it."""
    name = f"damaged{parts[-2:]}"
    words = [*WORDS, "--run-dir", name, "--mesh.fsdp", "2"]
    processes = launch([folder] * 2, *words)
    wait_for(in_training(folder / name, 30), processes)
    for process in processes:
        process.kill()
    ended(processes)
    step = folder / name / "train/checkpoints/25/state"
    content = [x for x in (step / parts).rglob("d/*") if x.is_file()]
    assert content
    for path in content:
        os.truncate(path, 0)
    done = ended(launch([folder] * 2, *words))
    assert [one.code for one in done] == [0, 0], [one.err for one in done]
    assert done[0].err.count("the checkpoint of step 25 is damaged") == 1
    assert_same(folder / name, alone)


def test_a_port_that_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        words = ["--coordinator", address, "--processes", "2", "--process", "0"]
        assert call(monkeypatch, *words) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --coordinator {address}: expected a free port of")
    assert "address already in use" in err and err.count("\n") == 1
