"""Graded pairs as sets to measure on, and what is none of them."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.similarity import read_similarity
from m3jax.data.training_sets import open_data
from m3jax.testing import write_jsonl
from tests.mixtures import write_beir

ROWS = [
    {"sentence1": f"a river {i}", "sentence2": f"the sea {i % 2}", "score": i / 4}
    for i in range(5)
]
EXPECTED = Similarity(
    tuple(f"a river {i}" for i in range(5)),
    tuple(f"the sea {i % 2}" for i in range(5)),
    (0.0, 0.25, 0.5, 0.75, 1.0),
)


def plain(folder: Path) -> str:
    return str(write_jsonl(folder / "sts.jsonl", ROWS))


def packed(folder: Path) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "sts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    return str(folder / "sts.jsonl.gz")


def parts(folder: Path) -> str:
    write_jsonl(folder / "0.jsonl", ROWS[:2])
    write_jsonl(folder / "1.jsonl", ROWS[2:])
    return str(folder / "?.jsonl")


def saved(folder: Path) -> str:
    split = {"train": ROWS[:1], "validation": ROWS, "test": ROWS}
    made: Any = {name: datasets.Dataset.from_list(rows) for name, rows in split.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def data_config(folder: Path, **fields: Any) -> DataConfig:
    train = write_jsonl(folder / "train.jsonl", [{"query": "q", "pos": ["p"]}] * 2)
    given = {"train": str(train), "batch_size": 2, "cache": str(folder / "cache")}
    return DataConfig(**given | fields)


@pytest.mark.parametrize("write", [plain, packed, parts, saved])
def test_graded_pairs_are_a_dev_and_a_test_set(tmp_path: Path, write: Any) -> None:
    name = write(tmp_path)
    data = open_data(data_config(tmp_path, dev=name, test=name))
    assert data.dev == data.test == EXPECTED
    assert data.sets[0].count == 2  # nothing is held out beside a named set


def test_a_folder_is_a_retrieval_set(tmp_path: Path) -> None:
    folder = str(write_beir(tmp_path / "beir"))
    data = open_data(data_config(tmp_path, dev=folder, test="builtin"))
    assert isinstance(data.dev, Retrieval) and isinstance(data.test, Retrieval)


def test_bad_rows_are_told_or_skipped(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", [*ROWS, ROWS[0] | {"score": "high"}]))
    with pytest.raises(InputError, match=r"a\.jsonl:6: score: expected a number"):
        read_similarity(Dataset(path), cache_folder="beside")
    skipping = Dataset(path, on_bad_row="skip")
    assert read_similarity(skipping, cache_folder="beside") == EXPECTED


REFUSED: list[tuple[list[dict[str, Any]], str]] = [
    ([{"query": "q", "pos": ["p"]}], "found pairs without a score. Queries and passa"),
    (
        [{"text": "a", "label": "b"}],
        "graded pairs .*, found texts with labels",
    ),
    ([{"text": "a"}], "found texts alone"),
    (ROWS[:1] * 3, "two scores that differ, .*, found 0.0 alone"),
    ([], "expected a row a line, found an empty file"),
]


@pytest.mark.parametrize(("rows", "message"), REFUSED)
def test_rows_of_another_kind(tmp_path: Path, rows: Any, message: str) -> None:
    path = str(write_jsonl(tmp_path / "a.jsonl", rows))
    with pytest.raises(InputError, match=message) as error:
        open_data(data_config(tmp_path, dev=path))
    assert error.value.where == path


@pytest.mark.parametrize("part", ["dev", "test"])
def test_nothing_of_that_name(tmp_path: Path, part: str) -> None:
    (tmp_path / "beir").mkdir()
    for name, do in (("bier", "Did you mean .*beir"), ("sts-b", "hf:OWNER/NAME")):
        shapes = "a folder in BEIR's layout, or graded pairs .*, found nothing of that"
        with pytest.raises(InputError, match=f"{part}: .*{name}: .*{shapes}.*{do}"):
            open_data(data_config(tmp_path, **{part: str(tmp_path / name)}))
