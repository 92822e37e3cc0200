"""ArrayRecord files of JSON objects, and folders that were prepared."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from array_record.python import array_record_module  # type: ignore[import-not-found]

from m3jax.core.errors import InputError
from m3jax.data import tokenised
from m3jax.data.records import Text, content_hash
from m3jax.data.sources.array_records import open_array_record, open_prepared
from m3jax.data.sources.base import records, rows_between

ROWS = [{"query": f"quéry {i}", "pos": ["é" * i]} for i in range(2500)]


def write(path: Path, content: Sequence[bytes], options: str = "group_size:1") -> Path:
    out = array_record_module.ArrayRecordWriter(str(path), options)
    for record in content:
        out.write(record)
    out.close()
    return path


def encoded(rows: Sequence[Any]) -> list[bytes]:
    return [json.dumps(row).encode() for row in rows]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    parts = ROWS[:3], ROWS[3:3], ROWS[3:]
    return [
        write(tmp_path / f"{at}.array_record", encoded(part))
        for at, part in enumerate(parts)
    ]


def test_rows(files: list[Path]) -> None:
    rows = open_array_record(files, name="*.array_record")
    assert len(rows) == 2500 and rows.name == "*.array_record"
    assert [rows.row(i) for i in (0, 2, 3, 2499)] == [ROWS[i] for i in (0, 2, 3, 2499)]
    assert list(rows.rows(0, 2500)) == ROWS
    assert list(rows.rows(1, 1100)) == ROWS[1:1100]
    assert rows.where(2) == f"{files[0]}: record 3"
    assert rows.where(3) == f"{files[2]}: record 1"
    for index in (-1, 2500):
        with pytest.raises(IndexError):
            rows.row(index)
    rows.check()
    assert len(pickle.dumps(rows)) < 800
    assert pickle.loads(pickle.dumps(rows)).row(3) == ROWS[3]
    assert open_array_record(files).fingerprint == rows.fingerprint
    assert open_array_record(files[:1]).fingerprint != rows.fingerprint
    assert open_array_record(files[:1]).name == str(files[0])


def test_a_file_that_changes(files: list[Path]) -> None:
    rows = open_array_record(files)
    rows.row(0)
    write(files[0], encoded([{"query": "new"}]))
    with pytest.raises(
        InputError, match=r"0\.array_record: expected the file as it was"
    ):
        rows.check()
    assert open_array_record(files).row(0) == {"query": "new"}


@pytest.mark.parametrize("kind", ["half", "end", "foreign", "empty", "folder", "gone"])
def test_what_is_no_file_of_records(files: list[Path], kind: str) -> None:
    whole = files[2].read_bytes()
    content = {
        "half": whole[: len(whole) // 2],
        "end": whole[:-1],
        "foreign": b"a" * 99,
    }
    files[2].unlink()
    if kind == "folder":
        files[2].mkdir()
    elif kind != "gone":
        files[2].write_bytes(content.get(kind, b""))
    with pytest.raises(InputError) as error:
        open_array_record(files)
    found = {"folder": "found a folder", "gone": "found nothing of that name"}
    assert str(error.value).startswith(f"{files[2]}: expected a")
    assert found.get(kind, "found one that is truncated, or") in str(error.value)
    assert "\n" not in str(error.value)


def test_damage_inside(tmp_path: Path) -> None:
    content = [b"%d " % i * 500 for i in range(100)]
    path = write(tmp_path / "a", content, "group_size:1,uncompressed")
    whole = bytearray(path.read_bytes())
    at = whole.index(content[50]) + 9
    whole[at] ^= 255
    path.write_bytes(whole)
    rows = open_array_record([path])
    with pytest.raises(InputError) as error:
        rows.row(50)
    assert str(error.value).startswith(
        f"{path}: record 51: expected a record as it was"
    )
    # The others of its block are told apart from it.
    found = [one for one in rows.records.between(0, 100)]
    assert [isinstance(one, InputError) for one in found] == [
        i == 50 for i in range(100)
    ]


def test_other_records(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0]).encode()
    rows = open_array_record([write(tmp_path / "a", [good, b"\n\xff\1", b"[1]", good])])
    with pytest.raises(InputError) as error:
        rows.row(1)
    expected = f"{tmp_path}/a: record 2: expected a JSON object in each record, found "
    assert str(error.value).startswith(expected)
    assert "tfds:NAME" in str(error.value)
    found = [isinstance(row, InputError) for row in rows_between(rows, 0, 4)]
    assert found == [False, True, True, False]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    texts: list[Any] = [
        tokenised.TokenText(np.arange(i % 5, dtype=np.int32), content_hash(f"{i}"))
        for i in range(30)
    ]
    shards = []
    for at, part in enumerate((texts[:10], texts[10:])):
        name = f"shard-{at:05d}-of-00002.array_record"
        content = [tokenised.encode(Text(text)) for text in part]
        size = write(tmp_path / name, content).stat().st_size
        shards.append({"file": name, "rows": len(part), "bytes": size})
    settings = {"tokenizer": "ab", "query_prompt": "q: ", "passage_prompt": ""}
    settings |= {"query_length": 8, "passage_length": 9}
    cut = {"queries": 3, "passages": 0}
    content = {"format": 1, "kind": "text", "settings": settings, "cut": cut}
    content |= {"shards": shards, "end_tokens": 1, "bad_rows": {"count": 2}}
    (tmp_path / "prepared.json").write_text(json.dumps(content))
    return tmp_path


def test_a_prepared_folder(prepared: Path) -> None:
    source = open_prepared(prepared)
    assert (len(source), source.kind, source.name) == (30, "text", str(prepared))
    assert (source.tokenizer, source.query_prompt, source.cut_queries) == (
        "ab",
        "q: ",
        3,
    )
    assert (source.query_length, source.passage_length, source.bad_rows) == (8, 9, 2)
    found: Any = source[13]
    assert found.text.ids.tolist() == [0, 1, 2] and found.text.digest == content_hash(
        "13"
    )
    assert list(records(source, 5, 25)) == [source[i] for i in range(5, 25)]
    assert source.where(10).endswith("shard-00001-of-00002.array_record: record 1")
    assert pickle.loads(pickle.dumps(source)) == source
    source.check()
    # A copy has other times, and the same content.
    copy = prepared / "copy"
    copy.mkdir()
    for file in source.records.files:
        (copy / Path(file.path).name).write_bytes(Path(file.path).read_bytes())
    (copy / "prepared.json").write_bytes((prepared / "prepared.json").read_bytes())
    assert open_prepared(copy).fingerprint == source.fingerprint


def test_a_prepared_folder_that_is_none(prepared: Path) -> None:
    about = prepared / "prepared.json"
    text = about.read_text()
    for old, new, message in [
        ('"format": 1', '"format": 2', "expected format 1, found 2. Prepare the data"),
        (
            '"kind"',
            '"sort"',
            r"as m3jax writes it, found something else \(KeyError: 'k",
        ),
        ("{", "", r"prepared\.json: expected a line of JSON, found an error"),
        (
            '"bytes": ',
            '"bytes": 1',
            r"00000-of-00002\.array_record: expected a shard of",
        ),
        ("shard-00001", "../shard-00001", None),
        ("shard-00001", "shard-00007", "shard-00007.*: expected a file, found nothing"),
    ]:
        about.write_text(text.replace(old, new, 1))
        if message is None:  # only the folder itself is read
            open_prepared(prepared)
            continue
        with pytest.raises(InputError, match=message):
            open_prepared(prepared)
    about.unlink()
    with pytest.raises(InputError, match=r"with prepared\.json, found none"):
        open_prepared(prepared)


def test_a_record_of_another_sort(prepared: Path) -> None:
    shard = prepared / "shard-00000-of-00002.array_record"
    size = write(shard, [b"{}"]).stat().st_size
    about = json.loads((prepared / "prepared.json").read_text())
    about["shards"][0]["bytes"] = size
    (prepared / "prepared.json").write_text(json.dumps(about))
    source = open_prepared(prepared)
    with pytest.raises(
        InputError, match="record 1: expected a tokenised record, found 2"
    ):
        source[0]
    first, second = records(source, 0, 2)
    assert isinstance(first, InputError) and isinstance(second, Text)
