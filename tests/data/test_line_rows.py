import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data import columns, offsets
from m3jax.data.lines import lines
from m3jax.data.records import Text
from m3jax.data.sources import lines as source
from m3jax.data.sources.base import Read, bad_row, records, where
from m3jax.data.sources.joined import Joined
from m3jax.data.sources.lines import LineRows, open_lines
from m3jax.data.sources.listed import listed
from m3jax.data.sources.picked import Picked

ROWS = [{"text": f"né {i}", "n": i} for i in range(300)]


def json_lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def opened(path: Path, data: bytes, **options) -> LineRows:
    path.write_bytes(data)
    return open_lines(path, root=path.parent / "cache", **options)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_rows_by_number(tmp_path: Path, pack):
    rows = opened(tmp_path / "a.jsonl", pack(json_lines(ROWS)))
    assert len(rows) == 300
    assert [rows.row(i) for i in (299, 0, 150)] == [ROWS[299], ROWS[0], ROWS[150]]
    assert list(rows.rows(7, 205)) == ROWS[7:205]
    for index in (-1, 300):
        with pytest.raises(IndexError):
            rows.row(index)


PARTS = [b"\n", b"\r\n", b"\r", b" ", b"\t\x0b", b"\x0c", b"a", b"bcdefghi", b"\x00"]
PARTS += ["né\u2028\u0085".encode(), b"\xef\xbb\xbf", b" " * 200]


@given(parts=st.lists(st.sampled_from(PARTS), max_size=30), block=st.integers(3, 40))
def test_the_same_lines_as_read_one_after_another(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], block: int
):
    folder = tmp_path_factory.mktemp("any")
    data = b"".join(parts)
    (folder / "a.txt").write_bytes(data)
    expected = [(at, line.decode()) for at, line in lines(folder / "a.txt")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offsets, "BLOCK", block)
        patch.setattr(source, "_AT_ONCE", block)
        if not expected:
            with pytest.raises(InputError, match="a row a line, found an empty file"):
                open_lines(folder / "a.txt", root=folder, kind="text")
            return
        rows = open_lines(folder / "a.txt", root=folder, kind="text")
        found = [(rows.where(i), rows.row(i)["text"]) for i in range(len(rows))]
        bulk = [row["text"] for row in rows.rows(0, len(rows))]  # type: ignore[index]
    assert found == expected
    assert bulk == [line for _, line in expected]


@pytest.mark.parametrize(
    "data", [b"", b"\xef\xbb\xbf", b"\n \r\n", gzip.compress(b"", mtime=0)]
)
def test_a_file_without_rows(tmp_path: Path, data: bytes):
    with pytest.raises(InputError, match="a: expected a row a line, found an empty"):
        opened(tmp_path / "a", data)


def test_a_bad_line_is_told_with_its_number(tmp_path: Path):
    data = b'{"a": 1}\n\n{"a": \n[1]\n\xff\n{"a": 2}'
    rows = opened(tmp_path / "a", data, name="mine")
    with pytest.raises(InputError, match=r"^mine:3: expected a line of JSON, found"):
        rows.row(1)
    with pytest.raises(
        InputError, match=r"^mine:4: expected a JSON object, found a li"
    ):
        rows.row(2)
    with pytest.raises(InputError, match=r"^mine:5: expected UTF-8, found byte 0xff"):
        rows.row(3)
    found = list(rows.rows(0, 5))
    assert found[::4] == [{"a": 1}, {"a": 2}]
    assert [getattr(bad, "where", None) for bad in found[1:4]] == ["", "", ""]
    text = open_lines(tmp_path / "a", root=tmp_path, kind="text")
    with pytest.raises(InputError, match=r"a:5: expected UTF-8"):
        text.row(3)
    assert text.row(2) == {"text": "[1]"}


