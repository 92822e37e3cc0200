"""Bitexts out of files and folders, and rows that are none."""

import gzip
import json
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data.bitext import Bitext, read_bitext
from m3jax.testing import write_jsonl

ROWS = [
    {"text": "Salz", "english": "salt"},
    {"english": "the sea", "text": "das Meer"},
]
EXPECTED = Bitext(("Salz", "das Meer"), ("salt", "the sea"), ("text", "english"))


def test_a_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "deu.v1.jsonl", ROWS)
    assert read_bitext(path) == read_bitext(str(path)) == {"deu.v1": EXPECTED}


def test_a_folder(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "deu.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write_jsonl(tmp_path / "cha.jsonl", [{"chamorro": "tasi", "en": "sea"}])
    (tmp_path / "README.md").write_text("not read")
    found = read_bitext(tmp_path)
    assert found == {
        "cha": Bitext(("tasi",), ("sea",), ("chamorro", "en")),
        "deu": EXPECTED,
    }
    assert list(found) == ["cha", "deu"]


def test_columns_that_are_named(tmp_path: Path) -> None:
    rows = [{"id": i, **row} for i, row in enumerate(ROWS)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    found = read_bitext(path, columns=("english", "text"))["a"]
    assert (found.first, found.second) == (EXPECTED.second, EXPECTED.first)
    assert found.columns == ("english", "text")
    for columns in (("text", "text"), ("text",), ()):
        with pytest.raises(InputError, match="columns: expected two columns that diff"):
            read_bitext(path, columns=columns)  # type: ignore[arg-type]


BAD = [
    ('{"text": "a", "english": ""}', "a.jsonl:2: english: expected a text, found an"),
    ('{"text": 1, "english": "a"}', "a.jsonl:2: text: expected a string, found a num"),
    (
        '{"text": "a", "french": "b"}',
        "a.jsonl:2: expected the columns text and english alone, as before, found "
        "text, french. Name the two columns to read.",
    ),
    ('{"text": "a", "english": "a", "c": "a"}', "a.jsonl:2: expected the columns tex"),
    ("{}", "a.jsonl:2: expected the columns text and english alone, as before, found"),
    ("[]", "a.jsonl:2: expected a JSON object, found a list"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_a_bad_row_names_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line)
    with pytest.raises(InputError) as caught:
        read_bitext(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


@pytest.mark.parametrize("row", [{"a": "x"}, {"a": "x", "b": "y", "c": "z"}, {}])
def test_not_two_columns(tmp_path: Path, row: dict[str, str]) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row])
    with pytest.raises(InputError, match=r"a\.jsonl:1: expected two columns, a text"):
        read_bitext(path)


def test_a_named_column_that_is_missing(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InputError, match=r"a\.jsonl:1: expected the key 'en', found"):
        read_bitext(path, columns=("text", "en"))


@pytest.mark.parametrize("columns", [None, ("text", "english")])
def test_nothing_to_read(tmp_path: Path, columns: tuple[str, str] | None) -> None:
    with pytest.raises(InputError, match="folder of bitexts, found no file that ends"):
        read_bitext(tmp_path, columns=columns)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(InputError, match=r"a\.jsonl: expected .*, found an empty file"):
        read_bitext(tmp_path, columns=columns)
    with pytest.raises(InputError, match=r"nothing of that name. Did you mean .*/a.js"):
        read_bitext(tmp_path / "b.jsonl", columns=columns)
