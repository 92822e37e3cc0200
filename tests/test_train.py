"""`python -m m3jax.train`, from the command line to the last file."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m3jax import train
from m3jax.core import cli
from m3jax.training.writer import read
from tests.training.test_notice import Metadata, serve

CONFIG = '''
"""Trains a tiny model on a few lines."""

from m3jax.data.config import DataConfig
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.training.optimizer import OptimizerConfig


def get_config():
    return Train(
        data=DataConfig(
            train="TRAIN",
            dev="BEIR",
            test="BEIR",
            batch_size=8,
            query_length=8,
            passage_length=16,
            buckets=(16,),
        ),
        tokenizer=TokenizerConfig(vocab_size=80),
        model=EmbeddingConfig(
            BertConfig(hidden=16, layers=1, heads=2, mlp=16, max_positions=16)
        ),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        steps=12,
        evaluate_every=4,
    )
'''
THINGS = ("river", "bread", "moon", "sea", "hill", "yeast", "tide", "salt", "flour")
PLACES = ("here", "there", "north", "south", "home", "away", "above", "below")


def write_data(folder: Path) -> None:
    rows = [(f"where is the {t} {i}", f"{t} {i} lies {p}") for i, p in enumerate(PLACES)
            for t in THINGS]  # fmt: skip
    with open(folder / "train.jsonl", "w") as file:
        for query, answer in rows[:60]:
            file.write(json.dumps({"query": query, "pos": [answer]}) + "\n")
    beir = folder / "beir"
    (beir / "qrels").mkdir(parents=True)
    with open(beir / "corpus.jsonl", "w") as file:
        for i, (_, answer) in enumerate(rows[60:]):
            file.write(json.dumps({"_id": f"p{i}", "title": "", "text": answer}) + "\n")
    with open(beir / "queries.jsonl", "w") as file:
        for i, (query, _) in enumerate(rows[60:]):
            file.write(json.dumps({"_id": f"q{i}", "text": query}) + "\n")
    lines = [f"q{i}\tp{i}\t1" for i in range(len(rows) - 60)]
    text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
    (beir / "qrels" / "test.tsv").write_text(text)
    config = CONFIG.replace("TRAIN", str(folder / "train.jsonl"))
    (folder / "tiny.py").write_text(config.replace("BEIR", str(beir)))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the program in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    try:
        cli.run(train.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# What goes wrong, one row each: a change to the folder or to the words of the command,
# and what the one line has to say.


def append(name: str, text: str | bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with open(folder / name, "ab") as file:
            file.write(text if isinstance(text, bytes) else text.encode())

    return change


def replace(name: str, text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_text(text)

    return change


def nothing(folder: Path) -> None:
    del folder


BAD = {
    "no --config": (nothing, ["--steps", "3"], ["--config"], None),
    "missing config": (nothing, [], ["tinny.py", "Did you mean tiny.py?"], "tinny.py"),
    "folder as config": (nothing, [], ["found a folder"], "beir"),
    "no get_config": (
        replace("tiny.py", "x = 1\n"),
        [],
        ["tiny.py: expected a function get_config"],
        "tiny.py",
    ),
    "config that fails": (
        replace("tiny.py", "\nimport nothing_like_it\n"),
        [],
        ["tiny.py:2:", "nothing_like_it"],
        "tiny.py",
    ),
    "unknown flag": (
        nothing,
        ["--optimizer.learning-rte", "1"],
        ["Did you mean --optimizer.learning-rate?"],
        "tiny.py",
    ),
    "wrong value": (nothing, ["--steps", "many"], ["--steps"], "tiny.py"),
    "unknown size": (nothing, ["--size", "huge"], ["--size", "huge"], "tiny.py"),
    "no steps": (nothing, ["--steps", "0"], ["steps: expected at least 1"], "tiny.py"),
    "unknown negatives": (
        nothing,
        ["--objective.negatives", "own", "others"],
        ["objective.negatives: expected one or more of own", "found others"],
        "tiny.py",
    ),
    "no such tokenizer": (
        nothing,
        ["--tokenizer.pretrained", "nowhere"],
        ["nowhere: expected a tokenizer: tokenizer.json"],
        "tiny.py",
    ),
    "negative seed": (
        nothing,
        ["--seed", "-1"],
        ["seed: expected at least 0"],
        "tiny.py",
    ),
    "no heads": (nothing, ["--model.encoder.heads", "0"], ["heads"], "tiny.py"),
    "missing data": (
        nothing,
        ["--data.train", "trian.jsonl"],
        ["trian.jsonl", "train.jsonl"],
        "tiny.py",
    ),
    "empty data": (replace("train.jsonl", ""), [], ["train.jsonl"], "tiny.py"),
    "not JSON": (append("train.jsonl", "{oops\n"), [], ["train.jsonl:61"], "tiny.py"),
    "no query": (
        append("train.jsonl", '{"pos": ["a"]}\n'),
        [],
        ["train.jsonl:61", "query"],
        "tiny.py",
    ),
    "no pos": (
        append("train.jsonl", '{"query": "a"}\n'),
        [],
        ["train.jsonl:61", "pos"],
        "tiny.py",
    ),
    "empty pos": (
        append("train.jsonl", '{"query": "a", "pos": []}\n'),
        [],
        ["train.jsonl:61", "pos"],
        "tiny.py",
    ),
    "wrong type": (
        append("train.jsonl", '{"query": "a", "pos": "b"}\n'),
        [],
        ["train.jsonl:61", "pos"],
        "tiny.py",
    ),
    "invalid UTF-8": (
        append("train.jsonl", b'{"query": "\xff\xfe", "pos": ["b"]}\n'),
        [],
        ["train.jsonl:61", "UTF-8"],
        "tiny.py",
    ),
    "fewer rows than a batch": (
        nothing,
        ["--data.batch-size", "64"],
        ["train.jsonl", "batch of 64", "60"],
        "tiny.py",
    ),
    "batch and mesh": (
        nothing,
        ["--data.batch-size", "12"],
        ["data.batch_size", "8 shards", "12"],
        "tiny.py",
    ),
    "mesh and devices": (nothing, ["--mesh.fsdp", "3"], ["mesh", "8"], "tiny.py"),
    "no such test set": (nothing, ["--data.test", "nowhere"], ["nowhere"], "tiny.py"),
    "run folder is a file": (
        nothing,
        ["--run-dir", "train.jsonl"],
        ["train.jsonl", "Name another --run-dir"],
        "tiny.py",
    ),
    "run folder below a file": (
        nothing,
        ["--run-dir", "train.jsonl/run"],
        ["train.jsonl", "expected a folder"],
        "tiny.py",
    ),
    "folder of other things": (
        nothing,
        ["--run-dir", "beir"],
        ["beir", "other things", "--run-dir"],
        "tiny.py",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
) -> None:
    change, words, said, config = BAD[name]
    change(folder)
    before = sorted(folder.rglob("*"))
    named = [] if config is None else ["--config", config]
    code = call(monkeypatch, *named, *words)
    out, err = capsys.readouterr()
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and out == ""
    for part in said:
        assert part in err
    assert sorted(folder.rglob("*")) == before, "something was written"


# Runs in processes of their own, as a user starts them.


def start(
    folder: Path, *words: str, run: str = "run", new_group: bool = False
) -> subprocess.Popen:
    command = [sys.executable, "-m", "m3jax.train", "--config", "tiny.py"]
    return subprocess.Popen(
        [*command, "--run-dir", run, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=new_group,
    )


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    return out


def weights(folder: Path, run: str = "run") -> bytes:
    return (folder / run / "model" / "model.safetensors").read_bytes()


def kill_when(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    """SIGKILL the process, and see that it was still at work."""
    deadline = time.time() + 200
    while not ready() and process.poll() is None and time.time() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[0]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


# Other tests of the worker come between those of a group.
@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that nothing disturbs, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    write_data(folder)
    return folder, finish(start(folder))


@pytest.mark.xdist_group("runs")
def test_a_run_leaves_what_it_should(whole: tuple[Path, str]) -> None:
    folder, said = whole
    run = folder / "run"
    for word in ("before training", "after training", "BM25", "nDCG@10", "step 12/12"):
        assert word in said
    for name in ("config.json", "lineage.json", "results.json", "metrics.jsonl"):
        assert (run / name).stat().st_size > 0
    for name in ("loss.png", "training.png", "evaluation.png", "scores.png"):
        assert (run / "plots" / name).read_bytes().startswith(b"\x89PNG")
    rows = read(run)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert [row["step"] for row in rows if "dev/ndcg@10" in row] == [0, 4, 8, 12]
    assert [row["step"] for row in rows if "test/ndcg@10" in row] == [0]
    results = json.loads((run / "results.json").read_text())
    dev = {
        r["step"]: r["dev/ndcg@10"] for r in rows if r.get("dev/ndcg@10") and r["step"]
    }
    assert dev[results["step"]] == max(dev.values())
    after = results["results"]["dev"][f"after training (step {results['step']})"]
    assert after["ndcg@10"] == pytest.approx(max(dev.values()), abs=1e-6)


@pytest.mark.xdist_group("runs")
def test_the_model_is_the_one_that_was_measured(whole: tuple[Path, str]) -> None:
    import m3jax
    from m3jax.data.retrieval import read_beir
    from m3jax.evaluation import retrieval
    from m3jax.inference.encode import CutWarning

    folder, _ = whole
    data = read_beir(folder / "beir")
    model = m3jax.Embedder.load(folder / "run")
    with pytest.warns(CutWarning, match="12 of 12 texts are longer than 8 tokens"):
        queries = model.encode_query(list(data.queries.values()), max_length=8)
    with pytest.warns(CutWarning, match="9 of 12 texts are longer than 16 tokens"):
        passages = model.encode_passage(list(data.corpus.values()), max_length=16)
    scores = m3jax.scores.dense(queries, passages)
    found = {
        q: dict(zip(data.corpus, row.tolist(), strict=True))
        for q, row in zip(data.queries, scores, strict=True)
    }
    results = json.loads((folder / "run" / "results.json").read_text())["results"]
    told = next(v for k, v in results["test"].items() if k.startswith("after"))
    measured = retrieval.measure(found, data.qrels)
    assert measured["ndcg@10"] == pytest.approx(told["ndcg@10"], abs=1e-6)


@pytest.mark.xdist_group("runs")
@pytest.mark.parametrize(
    "moments", [[2], pytest.param([0, 1, 2, 3, 4], marks=pytest.mark.slow)], ids=len
)
def test_killed_again_and_again_is_bit_for_bit_the_same(
    moments: list[int], whole: tuple[Path, str], tmp_path: Path
) -> None:
    """SIGKILL in the beginning, in mid step, in the saving, and in the export."""
    undisturbed, _ = whole
    write_data(tmp_path)
    run = tmp_path / "run"
    folder = run / "train" / "checkpoints"

    def steps(n: int) -> bool:
        return any(row["step"] >= n and "loss" in row for row in read(run))

    ready: list[Callable[[], bool]] = [
        lambda: (run / "lineage.json").exists(),
        lambda: steps(2),
        lambda: steps(6) and (folder / "4").exists(),
        lambda: any(folder.glob("8.*tmp*")) or (folder / "8").exists(),
        lambda: (run / "model").exists() or any(run.glob(".model.*")),
    ]
    for moment in moments:
        kill_when(start(tmp_path), ready[moment])
        assert not (run / "results.json").exists()
    finish(start(tmp_path))
    assert weights(tmp_path) == weights(undisturbed)
    assert not list(run.glob(".*")), "leftovers"
    losses = [[r["loss"] for r in read(f / "run") if "loss" in r]
              for f in (undisturbed, tmp_path)]  # fmt: skip
    assert losses[0] == losses[1]
    # A finished run is shown again, and not trained again.
    stamp = (run / "results.json").stat().st_mtime_ns
    said = finish(start(tmp_path))
    assert "is finished" in said and "BM25" in said
    assert (run / "results.json").stat().st_mtime_ns == stamp


@pytest.mark.xdist_group("runs")
@pytest.mark.parametrize(
    "group", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "group"]
)
def test_sigterm_saves_and_leaves(
    group: bool, whole: tuple[Path, str], tmp_path: Path
) -> None:
    """As schedulers send it, some of them to every process of the group."""
    undisturbed, _ = whole
    write_data(tmp_path)
    folder = tmp_path / "run" / "train" / "checkpoints"
    words = ["--data.workers", "1" if group else "0"]
    process = start(tmp_path, *words, new_group=group)
    deadline = time.time() + 200
    while not any("loss" in row for row in read(tmp_path / "run")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.002)
    (os.killpg if group else os.kill)(process.pid, signal.SIGTERM)
    said = finish(process).splitlines()
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    told = f"preempted: step {step} is saved; run the same command again to continue"
    assert said[-1] == told
    assert not (tmp_path / "run" / "results.json").exists()
    finish(start(tmp_path, *words))
    assert weights(tmp_path) == weights(undisturbed)
    losses = [[r["loss"] for r in read(f / "run") if "loss" in r]
              for f in (undisturbed, tmp_path)]  # fmt: skip
    assert losses[0] == losses[1]


@pytest.mark.slow  # the notice's own test is quick
@pytest.mark.xdist_group("runs")
def test_the_cloud_takes_the_machine(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = whole
    write_data(tmp_path)
    server = Metadata()
    with serve(server) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        process = start(tmp_path)
        while not any("loss" in row for row in read(tmp_path / "run")):
            assert process.poll() is None
            time.sleep(0.002)
        server.preempted.set()
        assert "preempted: step" in finish(process).splitlines()[-1]
    monkeypatch.delenv("GCE_METADATA_HOST")
    assert not (tmp_path / "run" / "results.json").exists()
    finish(start(tmp_path))
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.xdist_group("runs")
def test_another_config_is_refused_and_shown(
    whole: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    folder, _ = whole
    monkeypatch.chdir(folder)
    before = (folder / "run" / "config.json").read_text()
    words = ["--config", "tiny.py", "--run-dir", "run"]
    changes = ["--seed", "3", "--optimizer.learning-rate", "0.5"]
    assert call(monkeypatch, *words, *changes) == 2
    err = capsys.readouterr().err
    assert "train.seed: 0 -> 3" in err and "--fresh" in err and err.count("\n") == 1
    assert "train.optimizer.learning_rate: 0.01 -> 0.5" in err
    assert (folder / "run" / "config.json").read_text() == before
    # Other data under the same name is noticed too, where there is training to do.
    shutil.copytree("run", "unfinished")
    Path("unfinished", "results.json").unlink()
    words[-1] = "unfinished"
    train = folder / "train.jsonl"
    content = train.read_text()
    train.write_text(content + json.dumps({"query": "new", "pos": ["row"]}) + "\n")
    assert call(monkeypatch, *words) == 2
    err = capsys.readouterr().err
    assert "data.train.rows: 60 -> 61" in err and err.count("\n") == 2
    assert err.startswith("index of") and "is stale: rebuilt" in err
    train.write_text(content)


@pytest.mark.slow  # the loop's own test is quick
@pytest.mark.xdist_group("runs")
def test_a_loss_that_is_not_finite(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    words = ["--optimizer.learning-rate", "1e38", "--evaluate-every", "1"]
    process = start(folder, *words, "--optimizer.warmup", "0", run="diverged")
    out, _ = process.communicate(timeout=300)
    last = out.splitlines()[-1]
    assert process.returncode == 2 and "Traceback" not in out
    assert last.startswith("error: step 1: expected a finite parameter_norm")
    assert "No checkpoint is saved yet" in last
    assert not (folder / "diverged" / "model").exists()


@pytest.mark.xdist_group("runs")
def test_a_disk_that_is_full(whole: tuple[Path, str]) -> None:
    """A limit on the size of files stands for the end of the disk."""
    folder, _ = whole
    limited = (
        "import resource, runpy, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
        "sys.argv = ['train'] + sys.argv[1:]; "
        "runpy.run_module('m3jax.train', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, "--config", "tiny.py"]
    done = subprocess.run(
        [*command, "--run-dir", "full-disk"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "file too large" in last
    assert "Traceback" not in done.stderr
    assert not (folder / "full-disk" / "model").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("runs")
def test_ctrl_c_is_one_line(whole: tuple[Path, str]) -> None:
    """As a terminal sends it: to every process of the group."""
    folder, _ = whole
    command = [sys.executable, "-m", "m3jax.train", "--config", "tiny.py"]
    # What a shell runs in the background ignores Ctrl-C, and so would its children.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--run-dir", "stopped", "--steps", "100000"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.time() + 200
    while not any("loss" in row for row in read(folder / "stopped")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted; run the same command again")


@pytest.mark.slow
@pytest.mark.xdist_group("runs")
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random(whole: tuple[Path, str], tmp_path: Path, seed: int) -> None:
    undisturbed, _ = whole
    write_data(tmp_path)
    rng = np.random.default_rng(seed)
    for _ in range(2):
        until = time.time() + rng.uniform(1, 14)
        process = start(tmp_path)
        while time.time() < until and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(tmp_path))
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.slow
@pytest.mark.xdist_group("runs")
def test_eight_devices_change_nothing(whole: tuple[Path, str], tmp_path: Path) -> None:
    undisturbed, _ = whole
    write_data(tmp_path)
    flags = os.environ.get("XLA_FLAGS", "")
    many = f"{flags} --xla_force_host_platform_device_count=8"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "m3jax.train",
            "--config",
            "tiny.py",
            "--run-dir",
            "run",
        ],
        cwd=tmp_path,
        env=os.environ | {"XLA_FLAGS": many},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    finish(process)
    losses = [[r["loss"] for r in read(f / "run") if "loss" in r]
              for f in (undisturbed, tmp_path)]  # fmt: skip
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_help_teaches(monkeypatch, capsys: pytest.CaptureFixture, folder: Path) -> None:
    assert call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert "--config" in said and "goes on where it stopped" in " ".join(said.split())
    assert call(monkeypatch, "--config", "tiny.py", "--help") == 0
    said = capsys.readouterr().out
    for flag in ("--data.train", "--optimizer.learning-rate", "--fresh", "--mesh.fsdp"):
        assert flag in said
