"""The program that turns a data set into tokens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m3jax import prepare as program
from m3jax.core.errors import InputError
from m3jax.data import tokenised, tokenize
from m3jax.data.records import content_hash
from m3jax.data.sources.array_records import Prepared, open_prepared
from m3jax.testing import TEXTS, tiny_tokenizer, write_jsonl

GOLDEN = Path(__file__).parent / "golden"
ROWS = [{"query": f"{text[:9]} {i}", "pos": [text]} for i, text in enumerate(TEXTS * 4)]


def content(prepared: Prepared) -> list[Any]:
    return [prepared[i] for i in range(len(prepared))]


# Each row has some 300 bytes: 3,000 do not go into a file of 300 kB.
MANY = [{"query": f"query {i}", "pos": [TEXTS[i % 3] * 4]} for i in range(3000)]


def start(folder: Path, *words: str, limit: int | None = None) -> Any:
    tokenize.save(tiny_tokenizer(), _made(folder / "tokenizer"), max_length=64)
    command = [sys.executable, "-m", "m3jax.prepare", "--input", f"{folder}/a.jsonl"]
    command += ["--tokenizer", f"{folder}/tokenizer", "--output", f"{folder}/out"]
    command += ["--cache", f"{folder}/cache", *words]
    if limit is not None:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$0" "$@"', *command]
    # A shell that starts this in the background has it ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        signal.signal(signal.SIGINT, before)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _running(folder: Path) -> list[str]:
    """Processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"M3JAX_MARK={folder}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            pass
    return found


def test_stopped_killed_and_run_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, out = MANY * 4, tmp_path / "out"
    write_jsonl(tmp_path / "a.jsonl", rows)
    words = "--shards", "24", "--processes", "2"
    monkeypatch.setenv("M3JAX_MARK", str(tmp_path))
    kept: dict[str, int] = {}
    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        running = start(tmp_path, *words)
        _wait(lambda: len(_shards(out)) > len(kept))  # noqa: B023
        running.send_signal(sent)
        _, told = running.communicate(timeout=60)
        assert running.returncode == code, told
        if sent == signal.SIGINT:
            last = told.splitlines()[-1]
            assert last.startswith("interrupted; run the same command again")
        _wait(lambda: not _running(tmp_path))
        shards = _shards(out)
        # What was finished stays as it is.
        assert kept.items() <= shards.items() and len(kept) < len(shards) < 24
        kept = shards
    running = start(tmp_path, *words)
    said, told = running.communicate(timeout=60)
    assert running.returncode == 0, told
    assert told.count("was there") == len(kept)
    assert said == f"{out}: 12,000 rows (pairs); 0 queries and 0 passages were cut\n"
    assert kept.items() <= _shards(out).items() and len(_shards(out)) == 24
    assert len(list(out.iterdir())) == 25
    digests = [tokenised.texts_of(one)[0].digest for one in content(open_prepared(out))]
    assert digests == [content_hash(row["query"]) for row in rows]


def _shards(out: Path) -> dict[str, int]:
    """Finished shards, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.array_*")}


def _wait(done: Callable[[], bool]) -> None:
    until = time.time() + 60
    while not done():
        assert time.time() < until
        time.sleep(0.005)


def test_a_full_disk(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", MANY)
    blocks = (tmp_path / "a.jsonl").stat().st_size // 4 // 1024
    running = start(tmp_path, "--processes", "0", limit=blocks)
    said, told = running.communicate(timeout=60)
    assert (running.returncode, said) == (2, "")
    assert told.startswith("error: ") and told.count("\n") == 1
    assert "expected a file size within the limit, found file too large" in told
    assert not list((tmp_path / "out").glob("*shard*"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(*words: Any) -> Any:
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, words)])
        program.main()
        return capsys.readouterr()

    return run


def test_the_program(tmp_path: Path, run: Any) -> None:
    rows = [{"frage": row["query"], "antwort": row["pos"][0]} for row in ROWS]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    words = [
        "--input",
        path,
        "--tokenizer",
        GOLDEN / "qwen3",
        "--cache",
        tmp_path / "c",
    ]
    words += ["--output", tmp_path / "out", "--columns", "frage", "antwort"]
    said = run(*words, "--processes", 0, "--passage-length", 9)
    assert said.out == (
        f"{tmp_path}/out: 12 rows (pairs); 0 queries and 12 passages were cut\n"
    )
    shard = "shard-00000-of-00001.array_record: 12 rows, 0 queries and 12 passages "
    assert said.err == f"{shard}were too long and cut\n"
    found = open_prepared(tmp_path / "out")
    # The model's own tokenizer, with the token that it pools at the end.
    (end,) = {int(record.query.ids[-1]) for record in content(found)}
    tokenizer = tokenize.load(GOLDEN / "qwen3")
    assert tokenizer.backend.id_to_token(end) == "<|endoftext|>"
    assert found.end_tokens == 1


def test_flags_of_the_program(tmp_path: Path, run: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    words = ["--input", path, "--output", tmp_path / "out", "--cache", tmp_path / "c"]
    with pytest.raises(
        InputError, match="nowhere: expected a local folder, or a hub id"
    ):
        run(*words, "--tokenizer", "nowhere")
    words += ["--tokenizer", GOLDEN / "bert"]
    with pytest.raises(InputError, match=r"^--query-length: expected at least 3"):
        run(*words, "--query-length", 1)
    with pytest.raises(InputError, match=r"^--shards: expected a positive number"):
        run(*words, "--shards", 0)
    with pytest.raises(InputError, match=r"b\.jsonl: .*Did you mean .*a\.jsonl"):
        run(*words, "--input", tmp_path / "b.jsonl")
    assert "JAX_PLATFORMS" in os.environ


def test_its_processes_import_no_jax() -> None:
    names = "prepare, shard_folder, tokenised", "array_records, arrow, tfds, parquet"
    code = (
        f"import sys; from m3jax.data import {names[0]}\n"
        f"from m3jax.data.sources import {names[1]}\n"
        "heavy = {'jax', 'datasets', 'tensorflow_datasets', 'pyarrow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
