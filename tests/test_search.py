"""The program that searches, on a small model and a few lines."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from m3jax import search
from m3jax.core import cli
from m3jax.core.errors import InputError
from m3jax.data import builtin
from m3jax.data.builtin import Entry
from m3jax.data.prompts import Prompts
from m3jax.hub import folder as hub
from m3jax.inference import dense_search
from m3jax.inference.embedder import Embedder
from m3jax.inference.index import Index
from m3jax.inference.reranker import Reranker
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer, write_jsonl

LINES = [*TEXTS, "a [bold]hill[/bold] of salt"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that tests must not write to."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.vocab_size)
    params = init(EmbeddingModule(config), jax.random.key(0))
    made = hub.Model(config, params, tokenizer, 64, Prompts())
    path = tmp_path_factory.mktemp("search") / "model"
    hub.save(made, path)
    return path


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Path:
    """A finished run, tested on a BEIR folder."""
    run = tmp_path / "run"
    hub.save(hub.load(model), run / "model")
    corpus(tmp_path / "beir")
    set_data(run, train="rows.jsonl", test=str(tmp_path / "beir"))
    return run


def set_data(run: Path, **data: Any) -> None:
    stages = {"first": {"data": {"train": "builtin", "test": "builtin"}}}
    stages |= {"train": {"data": {"dev": None, **data}, "steps": 3}}
    stages |= {"last": {"mesh": {"data": 1}}}
    (run / "config.json").write_text(json.dumps(stages))


def corpus(folder: Path) -> Path:
    folder.mkdir()
    rows = [{"_id": f"p{i}", "title": "", "text": text} for i, text in enumerate(LINES)]
    return write_jsonl(folder / "corpus.jsonl", rows)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Any:
    """Run the program: words of the command line, what comes on stdin -> output."""

    def call(*words: Any, typed: bytes = b"", terminal: bool = False) -> Any:
        stdin = io.TextIOWrapper(io.BytesIO(typed))
        monkeypatch.setattr(stdin, "isatty", lambda: terminal, raising=False)
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "argv", ["search", *map(str, words)])
        search.main()
        return capsys.readouterr()

    return call


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def count_builds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    built, build = [], Index.build

    def record(embedder: Embedder, corpus: Any, **options: Any) -> Index:
        rows = list(corpus)
        built.append(len(rows))
        return build(embedder, rows, **options)

    monkeypatch.setattr(Index, "build", record)
    return built


def test_ranks_the_corpus_of_the_run(run: Path, call: Any) -> None:
    found = rows(call("--model", run, "--json", *LINES[1].split()).out)
    assert [row["rank"] for row in found] == [1, 2, 3, 4]
    assert found[0]["id"] == "p1"
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)
    assert [row["text"] for row in found] == [LINES[int(row["id"][1])] for row in found]
    assert {row["query"] for row in found} == {LINES[1]}
    scores = [row["score"] for row in found]
    assert scores == sorted(scores, reverse=True)


def test_table_on_the_terminal(run: Path, call: Any) -> None:
    out = call(LINES[3], "--model", run, "--top-k", 2).out
    lines = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    cells = [line[1:-1] for line in lines if len(line) == 6]
    assert cells[0] == ["1", "1.0000", "p3", "a [bold]hill[/bold] of salt"]
    assert [row[0] for row in cells] == ["1", "2"]
    assert out.splitlines()[0].strip() == LINES[3]


def test_queries_from_a_pipe(run: Path, call: Any) -> None:
    typed = f"{LINES[2]}\n\n  {LINES[0]}".encode()
    found = rows(call("--model", run, "--json", "--top-k", 1, typed=typed).out)
    assert [(row["query"], row["id"]) for row in found] == [
        (LINES[2], "p2"),
        (LINES[0], "p0"),
    ]


@pytest.mark.parametrize("end", [b"\nignored\n", b""])
def test_queries_from_a_terminal(run: Path, call: Any, end: bytes) -> None:
    typed = f"{LINES[2]}\n".encode() + end
    output = call("--model", run, "--json", "--top-k=1", typed=typed, terminal=True)
    assert [row["id"] for row in rows(output.out)] == ["p2"]
    assert output.err.count("query: ") == 2


def test_the_corpus_is_encoded_once(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = count_builds(monkeypatch)
    first = call("--model", run, "sea", "--json")
    assert "encoding 4 passages" in first.err
    second = call("--model", run / "model", "sea", "--json")
    assert second == (first.out, "")
    assert built == [4]
    (kept,) = (run / "cache" / "index").iterdir()
    # Another corpus, other weights and --fresh are encoded anew.
    call("--model", run, "sea", "--fresh")
    assert built == [4, 4]
    write_jsonl(run.parent / "beir" / "corpus.jsonl", [{"_id": "new", "text": "sea"}])
    assert rows(call("--model", run, "sea", "--json").out)[0]["id"] == "new"
    assert built == [4, 4, 1]
    made = hub.load(run)
    params = jax.tree.map(lambda leaf: leaf * 2, made.params)
    other = hub.Model(made.config, params, made.tokenizer, 64, Prompts())
    hub.save(other, run / "model")
    call("--model", run, "sea")
    assert built == [4, 4, 1, 1]
    assert kept.exists()


def test_a_damaged_cache_is_made_again(run: Path, call: Any) -> None:
    first = call("--model", run, "sea", "--json")
    (kept,) = (run / "cache" / "index").iterdir()
    (kept / "00000" / "dense.float32.npy").write_bytes(b"half")
    again = call("--model", run, "sea", "--json")
    assert "dense.float32.npy" in again.err and "encoding the corpus again" in again.err
    assert again.out == first.out
    assert call("--model", run, "sea", "--json") == (first.out, "")


@pytest.mark.parametrize("name", ["ids", "texts"])
def test_a_damaged_text_in_the_cache(run: Path, call: Any, name: str) -> None:
    first = call("--model", run, "sea", "--json")
    (kept,) = (run / "cache" / "index").iterdir()
    data = bytearray((kept / "00000" / f"{name}.npy").read_bytes())
    data[-1] = 0xFF
    (kept / "00000" / f"{name}.npy").write_bytes(data)
    again = call("--model", run, "sea", "--json")
    message = f"{name}.npy: expected what was written, found other bytes"
    assert message in again.err and "encoding the corpus again" in again.err
    assert again.out == first.out


def kill(monkeypatch: pytest.MonkeyPatch, number: int, call: Any, *words: Any) -> None:
    """Press Ctrl-C when passages are encoded for the number-th time."""
    encode, calls = Embedder.encode_passage, []

    def dies(*words: Any, **options: Any) -> Any:
        calls.append(words)
        if len(calls) == number:
            raise KeyboardInterrupt
        return encode(*words, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "encode_passage", dies)
        call(*words)


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_search_goes_on(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    words = ("--model", run, "sea", "--json")
    expected = rows(call(*words, "--fresh").out)
    (kept,) = (run / "cache" / "index").iterdir()
    build = Index.build
    monkeypatch.setattr(
        Index,
        "build",
        lambda *words, **options: build(*words, segment_size=3, **options),
    )
    kill(monkeypatch, number, call, *words, "--fresh")
    assert len(list(kept.glob("0*"))) == number - 1
    again = call(*words)
    assert f"encoding what {kept} does not have yet" in again.err
    assert rows(again.out) == expected
    if number == 2:  # what was there was not encoded again
        assert [len(one) for one in Index.open(kept).segments] == [3, 1]
    assert call(*words) == (again.out, "")


def test_an_index_that_was_not_finished(
    three: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, path = tmp_path / "index", corpus(tmp_path / "beir")
    words = ("--model", three, "--index", index, "--json", "moon")
    kill(monkeypatch, 1, call, *words, "--corpus", path)
    message = r"expected a finished index, found one with 0 passages .*\(--corpus\)"
    with pytest.raises(InputError, match=message):
        call(*words)
    again = call(*words, "--corpus", path)
    assert again.err.endswith(f"{index}: 4 passages, 4 new\n")
    assert len(rows(again.out)) == 4
    assert call(*words) == (again.out, "")


def test_an_index_in_use_is_left_alone(
    three: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, path = tmp_path / "index", corpus(tmp_path / "beir")
    words = ("--model", three, "--index", index, "--json", "moon", "--corpus", path)
    encode, errors = Embedder.encode_passage, []

    def two(*texts: Any, **options: Any) -> Any:
        if not errors:
            for fresh in ((), ("--fresh",)):
                with pytest.raises(InputError) as error:
                    call(*words, *fresh)
                errors.append(str(error.value))
        return encode(*texts, **options)

    monkeypatch.setattr(Embedder, "encode_passage", two)
    assert len(rows(call(*words).out)) == 4
    assert len(errors) == 2
    assert all(
        "no other process writes to, found one that is in use" in e for e in errors
    )


def test_a_cache_that_cannot_be_kept(run: Path, call: Any) -> None:
    (run / "cache").write_text("in the way")
    output = call("--model", run, "sea", "--json")
    assert "the encoded corpus could not be kept" in output.err
    assert len(rows(output.out)) == 4


def test_a_plain_model_keeps_its_own_cache(
    tmp_path: Path, run: Path, call: Any
) -> None:
    plain = (run / "model").rename(tmp_path / "plain")
    call("--model", plain, "--corpus", tmp_path / "beir", "sea")
    assert len(list((plain / "cache" / "index").iterdir())) == 1


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz", "c.txt", "beir", "packed"])
def test_kinds_of_corpus(tmp_path: Path, run: Path, call: Any, name: str) -> None:
    path = tmp_path / name
    passages = [
        {"_id": "one", "text": "sea", "title": "the"},
        {"_id": "2", "text": "é"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in passages).encode()
    expected = {"one": "the sea", "2": "é"}
    if name == "c.txt":
        path.write_text("the sea\n\né\n", encoding="utf-8")
        expected = {"1": "the sea", "3": "é"}
    elif name == "packed":
        path.mkdir()
        (path / "corpus.jsonl.gz").write_bytes(gzip.compress(lines))
    elif name == "beir":
        (path / "corpus.jsonl").write_bytes(lines)
    else:
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    out = call("--model", run, "--corpus", path, "--json", "the sea").out
    assert {row["id"]: row["text"] for row in rows(out)} == expected
    assert rows(out)[0]["text"] == "the sea"


@pytest.mark.parametrize(
    "data", [{"train": "x.jsonl", "test": "builtin"}, {"train": "builtin"}]
)
def test_the_built_in_set(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch, data: dict[str, str]
) -> None:
    parts = []

    def entries(part: str) -> tuple[Entry, ...]:
        parts.append(part)
        return (Entry("os.sea", "a query", TEXTS[0]), Entry("os.moon", "b", TEXTS[2]))

    monkeypatch.setattr(builtin, "entries", entries)
    set_data(run, **data)
    found = rows(call("--model", run, "--json", TEXTS[2]).out)
    assert [row["id"] for row in found] == ["os.moon", "os.sea"]
    assert parts == ["all"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "none", "sea"], "none: expected a local folder, or a hub id"),
        (["sea"], "--model"),
        (
            ["--model", "RUN", "--top-k", "0", "a"],
            "--top-k: expected a positive number",
        ),
        (["--model", "RUN", "--topk", "1", "a"], "Did you mean --top-k?"),
        (["--model", "RUN", " "], "query: expected words to look for, found none"),
        (["--model", "RUN"], "stdin: expected a query a line, found none"),
        (["--model", "RUN", "--corpus", "none.txt", "a"], "none.txt: expected a file"),
        (
            ["--model", "MODEL", "a"],
            "--corpus: expected a corpus to search, found none",
        ),
        (
            ["--model", "RUN", "a\ud800"],
            "query: expected Unicode text, found half of a",
        ),
        (
            ["--model", "RUN", "--recall", "3", "a"],
            "--recall: expected a share above 0 and below 1, found 3",
        ),
        (
            ["--model", "RUN", "a", "--weights", "1", "2", "3"],
            "--weights: expected --mode hybrid or dense+sparse, which take weights, f",
        ),
        (
            ["--model", "MODEL", "--index", "nothere", "a"],
            "nothere: expected an index, or a --corpus to make one of, found nothing",
        ),
    ],
)
def test_errors(run: Path, model: Path, call: Any, words: Any, message: str) -> None:
    paths = {"RUN": run, "MODEL": model}
    with pytest.raises(InputError) as error:
        call(*(paths.get(word, word) for word in words))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "c.jsonl: expected a passage a line, found an empty file"),
        ('{"_id": "a"}', "c.jsonl:1: expected the key 'text'"),
        ('{"text": "a"}', "c.jsonl:1: expected the key '_id'"),
        ('{"_id": 1, "text": "a"}', "c.jsonl:1: _id: expected a string"),
        (
            '{"_id": "a", "text": "b", "title": 1}',
            "c.jsonl:1: title: expected a string",
        ),
        ('{"_id": "a", "text": "b"}\n' * 2, "c.jsonl:2: _id: expected a new _id"),
        ("sea", "c.jsonl:1: expected a line of JSON"),
    ],
)
def test_bad_corpora(
    run: Path, tmp_path: Path, call: Any, lines: str, message: str
) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(lines)
    with pytest.raises(InputError) as error:
        call("--model", run, "--corpus", path, "a")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "data", [{"train": "rows.jsonl"}, {"train": "x", "test": "no"}]
)
def test_a_run_without_a_corpus(run: Path, call: Any, data: dict[str, str]) -> None:
    set_data(run, **data)
    with pytest.raises(InputError, match=r"--corpus: .*Name a BEIR folder, a .jsonl"):
        call("--model", run, "a")


def test_a_run_that_has_not_ended(tmp_path: Path, run: Path, call: Any) -> None:
    (run / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(
        InputError, match=r"expected a run that has ended, .*same train"
    ):
        call("--model", run, "a")


def test_bytes_that_are_no_text(run: Path, call: Any) -> None:
    with pytest.raises(InputError, match="stdin:2: expected UTF-8, found byte 0xff"):
        call("--model", run, typed=b"sea\n\xff\n")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with three heads."""
    from tests.evaluation.sets import embedder

    path = tmp_path_factory.mktemp("search") / "three"
    embedder().save(path)
    return path


