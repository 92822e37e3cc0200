"""Queries of a file: all are read, and what is wrong with one is said first."""

import re
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data.queries import read_queries
from m3jax.testing import write_jsonl


def test_a_folder_has_its_own_queries(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"_id": "p", "text": "a passage"}])
    rows = [{"_id": "q", "text": "sea"}, {"_id": "r", "text": " "}]
    path = write_jsonl(tmp_path / "queries.jsonl", rows)
    said: list[str] = []
    assert read_queries(tmp_path, say=said.append) == [("q", "sea")]
    assert said == [f"{path}: 1 of 2 queries is blank and is left out: 'r'"]


def test_the_lines_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("sea\n\nmoon\n")
    assert read_queries(tmp_path / "q.txt") == [("1", "sea"), ("3", "moon")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "\n", "q.txt: expected a query a line, found an empty file"),
        ("q.jsonl", '{"_id": "q", "text": " "}', "found blank ones only: 'q'"),
        (
            "q.jsonl",
            '{"_id": "q", "text": "a"}\n{',
            "q.jsonl:2: expected a line of JSON",
        ),
        (
            "q.jsonl",
            '{"_id": "q", "text": "a"}\n' * 2,
            "q.jsonl:2: _id: expected a new",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_queries(tmp_path / name)
