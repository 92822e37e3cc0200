import gzip
import logging
from pathlib import Path

import pytest
from huggingface_hub import constants

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks import published
from tests.evaluation.benchmarks.layouts import write_json_lines, write_parquet


def test_files_of_each_pattern_in_their_order(tmp_path: Path):
    for name in ("docs-10.gz", "docs-2.gz", "docs-0.gz", "other.txt", "in/docs-1.gz"):
        path = tmp_path / "o/n" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    docs, others = published.files("o/n", "docs-*.gz", "*.txt", root=tmp_path)
    assert [path.name for path in docs] == ["docs-0.gz", "docs-2.gz", "docs-10.gz"]
    assert [path.name for path in others] == ["other.txt"]


def test_files_come_from_the_cache_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As huggingface_hub leaves them there, names that point to nameless content.
    commit = "b3b5335604bf5ee3c4447671af975ea25143d4f5"
    cached = tmp_path / "datasets--o--n"
    folder = cached / "snapshots" / commit / "in"
    folder.mkdir(parents=True)
    write_json_lines(cached / "blobs" / "12ab", [{"_id": "p"}])
    write_parquet(cached / "blobs" / "34cd", [{"_id": "r"}])
    (folder / "a.jsonl.gz").symlink_to("../../../blobs/12ab")
    (folder / "b.parquet").symlink_to("../../../blobs/34cd")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    packed, tables = published.files("o/n", "in/*.jsonl.gz", "in/*.parquet")
    assert list(published.rows(packed + tables)) == [{"_id": "p"}, {"_id": "r"}]
    with pytest.raises(InputError) as caught:
        published.files("o/n", "out/*.parquet")
    assert str(caught.value) == (
        "hf://datasets/o/n: expected out/*.parquet, found none. HF_HUB_OFFLINE is set."
    )


def test_rows_of_many_blocks_and_files(tmp_path: Path):
    rows = [{"docid": f"{i}#0", "title": None, "text": f"{i}"} for i in range(2_500)]
    write_json_lines(tmp_path / "a.jsonl.gz", rows[:2_000])
    write_parquet(tmp_path / "b.parquet", rows[2_000:])
    files = [tmp_path / "a.jsonl.gz", tmp_path / "b.parquet"]
    assert list(published.rows(files)) == rows


def test_a_file_without_rows_has_none(tmp_path: Path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b""))
    write_parquet(tmp_path / "c.parquet", [])
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n')
    names = ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.jsonl")
    files = [tmp_path / name for name in names]
    assert list(published.rows(files)) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "json"),
        ("a.jsonl", b"no json", "json"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], "json"),
        ("a.jsonl.gz", b'{"a": 1}\n', "json"),
        ("a.parquet", b"no parquet", "parquet"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: bytes,
    kind: str,
):
    (tmp_path / name).write_bytes(content)
    logger = logging.getLogger("datasets")
    logger.addHandler(caplog.handler)
    with pytest.raises(InputError) as caught:
        list(published.rows([tmp_path / name]))
    assert str(caught.value).startswith(
        f"{tmp_path}/{name}: expected rows of {kind}, f"
    )
    assert "\n" not in str(caught.value)
    logger.removeHandler(caplog.handler)
    assert caplog.records == []


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.jsonl: expected rows of json, found"):
        list(published.rows([tmp_path / "a.jsonl"]))