@pytest.mark.filterwarnings("ignore:.*were cut")
@pytest.mark.parametrize("mode", ["sparse", "multivec", "hybrid", "rrf", None])
def test_modes(three: Path, tmp_path: Path, call: Any, mode: str | None) -> None:
    corpus(tmp_path / "beir")
    words = ("--model", three, "--corpus", tmp_path / "beir", "--json", "the moon")
    found = rows(call(*words, *(("--mode", mode) if mode else ())).out)
    index = Index.build(Embedder.load(three), {f"p{i}": t for i, t in enumerate(LINES)})
    outputs = ("dense", "sparse", "multivec")
    query = Embedder.load(three).encode_query(["the moon"], outputs=outputs)
    (expected,) = index.search(query, mode=mode)
    assert [row["id"] for row in found] == [name for name, _ in expected]
    scores = [score for _, score in expected]
    assert [row["score"] for row in found] == pytest.approx(scores, abs=1e-5)


def test_why_it_was_found(three: Path, tmp_path: Path, call: Any) -> None:
    words = ("--model", three, "--corpus", corpus(tmp_path / "beir"), "--why", "moon")
    (first, *_) = rows(call(*words, "--json").out)
    assert list(first["why"]["scores"]) == ["dense", "sparse", "multivec"]
    assert {"query", "passage", "score"} == {*first["why"]["multivec"][0]}
    shown = call(*words).out
    assert "why" in shown and "multivec:" in shown and "dense" in shown
    assert "multivec:" not in call(*(word for word in words if word != "--why")).out


