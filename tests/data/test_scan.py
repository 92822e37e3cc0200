import json
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import columns, layouts, processes, scan_rows
from m3jax.data import scan as module
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text, content_hash
from m3jax.data.scan import scan
from m3jax.data.sources.base import Read, records
from m3jax.data.sources.lines import open_lines
from m3jax.data.sources.listed import listed
from m3jax.data.tokenised import TokenText

PAIRS = [Pairs(f"q{i}", (f"p{i}", "x"), ("n",) * i, language="en") for i in range(5)]


# Each row in the layout that it has itself.
ANY = layouts.Layout("any", lambda row: layouts.parse(json.dumps(row), where=""))


def number(text: str) -> int:
    return int.from_bytes(content_hash(text), "little")


@pytest.mark.parametrize(
    ("rows", "kind", "query", "partner", "negatives"),
    [
        (PAIRS, "pairs", "q3", "p3", 3),
        ([Text(f"t{i}") for i in range(5)], "text", "t3", None, 0),
        ([Scored(f"a{i}", f"b{i}", 1.0) for i in range(5)], "scored", "a3", "b3", 0),
        ([Labelled(f"t{i}", f"l{i}") for i in range(5)], "labelled", "t3", "l3", 0),
    ],
)
def test_hashes_of_every_kind(
    tmp_path: Path, rows: Sequence[Record], kind, query, partner, negatives
):
    found = scan(listed("mine", rows), root=tmp_path)
    assert (found.kind, found.rows, found.bad, found.reasons) == (kind, 5, 0, ())
    assert found.query.dtype == found.partner.dtype == np.uint64
    assert len(found.query) == len(found.partner) == len(found.negatives) == 5
    assert found.query[3] == number(query)
    assert found.partner[3] == (0 if partner is None else number(partner))
    assert found.negatives[3] == negatives
    assert found.row is None


def test_the_hash_of_a_text_that_is_tokens(tmp_path: Path):
    def tokens(text: str):
        return TokenText(np.arange(3, dtype=np.int32), content_hash(text))

    row = Pairs(tokens("q"), (tokens("p"),))  # type: ignore[arg-type]
    found = scan(listed("mine", [row]), root=tmp_path)
    assert (found.query[0], found.partner[0]) == (number("q"), number("p"))


def test_many_negatives_are_capped(tmp_path: Path):
    found = scan(listed("mine", [Pairs("q", ("p",), ("n",) * 70_000)]), root=tmp_path)
    assert found.negatives[0] == 65_535


