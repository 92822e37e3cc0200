import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data import layouts
from m3jax.data import lines as lines_module
from m3jax.data.lines import lines
from m3jax.data.records import Pairs, Record
from m3jax.data.sources.lines import open_lines

ROW = b'{"query": "q", "pos": ["p"]}\n'


def records(path: str | Path) -> list[Record]:
    return [layouts.parse(line, where=where) for where, line in lines(path)]


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_reads_plain_and_packed_whatever_the_name(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str
):
    path = tmp_path / name
    path.write_bytes(pack("\ufeff1\r\n\n \t\r\n{né}\n3".encode()))
    expected = [(1, b"1"), (4, "{né}".encode()), (5, b"3")]
    assert list(lines(path)) == [(f"{path}:{n}", line) for n, line in expected]


def test_lines_keeps_unicode_line_separators_inside_a_line(tmp_path: Path):
    text = json.dumps({"query": "a\u2028b\x0c", "pos": ["c"]}, ensure_ascii=False)
    (tmp_path / "a").write_text(text, encoding="utf-8")
    assert records(tmp_path / "a") == [Pairs("a\u2028b\x0c", ("c",))]


def test_the_order_is_kept(tmp_path: Path):
    rows = [Pairs(f"q{i}", (f"p{i}",), ("n",) * i) for i in range(5)]
    text = "\n".join(json.dumps(vars(row)) for row in rows)
    (tmp_path / "a").write_text(text)
    assert records(str(tmp_path / "a")) == rows


def test_a_bad_line_is_named_as_the_user_named_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(ROW + b"\n" + ROW + b'{"query": "q", "pos": [1]}\n')
    with pytest.raises(InputError, match=r"^a\.jsonl:4: pos\[0\]: expected a string"):
        records("a.jsonl")


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path):
    (tmp_path / "train.jsonl").write_bytes(ROW)
    (tmp_path / "other.csv").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        records(tmp_path / "trian.jsonl")
    assert str(caught.value) == (
        f"{tmp_path}/trian.jsonl: expected a file, found nothing of that name. "
        f"Did you mean {tmp_path}/train.jsonl?"
    )
    with pytest.raises(InputError) as caught:
        records(tmp_path / "unlike")
    assert caught.value.do == ""


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=f"There is no folder {tmp_path}/no.$"):
        records(tmp_path / "no" / "a.jsonl")


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(InputError, match="expected a file, found a folder"):
        records(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "a").write_bytes(ROW)
    with pytest.raises(InputError, match="a file where its folder should be"):
        records(tmp_path / "a" / "b")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object):
        raise PermissionError

    # Permissions do not stop root, who runs the tests in a container.
    monkeypatch.setattr(lines_module, "open", refuse, raising=False)
    with pytest.raises(InputError, match="a: expected a file, found one that may not"):
        records(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_a_file_without_rows(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    assert list(lines(tmp_path / "a")) == []
    with pytest.raises(InputError, match="a: expected a row a line, found an empty"):
        open_lines(tmp_path / "a", root=tmp_path / "cache")


WHOLE = b"".join(b'{"query": "%d", "pos": ["p"]}\n' % i for i in range(9_000))


def cut(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


def wrong_checksum(packed: bytes) -> bytes:
    return packed[:-8] + bytes(4) + packed[-4:]


def append(packed: bytes) -> bytes:
    return packed + b"tail"


def not_deflate(packed: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(WHOLE[:100_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + b"\xff" * 9  # no block begins like this


@pytest.mark.parametrize("damage", [cut, wrong_checksum, append, not_deflate])
def test_a_damaged_gzip_names_the_last_good_line(
    tmp_path: Path, damage: Callable[[bytes], bytes]
):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(WHOLE)))
    read = []
    with pytest.raises(InputError) as caught:
        for _, line in lines(path):
            read.append(line)
    assert caught.value.where == str(path)
    assert f"damaged after line {len(read)} (" in caught.value.found
    assert len(read) > 1_000
    assert read == WHOLE.splitlines()[: len(read)]
    with pytest.raises(InputError, match="expected a whole gzip file"):
        records(path)