def test_an_index_that_grows(three: Path, tmp_path: Path, call: Any) -> None:
    lines = [{"_id": f"p{i}", "text": text} for i, text in enumerate(LINES)]
    path, index = write_jsonl(tmp_path / "c.jsonl", lines[:2]), tmp_path / "index"
    words = ("--model", three, "--index", index, "--json", "moon")
    assert len(rows(call(*words, "--corpus", path).out)) == 2
    write_jsonl(path, lines)
    for new in (2, 0):
        grown = call(*words, "--corpus", path)
        assert len(rows(grown.out)) == 4
        assert grown.err.endswith(f"{index}: 4 passages, {new} new\n")
        assert "encoding" not in grown.err
    assert sorted(one.name for one in index.iterdir()) == [
        "00000",
        "00001",
        "index.json",
    ]
    without = call(*words)  # what the index has
    assert len(rows(without.out)) == 4
    assert without.err == ""
    for flag, value in (("dim", 2), ("storage", "int8")):
        with pytest.raises(InputError, match=rf"--{flag}: expected .*, as {index} was"):
            call(*words, f"--{flag}", value)
    # What there is nothing to replace it by is not removed.
    with pytest.raises(InputError, match=r"none\.txt: expected a file"):
        call(*words, "--corpus", "none.txt", "--fresh")
    with pytest.raises(InputError, match="dim: expected a number from 1 to 16"):
        call(*words, "--corpus", path, "--fresh", "--dim", 17)
    assert call(*words).out == without.out
    write_jsonl(path, [lines[0] | {"text": "another"}])
    with pytest.raises(
        InputError, match="expected the text that the index has of 'p0'"
    ):
        call(*words, "--corpus", path)
    assert len(rows(call(*words, "--corpus", path, "--fresh").out)) == 1
    with pytest.raises(
        InputError, match="expected an index of storage int8, found one"
    ):
        call(*words, "--corpus", path, "--storage", "int8")