def test_languages_are_counted(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    rows = [Text("a", "en"), Text("b"), Text("c", "ko"), Text("d", "en")]
    found = scan(listed("mine", rows), root=tmp_path)
    assert found.languages == {"en": 2, "ko": 1}


# Bad rows


LINES = 60
BAD = [i for i in range(LINES) if i % 13 in (6, 7)]


def pairs_file(path: Path) -> Read:
    """Rows of a file; two in 13 are bad, each in another way."""
    lines = []
    for i in range(LINES):
        row = {"query": f"q{i}", "pos": [f"p{i}"], "language": "en"}
        lines.append(json.dumps(row | {"pos": []} if i % 13 == 6 else row))
        lines[-1] = "{" if i % 13 == 7 else lines[-1]
    path.write_text("\n".join(lines))
    rows = open_lines(path, root=path.parent / "cache")
    return Read(rows, layouts.find("auto", (), rows.row(0)))


def test_a_bad_row_stops_the_scan(tmp_path: Path, monkeypatch):
    source = pairs_file(tmp_path / "a.jsonl")
    for block in (3, 7, 100):
        monkeypatch.setattr(module, "BLOCK", block)
        with pytest.raises(InputError, match=r"a\.jsonl:7: pos: expected"):
            scan(source, root=tmp_path)
    assert not list(tmp_path.glob("scan/a*"))


@pytest.mark.parametrize("block", [3, 7, 100])
def test_bad_rows_are_left_out(tmp_path: Path, monkeypatch, block: int):
    monkeypatch.setattr(module, "BLOCK", block)
    source = pairs_file(tmp_path / "a.jsonl")
    found = scan(source, root=tmp_path, on_bad_row="skip")
    good = [i for i in range(LINES) if i not in BAD]
    assert (found.rows, found.bad) == (len(good), len(BAD))
    assert found.row is not None
    assert found.row.tolist() == good
    assert found.query.tolist() == [number(f"q{i}") for i in good]
    assert found.languages == {"en": len(good)}
    assert len(found.reasons) == len(BAD)
    assert ":7: pos: expected" in found.reasons[0]
    assert ":8: expected a line of JSON" in found.reasons[1]
    rows = found.good(source)
    assert len(rows) == len(good)
    expected = [f"q{i}" for i in good]
    assert [rows[i].query for i in range(len(good))] == expected  # type: ignore[union-attr]
    bulk = records(rows, 0, len(rows))
    assert [row.query for row in bulk] == expected  # type: ignore[union-attr]
    clean = listed("mine", PAIRS)
    assert scan(clean, root=tmp_path, on_bad_row="skip").good(clean) is clean


def test_no_more_than_20_reasons_are_kept(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)
    (tmp_path / "a").write_text("{}\n" * 50 + json.dumps({"query": "q", "pos": ["p"]}))
    rows = open_lines(tmp_path / "a", root=tmp_path)
    layout = layouts.find("auto", (), rows.row(50))
    found = scan(Read(rows, layout), root=tmp_path, on_bad_row="skip")
    assert (found.bad, len(found.reasons)) == (50, 20)
    assert f"{tmp_path}/a:20: " in found.reasons[19]


def test_nothing_but_bad_rows(tmp_path: Path):
    (tmp_path / "a").write_text("{}\n{}\n")
    rows = open_lines(tmp_path / "a", root=tmp_path)
    layout = layouts.find("flagembedding", (), {"query": "", "pos": []})
    with pytest.raises(InputError, match=r"a: .*found 2 bad ones \(.*a:1:"):
        scan(Read(rows, layout), root=tmp_path, on_bad_row="skip")
    with pytest.raises(InputError, match="none: expected a row a line, found an empty"):
        scan(listed("none", []), root=tmp_path)


@pytest.mark.parametrize("block", [1, 4])
def test_rows_of_two_kinds(tmp_path: Path, monkeypatch, block: int):
    monkeypatch.setattr(module, "BLOCK", block)
    source = listed("mine", [Text("a"), Text("b"), *[Scored("a", "b", 1.0)] * 2])
    with pytest.raises(InputError) as caught:
        scan(source, root=tmp_path, on_bad_row="skip")
    assert str(caught.value) == (
        "mine: row 3: expected rows of one kind, text as before it, found scored. "
        "Give them as two data sets."
    )


@pytest.mark.parametrize("order", ["bad first", "other kind first"])
def test_of_two_errors_the_first_is_told(tmp_path: Path, order: str):
    lines = ["{}", '{"sentence1": "a", "sentence2": "b", "score": 1}']
    lines = ['{"text": "a"}', *(lines if order == "bad first" else lines[::-1])]
    (tmp_path / "a").write_text("\n".join(lines))
    rows = open_lines(tmp_path / "a", root=tmp_path)
    with pytest.raises(InputError) as caught:
        scan(Read(rows, ANY), root=tmp_path)
    assert caught.value.where.startswith(f"{tmp_path}/a:2")
    assert ("of one kind" in caught.value.expected) == (order != "bad first")


# The cache


def test_a_scan_is_kept(tmp_path: Path, monkeypatch, capsys):
    source = listed("mine", PAIRS)
    first = scan(source, root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(scan_rows, "records", None)
        assert scan(source, root=tmp_path) == first
    assert scan(source, root=tmp_path, on_bad_row="skip").folder != first.folder
    other = scan(listed("mine", PAIRS[:3]), root=tmp_path)
    assert other.folder != first.folder
    assert other.rows == 3
    data = pickle.dumps(first)
    assert len(data) < 500
    assert pickle.loads(data).query.tolist() == first.query.tolist()
    assert capsys.readouterr().err == ""


def test_a_damaged_scan_is_made_again(tmp_path: Path, capsys):
    source = listed("mine", PAIRS)
    first = scan(source, root=tmp_path)
    expected = first.query.tolist()
    path = Path(first.folder, "query.npy")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1] + b"?")
    columns.column.cache_clear()
    assert first.query.tolist() != expected
    again = scan(source, root=tmp_path)
    assert capsys.readouterr().err == "scan of mine is damaged: rebuilt\n"
    assert again == first
    assert again.query.tolist() == expected


def test_a_source_that_changes_while_it_is_read(tmp_path: Path, monkeypatch):
    rows = open_lines(_texts(tmp_path / "a.txt", 5), root=tmp_path, kind="text")
    source = Read(rows, layouts.find("auto", (), {"text": ""}))
    read = scan_rows.records

    def change(*args):
        os.utime(tmp_path / "a.txt", ns=(0, 7))
        return read(*args)

    monkeypatch.setattr(scan_rows, "records", change)
    with pytest.raises(InputError, match="found one that has changed since"):
        scan(source, root=tmp_path)
    assert not list(tmp_path.glob("scan/a*"))


def _texts(path: Path, count: int) -> Path:
    path.write_text("\n".join(f"text {i}" for i in range(count)))
    return path


# Several processes


def test_few_rows_start_no_process(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert processes.how_many(processes.FEW - 1, None) == 0
    assert processes.how_many(processes.FEW, None) == 3
    assert processes.how_many(1, 2) == 2


def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    source = pairs_file(tmp_path / "a.jsonl")
    one = scan(source, root=tmp_path, on_bad_row="skip", processes=0)
    two = scan(source, root=tmp_path / "2", on_bad_row="skip", processes=2)
    assert two.row is not None
    assert one.row is not None
    assert two.row.tolist() == one.row.tolist()
    assert two.query.tolist() == one.query.tolist()
    assert (two.reasons, two.languages) == (one.reasons, one.languages)
    with pytest.raises(InputError, match=r"a\.jsonl:7: pos: expected"):
        scan(source, root=tmp_path / "3", processes=2)


@dataclass(frozen=True)
class Killed:
    """A source whose third row ends the process; the others tell what it imported."""

    name: str = "mine"
    fingerprint: str = "0"

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Record:
        if index == 2:
            os._exit(1)
        heavy = ("jax", "transformers", "grain", "pyarrow")
        assert not [name for name in heavy if name in sys.modules]
        return Text("text")

    def check(self) -> None:
        pass


def test_a_process_that_is_killed_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"data: expected processes .* lack of memory"):
        scan(Killed(), root=tmp_path, processes=1)
    assert not list(tmp_path.glob("scan/m*"))
