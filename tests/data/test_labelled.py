"""Texts with labels out of files, and rows that are none."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data.labelled import (
    Classification,
    Labels,
    read_classification,
    read_labelled,
)
from m3jax.testing import write_jsonl

ROWS = [
    {"text": "where is my card?", "label": "card"},
    {"label": "fee", "text": "what does it cost?", "id": 3},
    {"text": "une carte", "label": 7},
]
EXPECTED = Labels(
    ("where is my card?", "what does it cost?", "une carte"), ("card", "fee", "7")
)


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


PACKED: list[tuple[str, Callable[[bytes], bytes]]] = [
    (".jsonl", bytes),
    (".jsonl.gz", gzip.compress),
    (".jsonl.zst", zstd),
]


@pytest.mark.parametrize(("ending", "pack"), PACKED)
def test_read_labelled(tmp_path: Path, ending: str, pack: Any) -> None:
    content = "\n\n".join(map(json.dumps, ROWS)).encode()
    path = tmp_path / f"train{ending}"
    path.write_bytes(pack(content))
    assert read_labelled(path) == read_labelled(str(path)) == EXPECTED


def test_columns_of_other_names(tmp_path: Path) -> None:
    rows = [{"utterance": "hi", "intent": "greet", "text": "no", "label": "no"}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = read_labelled(path, columns=("utterance", "intent"))
    assert found == Labels(("hi",), ("greet",))


BAD = [
    (b"{]", "a.jsonl:2: expected a line of JSON"),
    (b"[]", "a.jsonl:2: expected a JSON object, found a list"),
    (b"\xff", "a.jsonl:2: expected UTF-8"),
    (b'{"text": "b"}', "a.jsonl:2: expected the key 'label', found only 'text'"),
    (b'{"label": "b"}', "a.jsonl:2: expected the key 'text', found only 'label'"),
    (b'{"text": " ", "label": "b"}', "a.jsonl:2: text: expected a text, found only"),
    (b'{"text": ["b"], "label": "b"}', "a.jsonl:2: text: expected a string, found a l"),
    (b'{"text": "b", "label": ""}', "a.jsonl:2: label: expected a text, found an emp"),
    (b'{"text": "b", "label": null}', "a.jsonl:2: label: expected a name or a whole"),
    (b'{"text": "b", "label": 0.5}', "a.jsonl:2: label: expected a name or a whole n"),
    (b'{"text": "b", "label": true}', "a.jsonl:2: label: expected a name or a whole "),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_names_file_line_and_key(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "label": "a"}\n' + line)
    with pytest.raises(InputError) as caught:
        read_labelled(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.jsonl: expected a text .* an empty file"):
        read_labelled(path)


@pytest.mark.parametrize(("ending", "pack"), PACKED)
def test_read_classification(tmp_path: Path, ending: str, pack: Any) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    write_jsonl(tmp_path / "dev.jsonl", ["not read"])
    test = {"text": "new", "label": "never seen"}
    (tmp_path / f"test{ending}").write_bytes(pack(json.dumps(test).encode()))
    expected = Classification(EXPECTED, Labels(("new",), ("never seen",)))
    assert read_classification(tmp_path) == expected
    write_jsonl(tmp_path / "dev.jsonl", ROWS[:1])
    assert read_classification(tmp_path, "dev").test.texts == EXPECTED.texts[:1]
    with pytest.raises(InputError, match=r"another split than train, .*, found train"):
        read_classification(tmp_path, "train")


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "banking").mkdir()
    with pytest.raises(InputError, match=r"nothing of that name. Did you mean .*/bank"):
        read_classification(tmp_path / "bankin")
    path = write_jsonl(tmp_path / "train.jsonl", ROWS)
    with pytest.raises(InputError, match=r"a folder with train.jsonl and .*, found a"):
        read_classification(path)
    with pytest.raises(InputError, match=r"expected test\.jsonl, .*, found none"):
        read_classification(tmp_path)
