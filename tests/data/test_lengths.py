import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from m3jax.core.errors import InputError
from m3jax.data import layouts, lengths, token_counts
from m3jax.data.columns import column
from m3jax.data.lengths import Lengths, measure
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text
from m3jax.data.scan import Scan, scan
from m3jax.data.sources.base import Read, Source
from m3jax.data.sources.lines import open_lines
from m3jax.data.sources.listed import listed
from m3jax.data.tokenised import TokenText
from m3jax.data.tokenize import Tokenizer


def tokenizer(words: Sequence[str] = ()) -> Tokenizer:
    """A token a word, and one at both ends."""
    vocabulary = {word: i for i, word in enumerate(["?", "<", ">", *words])}
    backend = Backend(WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="< $A >", special_tokens=[("<", 1), (">", 2)]
    )
    return Tokenizer(backend, 0, {})


def measured(
    source: Source,
    root: Path,
    *,
    query_prompts: Sequence[str] = ("",),
    passage_prompt: str | None = "",
    negatives: bool = True,
    **options,
) -> Lengths:
    found = options.pop("scan", None) or scan(source, root=root)
    return measure(
        source,
        found,
        options.pop("tokenizer", None) or tokenizer(),
        query_prompts=query_prompts,
        passage_prompt=passage_prompt,
        negatives=negatives,
        root=root,
        **options,
    )


def words(count: int) -> str:
    return " ".join("word" for _ in range(count))


PAIRS = [
    Pairs(words(1 + i % 7), (words(2), words(1 + i % 5)), (words(i % 11 + 1),))
    for i in range(25)
]
QUERIES = [3 + i % 7 for i in range(25)]
POSITIVES = [2 + max(2, 1 + i % 5) for i in range(25)]
ALL = [max(POSITIVES[i], 2 + i % 11 + 1) for i in range(25)]


@pytest.mark.parametrize("at_once", [1, 20, 10**6])
@pytest.mark.parametrize("block", [1, 10, 100])
def test_the_longest_text_of_each_row(
    tmp_path: Path, monkeypatch, block: int, at_once: int
):
    monkeypatch.setattr(lengths, "BLOCK", block)
    monkeypatch.setattr(token_counts, "_AT_ONCE", at_once)
    source = listed("mine", PAIRS)
    found = measured(source, tmp_path)
    assert found.query.dtype == found.passage.dtype == np.int32
    assert found.query.tolist() == QUERIES
    assert found.passage.tolist() == ALL
    found = measured(source, tmp_path, negatives=False)
    assert found.passage.tolist() == POSITIVES


@pytest.mark.parametrize(
    ("row", "query", "passage"),
    [
        (Text(words(4)), 6, 6),
        (Scored(words(2), words(5), 1.0), 4, 7),
        (Labelled(words(3), words(9)), 5, 5),
        (Pairs(words(1), (words(2),), ("",)), 3, 4),
    ],
)
def test_every_kind_of_record(tmp_path: Path, row: Record, query: int, passage: int):
    found = measured(listed("mine", [row]), tmp_path)
    assert (found.query.tolist(), found.passage.tolist()) == ([query], [passage])


def test_prompts_count(tmp_path: Path):
    rows = [Pairs("a", ("b",)), Pairs("a", ("b",), prompt="1 2 "), Pairs("a", ("b",))]
    source = listed("mine", rows)
    found = measured(
        source, tmp_path, query_prompts=["1 2 3 4 ", "1 ", ""], passage_prompt="1 2 3 "
    )
    assert found.query.tolist() == [7, 5, 7]
    assert found.passage.tolist() == [6, 6, 6]
    assert measured(source, tmp_path, query_prompts=()).query.tolist() == [3, 5, 3]
    # Where query and passage are of one kind, passages have the query's prompts.
    found = measured(
        source, tmp_path, query_prompts=["1 2 3 4 ", "1 "], passage_prompt=None
    )
    assert found.passage.tolist() == [7, 5, 7]


def test_texts_that_are_tokens_count_as_they_are(tmp_path: Path):
    def tokens(count: int):
        return TokenText(np.zeros(count, np.int32), bytes(8))

    row = Pairs(tokens(9), (tokens(4), tokens(5)))  # type: ignore[arg-type]
    found = measured(listed("mine", [row]), tmp_path, query_prompts=["no more "])
    assert (found.query.tolist(), found.passage.tolist()) == ([9], [5])