def test_the_index_is_made_once(tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / "a"
    first = opened(path, json_lines(ROWS))
    with monkeypatch.context() as patch:
        patch.setattr(offsets, "line_starts", None)
        assert open_lines(path, root=tmp_path / "cache") == first
    assert capsys.readouterr().err == ""
    second = opened(path, json_lines(ROWS[:9]))
    assert len(second) == 9
    assert second.fingerprint != first.fingerprint
    assert capsys.readouterr().err == f"index of {path} is stale: rebuilt\n"
    assert len(list((tmp_path / "cache" / "lines").iterdir())) == 2  # and the lock


@pytest.mark.parametrize("damage", ["bytes", "cut", "gone", "meta"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str, capsys):
    path = tmp_path / "a"
    rows = opened(path, json_lines(ROWS))
    index = Path(rows.index, "starts.npy")
    data = index.read_bytes()
    new = {"bytes": data[:-8] + b"\1" + data[-7:], "cut": data[:-8]}
    index.unlink()  # others may have mapped it
    if damage in new:
        index.write_bytes(new[damage])
    if damage == "meta":
        index.write_bytes(data)
        Path(rows.index, columns.META).write_text('{"facts": {"rows": 7}, ')
    again = open_lines(path, root=tmp_path / "cache")
    assert capsys.readouterr().err == f"index of {path} is damaged: rebuilt\n"
    assert index.read_bytes() == data
    assert again == rows
    assert list(again.rows(0, 300)) == ROWS


def test_a_file_that_changes_stops_the_reader(tmp_path: Path):
    rows = opened(tmp_path / "a", json_lines(ROWS))
    rows.check()
    os.utime(tmp_path / "a", ns=(0, 7))
    with pytest.raises(
        InputError, match="the file as it was when it was opened, found"
    ):
        rows.check()
    os.truncate(tmp_path / "a", 100)
    for read in (lambda: rows.row(200), lambda: list(rows.rows(0, 300))):
        with pytest.raises(InputError, match=r"a: .* found one that has changed since"):
            read()
    (tmp_path / "a").write_bytes(json_lines(ROWS[::-1]).replace(b"\n", b" ", 9))
    with pytest.raises(InputError, match="found one that has changed since"):
        list(rows.rows(0, 300))


def test_a_file_that_changes_while_it_is_indexed(tmp_path: Path, monkeypatch):
    path, find = tmp_path / "a", offsets.line_starts

    def slow(*args):
        os.utime(path, ns=(0, 7))
        return find(*args)

    monkeypatch.setattr(offsets, "line_starts", slow)
    with pytest.raises(InputError, match="found one that has changed since"):
        opened(path, json_lines(ROWS))
    assert not list((tmp_path / "cache" / "lines").glob("a-*"))


def test_the_fingerprint_tells_files_apart(tmp_path: Path):
    seen = set()
    for name, data, time in [
        ("a", b"{} 1", 1),
        ("b", b"{} 1", 1),
        ("a", b"{} 2", 1),
        ("a", b"{} 1", 2),
        ("a", b"{}  1", 1),
    ]:
        (tmp_path / name).write_bytes(data)
        os.utime(tmp_path / name, ns=(time, time))
        root = tmp_path / str(len(seen))
        seen.add(open_lines(tmp_path / name, root=root).fingerprint)
    assert len(seen) == 5
    # Where the file lies does not matter: another host has it in another folder.
    (tmp_path / "x").mkdir()
    (tmp_path / "a").rename(tmp_path / "x" / "a")
    assert open_lines(tmp_path / "x" / "a", root=tmp_path).fingerprint in seen


def test_rows_pickle_small_and_read_in_another_place(tmp_path: Path):
    rows = opened(tmp_path / "a", json_lines(ROWS))
    rows.row(0)
    data = pickle.dumps(rows)
    assert len(data) < 1000
    assert pickle.loads(data).row(5) == ROWS[5]


def test_few_files_are_open_at_once(tmp_path: Path):
    every = [opened(tmp_path / f"{i}", b'{"n": %d}' % i) for i in range(140)]
    assert [rows.row(0)["n"] for rows in every] == list(range(140))
    handles = Path(f"/proc/{os.getpid()}/fd").iterdir()
    found = [handle for handle in handles if handle.exists()]
    assert sum(handle.resolve().parent == tmp_path for handle in found) == 128


def test_a_file_stays_open_while_it_is_read(tmp_path: Path, monkeypatch):
    """Another thread may open so many files meanwhile that this one is forgotten."""
    rows = opened(tmp_path / "a", json_lines(ROWS))
    read, preadv = os.pread, os.preadv

    def forgotten(function):
        def call(*arguments):
            source._opened_file.cache_clear()
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "pread", forgotten(read))
    monkeypatch.setattr(os, "preadv", forgotten(preadv))
    assert rows.row(5) == ROWS[5]
    assert list(rows.rows(2, 4)) == ROWS[2:4]


def test_a_url_of_lines(tmp_path: Path):
    fsspec.filesystem("memory").pipe(
        "/b/rows.jsonl.gz", gzip.compress(json_lines(ROWS))
    )
    rows = open_lines("memory://b/rows.jsonl.gz", root=tmp_path)
    assert rows.row(7) == ROWS[7]
    assert rows.where(7) == "memory://b/rows.jsonl.gz:8"


# Sources made of others


class Layout:
    name = "texts"
    grouped = ()

    @staticmethod
    def read(row) -> Text:
        if not row.get("text"):
            raise InputError("a text", "none", where="text")
        return Text(row["text"])


TEXTS = [{"text": str(i)} for i in range(4)]


def read(path: Path, rows: Sequence[Mapping[str, object]]) -> Read:
    return Read(opened(path, json_lines(rows)), Layout)  # type: ignore[arg-type]


def test_sources_one_after_another(tmp_path: Path):
    ab = read(tmp_path / "a", TEXTS[:1]), read(tmp_path / "b", TEXTS[1:])
    joined = Joined((ab[0], listed("none", []), ab[1]))
    expected = [Text(str(i)) for i in range(4)]
    assert len(joined) == 4
    assert [joined[i] for i in range(4)] == expected
    assert list(records(joined, 0, 4)) == expected
    assert list(records(joined, 1, 3)) == expected[1:3]
    assert where(joined, 2) == f"{tmp_path}/b:2"
    assert joined.name == f"{tmp_path}/a and 2 more"
    for index in (-1, 4):
        with pytest.raises(IndexError):
            joined[index]
    other = Joined((ab[1], listed("none", []), ab[0]))
    assert joined.fingerprint != other.fingerprint
    joined.check()
    os.utime(tmp_path / "b", ns=(0, 7))
    with pytest.raises(InputError, match="b: expected the file as it was"):
        joined.check()


def test_bad_rows_come_as_errors(tmp_path: Path):
    rows = read(tmp_path / "a", [*TEXTS, {"text": ""}])
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes() + b"{\n")
    rows = Read(open_lines(tmp_path / "a", root=tmp_path), rows.layout)
    found = list(records(rows, 3, 6))
    assert found[0] == Text("3")
    assert [type(bad) for bad in found[1:]] == [InputError, InputError]
    assert str(bad_row(rows, 4)) == f"{tmp_path}/a:5: text: expected a text, found none"
    assert bad_row(rows, 5).where == f"{tmp_path}/a:6"
    # A row that is good again is a file that has changed.
    assert "one that has changed" in str(bad_row(rows, 0))
    assert where(listed("mine", []), 4) == "mine: row 5"


def test_some_rows_of_a_source(tmp_path: Path):
    source = listed("mine", [Text(str(i)) for i in range(9)])
    np.save(tmp_path / "some.npy", np.array([1, 4, 5]))
    some = Picked(source, str(tmp_path / "some.npy"), 3)
    assert [some[i] for i in range(3)] == [Text("1"), Text("4"), Text("5")]
    assert list(records(some, 0, 3)) == [Text("1"), Text("4"), Text("5")]
    assert list(records(some, 1, 2)) == [Text("4")]
    assert list(records(some, 2, 2)) == []
    assert where(some, 1) == "mine: row 5"
    assert some.fingerprint != source.fingerprint
    with pytest.raises(IndexError):
        some[3]


def test_reading_needs_no_jax():
    code = "import m3jax.data.sources.lines, m3jax.data.scan, m3jax.data.token_counts"
    heavy = ("jax", "transformers", "grain", "pyarrow", "datasets", "fsspec")
    check = f"import sys; print([x for x in {heavy} if x in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], capture_output=True, check=True
    )
    assert found.stdout == b"[]\n"
