"""The program that embeds a corpus."""

import gzip
import io
import json
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import encode
from m3jax.core import cli
from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder
from m3jax.inference.shards import open_shards
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dtype
from m3jax.testing import TEXTS, write_jsonl

GOLDEN = Path(__file__).parent / "golden"
ROWS = [{"_id": f"p{i}", "text": f"{text[:9]} {i}"} for i, text in enumerate(TEXTS * 2)]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the program: words of the command line, what comes on stdin -> output."""

    def call(*words: Any, typed: bytes = b"") -> Any:
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(typed)))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["encode", *map(str, words)])
        encode.main()
        return capsys.readouterr()

    return call


def dense(folder: Path) -> np.ndarray:
    found = [shard.encoded.dense for shard in open_shards(folder)]
    return np.concatenate([part for part in found if part is not None])


def ids(folder: Path) -> list[str]:
    return [name for shard in open_shards(folder) for name in shard.ids]


def test_a_corpus_of_bge_m3(tmp_path: Path, call: Any) -> None:
    out, file = tmp_path / "out", write_jsonl(tmp_path / "a.jsonl", ROWS)
    words = ["--model", GOLDEN / "m3", "--input", file, "--output", out]
    words += ["--outputs", "dense", "sparse", "multivec", "--shard-size", 4]
    words += ["--max-length", 8]
    said = call(*words)
    assert f"{out}: 6 texts, 6 were too long and cut, " in said.out
    assert said.out.endswith(" texts/s\n") and said.out.count("\n") == 1
    assert said.err.splitlines() == [
        "shard 00000: 4 texts encoded",
        "shard 00001: 2 texts encoded",
    ]
    assert ids(out) == [row["_id"] for row in ROWS]
    encoded = open_shards(out)[0].encoded
    parts = (encoded.dense, encoded.sparse, encoded.multivec)
    assert all(part is not None for part in parts)
    # The same command says what is there, and another one is refused.
    said = call(*words)
    assert said.out == f"{out}: 6 texts (6 were there), 6 were too long and cut\n"
    assert "shard 00001: 2 texts found" in said.err
    with pytest.raises(InputError, match="max_length: 8 -> 9"):
        call(*words[:-1], 9)
    assert "were there" not in call(*words, "--fresh").out


def test_queries_of_a_causal_model(tmp_path: Path, call: Any) -> None:
    out = tmp_path / "out"
    words = ["--model", GOLDEN / "qwen3", "--input", "-", "--output", out]
    words += ["--kind", "query", "--task", "find it", "--dim", 4]
    lines = [row["text"] for row in ROWS[:3]]
    call(*words, "--like", "Qwen/Qwen3-Embedding-0.6B", typed="\n".join(lines).encode())
    assert ids(out) == ["1", "2", "3"]
    model = Embedder.load(GOLDEN / "qwen3", like="Qwen/Qwen3-Embedding-0.6B")
    expected = model.encode_query(lines, task="find it", dim=4).dense
    assert expected is not None
    np.testing.assert_allclose(dense(out), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "beir", "-", "a.txt"])
def test_kinds_of_input(
    tmp_path: Path, call: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str]] = []

    def record(model: Any, records: Any, folder: str, **options: Any) -> list[Any]:
        seen.extend(records)
        return []

    monkeypatch.setattr("m3jax.inference.shards.encode_to", record)
    monkeypatch.setattr(encode, "_load", lambda flags: None)
    passages = [{"_id": "one", "text": "sea", "title": "the"}, {"_id": "2", "text": ""}]
    lines = "".join(json.dumps(row) + "\n" for row in passages).encode()
    expected = [("one", "the sea"), ("2", "")]
    path, typed = tmp_path / name, b""
    if name == "beir":
        path.mkdir()
        (path / "corpus.jsonl").write_bytes(lines)
    elif name == "-":
        typed, path = lines, Path("-")
    elif name == "a.txt":
        path.write_bytes(b"the sea\r\n\n{\n")
        expected = [("1", "the sea"), ("3", "{")]
    else:
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    call("--model", "m", "--input", path, "--output", "o", typed=typed)
    assert seen == expected


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "a.jsonl: expected a passage a line, found an empty file"),
        ('{"_id": "a"}', "a.jsonl:1: expected the key 'text'"),
        ('{"_id": "a", "text": 1}', "a.jsonl:1: text: expected a string, found a num"),
        ('{"_id": "a", "text": "b"}\n' * 2, "a.jsonl:2: _id: expected a new _id, fou"),
        ('{"_id": "a", "text": "b"}\nsea', "a.jsonl:2: expected a line of JSON"),
        (b'{"_id": "a", "text": "\xff"}', "a.jsonl:1: expected UTF-8, found byte 0xff"),
    ],
)
def test_bad_input(tmp_path: Path, call: Any, lines: str | bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(InputError) as error:
        call("--model", GOLDEN / "bert", "--input", path, "--output", tmp_path / "out")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard-size", "0"], "--shard-size: expected a positive number, found 0"),
        (["--dim", "-1"], "--dim: expected a positive number"),
        (["--dim", "99"], "dim: expected a width from 1 to"),
        (["--outputs", "sparse"], "outputs: expected one or more of dense"),
        (["--outputs"], "--outputs"),
        (["--task", "find"], "--task: expected --kind query with it, found passage"),
        (["--task", "find", "--kind", "query"], "takes no instruction"),
        (["--max-length", "9999"], "max_length: expected at most"),
        (["--input", "none.jsonl"], "none.jsonl: expected a file"),
        (["--model", "none"], "none: expected a local folder, or a hub id"),
        (["--modell", "x"], "Did you mean --model?"),
        (["--output", "FILE"], "expected a new or empty folder"),
    ],
)
def test_errors(tmp_path: Path, call: Any, words: list[str], message: str) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", ROWS)
    given = {"--model": GOLDEN / "bert", "--input": file, "--output": tmp_path / "out"}
    left = [x for key, value in given.items() if key not in words for x in (key, value)]
    with pytest.raises(InputError) as error:
        call(*left, *(file if word == "FILE" else word for word in words))
    assert message in str(error.value)


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str], call: Any) -> None:
    words = ("--model", "m", "--input", "none.txt", "--output", "o")
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: call(*words))
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_choices_are_those_of_the_library() -> None:
    hints = typing.get_type_hints(encode.Encode)
    assert typing.get_args(hints["dtype"]) == typing.get_args(Dtype)
    pooling = typing.get_args(hints["pooling"])[0]
    assert typing.get_args(pooling) == typing.get_args(Pooling)


def test_killed_between_shards_it_goes_on(tmp_path: Path, call: Any) -> None:
    rows = [{"_id": f"p{i}", "text": TEXTS[i % 3][:16]} for i in range(6)]
    out = tmp_path / "out"
    words = ["--model", GOLDEN / "bert", "--output", out, "--shard-size", "2"]
    # A pipe that stays open after the first texts: the program waits in a shard.
    process = subprocess.Popen(
        [sys.executable, "-m", "m3jax.encode", *map(str, words), "--input", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stderr is not None
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    process.stdin.write(b"".join(lines[:3]))
    process.stdin.flush()
    assert process.stderr.readline() == b"shard 00000: 2 texts encoded\n"
    process.kill()
    process.communicate()
    made = (out / "00000" / "dense.npy").stat().st_mtime_ns
    with pytest.raises(InputError, match="complete, found 1 shards and no end"):
        open_shards(out)
    time.sleep(0.01)
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    said = call(*words, "--input", file)
    assert "6 texts (2 were there), none cut" in said.out
    assert (out / "00000" / "dense.npy").stat().st_mtime_ns == made
    texts = [row["text"] for row in rows]
    whole = Embedder.load(GOLDEN / "bert").encode_passage(texts).dense
    assert whole is not None
    np.testing.assert_allclose(dense(out), whole, atol=1e-5)


def test_help_is_fast() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['encode', '--help']\n"
        "try: runpy.run_module('m3jax.encode', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'jax', 'flax', 'numpy', 'tokenizers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for flag in ("--model", "--shard-size", "--outputs", "--fresh", "--kind"):
        assert flag in done.stdout
    assert "--input corpus.jsonl.gz" in " ".join(done.stdout.split())
