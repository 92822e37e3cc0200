"""The program that reranks, held against what the real clients say."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import rerank
from m3jax.core import cli
from m3jax.core.errors import InputError
from m3jax.testing import write_jsonl

GOLDEN = Path(__file__).parent / "golden"
XLMR = GOLDEN / "reranker_xlmr"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the program: words of the command line, what comes on stdin -> output."""

    def call(*words: Any, typed: bytes = b"", terminal: bool = False) -> Any:
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(typed)))  # type: ignore[arg-type]
        monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["rerank", *map(str, words)])
        rerank.main()
        return capsys.readouterr()

    return call


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_scores_of_the_real_client(tmp_path: Path, call: Any) -> None:
    expected = np.load(XLMR / "expected.npz")
    pairs = expected["pairs"].tolist()
    lines = [{"query": q, "passage": p, "at": i} for i, (q, p) in enumerate(pairs)]
    file = write_jsonl(tmp_path / "pairs.jsonl", lines)
    length = int(expected["max_length"])
    said = call("--model", XLMR, "--input", file, "--json", "--max-length", length)
    found = rows(said.out)
    assert sorted(row["at"] for row in found) == list(range(len(pairs)))
    for row in found:
        assert [row["query"], row["passage"]] == pairs[row["at"]]
        score = expected["score_normalized"][row["at"]]
        assert row["score"] == pytest.approx(score, abs=1e-5)
    for query in {row["query"] for row in found}:
        group = [row for row in found if row["query"] == query]
        scores = [row["score"] for row in group]
        assert scores == sorted(scores, reverse=True)
        assert [row["rank"] for row in group] == list(range(1, len(group) + 1))


def test_what_search_prints_can_be_piped(call: Any) -> None:
    texts = ["the unit of life", "a hill of salt", "water"]
    lines = [
        {"query": "what is a cell?", "rank": i + 1, "score": 9.0, "id": str(i)}
        for i in range(3)
    ]
    lines = [{**line, "text": text} for line, text in zip(lines, texts, strict=True)]
    typed = "\n".join(map(json.dumps, lines)).encode()
    found = rows(call("--model", XLMR, "--json", typed=typed).out)
    assert {row["id"]: row["text"] for row in found} == dict(
        zip("012", texts, strict=True)
    )
    assert [row["rank"] for row in found] == [1, 2, 3]
    assert all(0 < row["score"] < 1 for row in found)
    # One query for a file says the same, and shows the best.
    # The worst first: the order of the input is not that of the output.
    texts = [row["text"] for row in reversed(found)]
    typed = "\n".join(texts).encode()
    words = ["--model", XLMR, "--query", "what is a cell?", "--passages", "-"]
    again = rows(call(*words, "--json", "--top-k", 2, typed=typed).out)
    assert [row["text"] for row in again] == [row["text"] for row in found[:2]]
    assert [row["score"] for row in again] == pytest.approx(
        [row["score"] for row in found[:2]], abs=1e-6
    )
    out = call(*words, typed=typed).out
    cells = [[c.strip() for c in line.split("│")][1:-1] for line in out.splitlines()]
    cells = [row for row in cells if len(row) == 3]
    assert [row[0] for row in cells] == ["1", "2", "3"]
    assert cells[0][1:] == [f"{found[0]['score']:.4f}", found[0]["text"]]


def test_a_task_for_qwen3(tmp_path: Path, call: Any) -> None:
    folder = GOLDEN / "reranker_qwen3"
    expected = np.load(folder / "expected.npz")
    (query, passage), score = expected["pairs"][0].tolist(), expected["score"][0]
    file = write_jsonl(tmp_path / "p.jsonl", [{"query": query, "passage": passage}])
    words = ["--model", folder, "--input", file, "--json"]
    words += ["--max-length", int(expected["max_length"])]
    task = str(expected["instruction"])
    (row,) = rows(call(*words, "--task", task).out)
    assert row["score"] == pytest.approx(score, abs=1e-5)


def test_cut_pairs_are_counted(call: Any) -> None:
    words = ["--model", XLMR, "--query", "what is a cell?", "--passages", "-"]
    said = call(*words, "--max-length", 8, "--json", typed=b"the unit of life " * 9)
    assert said.err == "1 pairs were too long and cut\n"


@pytest.mark.parametrize(
    ("words", "typed", "message"),
    [
        ([], b"", "stdin: expected a query with a passage a line, found an empty fil"),
        ([], b"sea", "stdin:1: expected a line of JSON"),
        ([], b'{"query": "a"}', "stdin:1: expected the key 'passage'"),
        ([], b'{"query": 1, "text": "a"}', "stdin:1: query: expected a string"),
        (["--query", "a"], b"", "expected --query with --passages, found only --query"),
        (["--passages", "-"], b"a", "found only --passages"),
        (["--query", " ", "--passages", "-"], b"a", "--query: expected words to look"),
        (["--query", "a", "--passages", "-"], b"", "stdin: expected a passage a line"),
        (["--query", "a", "--input", "-"], b"a", "or --input, found both"),
        (["--input", "no.jsonl"], b"", "no.jsonl: expected a file"),
        (["--top-k", "0"], b"", "--top-k: expected a positive number"),
        (["--task", "x"], b'{"query": "a", "text": "b"}', "takes no instruction"),
        (["--max-length", "2"], b'{"query": "a", "text": "b"}', "max_length: expected"),
        (["--model", "none"], b'{"query": "a", "text": "b"}', "none: expected a local"),
        (["--model", GOLDEN / "bert"], b'{"query": "a", "text": "b"}', "m3jax.Embedd"),
    ],
)
def test_errors(call: Any, words: list[Any], typed: bytes, message: str) -> None:
    model = [] if "--model" in words else ["--model", XLMR]
    with pytest.raises(InputError) as error:
        call(*model, *words, typed=typed)
    assert message in str(error.value)


def test_a_terminal_is_not_waited_for(
    call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: call("--model", XLMR, terminal=True))
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "--query with --passages, or --input" in err and err.count("\n") == 1