def test_queries_from_a_file(run: Path, tmp_path: Path, call: Any) -> None:
    (tmp_path / "q.txt").write_text(f"{LINES[2]}\n\n{LINES[0]}\n")
    words = ("--model", run, "--json", "--top-k", 1, "--queries", tmp_path / "q.txt")
    found = [(row["query_id"], row["id"]) for row in rows(call(*words).out)]
    assert found == [("1", "p2"), ("3", "p0")]
    with pytest.raises(InputError, match="expected a query or --queries, found both"):
        call(*words, "sea")


def test_a_reranker_orders_what_was_found(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shortest:
        """Says that the shortest passage is the best."""

        def score(self, pairs: Any, *, task: Any) -> Any:
            import numpy as np

            assert {query for query, _ in pairs} == {"sea"}
            return np.array([1 / len(passage) for _, passage in pairs])

    monkeypatch.setattr(Reranker, "load", lambda *words, **options: Shortest())
    words = ("--model", run, "--json", "--reranker", "short", "sea")
    found = rows(call(*words).out)
    by_length = sorted(LINES, key=len)
    assert [row["text"] for row in found] == by_length
    # It sees no more than the candidates.
    first = rows(call("--model", run, "--json", "--top-k", 2, "sea").out)
    few = rows(call(*words, "--candidates", 2, "--top-k", 1).out)
    assert few[0]["text"] == min((row["text"] for row in first), key=len)


def test_an_approximate_search_says_what_it_found(
    run: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    top_k = dense_search.top_k

    def record(*words: Any, **options: Any) -> Any:
        asked.append(options.get("recall_target"))
        return top_k(*words, **options)

    monkeypatch.setattr("m3jax.inference.segment.top_k", record)
    words = ("--model", run, "--json", "sea", "--recall", 0.9)
    output = call(*words, "--mode", "dense")
    assert "approximate search: 100.0% of the exact best 4 found" in output.err
    assert asked == [0.9, None]
    assert call(*words).out == output.out  # a model with one head needs no --mode


def test_a_mode_that_is_not_approximate(three: Path, tmp_path: Path, call: Any) -> None:
    words = ("--model", three, "--corpus", corpus(tmp_path / "beir"), "--recall", 0.9)
    message = "--recall: expected --mode dense, which can .* found --mode hybrid"
    with pytest.raises(InputError, match=message):
        call(*words, "sea")


def test_what_is_cut_or_blank_is_said(run: Path, tmp_path: Path, call: Any) -> None:
    passages = [{"_id": "a", "text": "sea"}, {"_id": "b", "text": " "}]
    path = write_jsonl(tmp_path / "c.jsonl", passages)
    (tmp_path / "q.txt").write_text("sea " * 100)
    words = ("--model", run, "--corpus", path, "--queries", tmp_path / "q.txt")
    said = call(*words).err.splitlines()
    assert said[1:] == [
        "1 passage is blank: 'b'",
        "the query is read up to 64 tokens",
    ]


def test_a_mode_without_its_head(run: Path, call: Any) -> None:
    message = "--mode: expected dense, all that the index has, found sparse"
    with pytest.raises(InputError, match=message):
        call("--model", run, "--mode", "sparse", "sea")


def test_an_error_is_one_line(capsys: pytest.CaptureFixture, call: Any) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: call("--model", "none", "sea"))
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_is_fast() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['search', '--help']\n"
        "try: runpy.run_module('m3jax.search', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'jax', 'flax', 'numpy', 'tokenizers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for flag in ("--model", "--top-k", "--corpus", "--fresh", "--json", "query"):
        assert flag in done.stdout