def test_only_good_rows_are_measured(tmp_path: Path):
    lines = ['{"query": "a b", "pos": ["c"]}', "{", '{"query": "d", "pos": ["e f"]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = open_lines(tmp_path / "a.jsonl", root=tmp_path)
    source = Read(rows, layouts.find("auto", (), rows.row(0)))
    found = scan(source, root=tmp_path, on_bad_row="skip")
    counted = measured(source, tmp_path, scan=found)
    assert counted.rows == 2
    assert counted.query.tolist() == [4, 3]
    assert counted.passage.tolist() == [3, 4]


# The cache


def test_lengths_are_kept(tmp_path: Path, monkeypatch, capsys):
    source = listed("mine", PAIRS)
    first = measured(source, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(lengths, "counter", None)
        assert measured(source, tmp_path) == first
    others = [
        measured(source, tmp_path, negatives=False),
        measured(source, tmp_path, query_prompts=["", "a"]),
        measured(source, tmp_path, passage_prompt="a"),
        measured(source, tmp_path, tokenizer=tokenizer(["salt"])),
        measured(listed("mine", PAIRS[1:]), tmp_path),
        measured(source, tmp_path, scan=scan(source, root=tmp_path, on_bad_row="skip")),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 7
    assert len(pickle.dumps(first)) < 500
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["query", "passage", "marks"])
@pytest.mark.parametrize("damage", ["bytes", "cut", "gone"])
def test_what_is_damaged_is_measured_again(
    tmp_path: Path, monkeypatch, capsys, name: str, damage: str
):
    monkeypatch.setattr(lengths, "BLOCK", 10)
    source = listed("mine", PAIRS)
    first = measured(source, tmp_path)
    path = Path(first.folder, f"{name}.npy")
    data = path.read_bytes()
    path.unlink()  # it may be mapped
    new = {"bytes": data[:-1] + b"?", "cut": data[:-1]}
    if damage in new:
        path.write_bytes(new[damage])
    column.cache_clear()
    if damage == "bytes":
        assert column(str(path))[-1] != np.frombuffer(data, column(str(path)).dtype)[-1]
    again = measured(source, tmp_path)
    assert again.query.tolist() == QUERIES
    assert again.passage.tolist() == ALL
    told = "" if name == "marks" and damage != "bytes" else "lengths of mine are dam"
    assert capsys.readouterr().err.startswith(told)


def test_a_source_that_changes_while_it_is_measured(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(lengths, "BLOCK", 2)
    (tmp_path / "a.txt").write_text("\n".join(words(i) for i in range(1, 9)))
    rows = open_lines(tmp_path / "a.txt", root=tmp_path, kind="text")
    source = Read(rows, layouts.find("auto", (), rows.row(0)))
    found = scan(source, root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(token_counts, "records", _changing(tmp_path / "a.txt"))
        with pytest.raises(InputError, match="found one that has changed since"):
            measured(source, tmp_path, scan=found)
    ((*_, first), (*_, second)) = list(lengths._blocks(_folder(tmp_path), 8))[:2]
    assert (first, second) == (True, False)


def _changing(path: Path):
    """Read rows; the file changes with the second block."""
    read = token_counts.records

    def records(source: Source, start: int, stop: int):
        if start:
            os.utime(path, ns=(0, 7))
        return read(source, start, stop)

    return records


def _folder(root: Path) -> Path:
    (found,) = (path for path in (root / "lengths").iterdir() if path.is_dir())
    return found


# A process that is killed


_PROGRAM = """
import sys
from pathlib import Path
from tests.data.test_lengths import long_file, measured
from m3jax.data import lengths

if __name__ == "__main__":
    lengths.BLOCK = 20
    root = Path(sys.argv[1])
    source, found = long_file(root)
    measured(source, root, scan=found, processes=2)
"""
_ROWS = 2000


@dataclass(frozen=True)
class Slow(Read):
    """Rows of a slow disk, in the process that is killed."""

    def block(self, start: int, stop: int):
        time.sleep(float(os.environ.get("SECONDS_A_BLOCK", "0")))
        return super().block(start, stop)


def long_file(root: Path) -> tuple[Source, Scan]:
    path = root / "a.txt"
    if not path.exists():
        path.write_text("\n".join(words(i % 99 + 1) for i in range(_ROWS)))
    rows = open_lines(path, root=root, kind="text")
    source = Slow(rows, layouts.find("auto", (), rows.row(0)))
    return source, scan(source, root=root)


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # not a zombie
    except OSError:
        return False


def _any(path: Path) -> bool:
    marks = lengths._readable(path, _ROWS // 20, np.uint64)
    return marks is not None and bool(marks.any())


def test_a_killed_process_leaves_what_it_measured(tmp_path: Path, monkeypatch):
    source, found = long_file(tmp_path)
    (tmp_path / "program.py").write_text(_PROGRAM)
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", here)
    monkeypatch.setenv("SECONDS_A_BLOCK", "0.05")
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path)]
    with subprocess.Popen(command) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 60
        marks: list[Path] = []
        while not marks or not _any(marks[0]):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
            marks = [*tmp_path.glob("lengths/a.txt*/marks.npy")]
        pids = children.read_text().split()
        process.send_signal(signal.SIGKILL)
    monkeypatch.delenv("SECONDS_A_BLOCK")
    monkeypatch.setattr(lengths, "BLOCK", 20)
    blocks = list(lengths._blocks(_folder(tmp_path), _ROWS))
    done = [block for block in blocks if block[2]]
    assert 0 < len(done) < len(blocks)
    read: list[int] = []
    records = token_counts.records
    monkeypatch.setattr(
        token_counts,
        "records",
        lambda source, start, stop: read.append(start) or records(source, start, stop),
    )
    counted = measured(source, tmp_path, scan=found)
    assert read == [start for start, _, is_done in blocks if not is_done]
    expected = [i % 99 + 3 for i in range(_ROWS)]
    assert counted.query.tolist() == expected
    assert counted.passage.tolist() == expected
    # Its own processes have ended with it.
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)
