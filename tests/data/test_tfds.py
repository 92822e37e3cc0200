"""Data sets of TFDS, prepared here by TFDS itself."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from m3jax.core.errors import InputError
from m3jax.data.sources.tfds import open_tfds


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Pairs, with a column of each kind."""

    VERSION = tfds.core.Version("1.0.0")
    # In a module of a package, TFDS needs importlib_resources, which it does not name.
    __module__ = "tiny_builder"

    def _info(self) -> Any:
        text = tfds.features.Text()
        columns = {
            "query": text,
            "pos": tfds.features.Sequence(text),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
            "score": tfds.features.Scalar(dtype=np.float32),
            "passages": tfds.features.Sequence({"text": text, "id": text}),
        }
        features = tfds.features.FeaturesDict(columns)
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager: Any) -> Any:
        return {"train": self._generate_examples(10), "test": iter([(0, row(0))])}

    def _generate_examples(self, count: int) -> Iterator[tuple[int, Any]]:
        for i in range(count):
            yield i, row(i)


def row(i: int) -> dict[str, Any]:
    passages = [{"text": "a", "id": "p"}] * 2
    label = "yes" if i % 2 else "no"
    pos = [f"answer {i}"] * (i % 3)
    return {
        "query": f"quéry {i}",
        "pos": pos,
        "label": label,
        "score": i / 2,
        "passages": passages,
    }


def expected(i: int) -> dict[str, Any]:
    return {**row(i), "passages": {"text": ["a", "a"], "id": ["p", "p"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tfds")
    Tiny(data_dir=str(place), file_format="array_record").download_and_prepare()
    return place


def test_rows_are_plain(folder: Path) -> None:
    rows = open_tfds("tiny", data_dir=folder)
    assert len(rows) == 10
    found: list[Any] = [rows.row(i) for i in range(10)]  # in an order of its own
    assert sorted(found, key=lambda row: row["query"]) == [
        expected(i) for i in range(10)
    ]
    assert {type(row["label"]) for row in found} == {str}
    assert {type(row["score"]) for row in found} == {float}
    assert list(rows.rows(2, 99)) == found[2:]
    assert rows.where(4) == "tfds:tiny: train row 5"
    rows.check()
    with pytest.raises(IndexError):
        rows.row(10)


def test_survives_the_trip_to_a_worker(folder: Path) -> None:
    rows = open_tfds("tiny", data_dir=folder)
    rows.row(0)  # open now, but that does not travel
    data = pickle.dumps(rows)
    assert len(data) < 1500
    assert pickle.loads(data).row(3) == rows.row(3)


def test_splits_and_versions(folder: Path) -> None:
    whole = open_tfds("tiny", data_dir=folder)
    half = open_tfds("tiny:1.0.0", split="train[50%:]", data_dir=folder)
    assert [half.row(i) for i in range(len(half))] == list(whole.rows(5, 10))
    assert half.fingerprint != whole.fingerprint
    assert open_tfds("tiny", data_dir=folder).fingerprint == whole.fingerprint
    assert len(open_tfds("tiny", split="test", data_dir=folder)) == 1
    with pytest.raises(InputError) as error:
        open_tfds("tiny", split="dev", data_dir=folder)
    assert "tfds:tiny: expected a split of train, test, found 'dev'" in str(error.value)
    with pytest.raises(
        InputError, match="expected a split of train, test, found 'train"
    ):
        open_tfds("tiny", split="train[:", data_dir=folder)
    with pytest.raises(InputError, match=r"tfds:tiny:2\.0\.0: expected a data set"):
        open_tfds("tiny:2.0.0", data_dir=folder)


def test_what_was_not_prepared(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        InputError, match=r"array_record files, found none. Run `tfds bu"
    ):
        open_tfds("tiny", data_dir=tmp_path)
    made = tmp_path / "copy" / "tiny" / "1.0.0"
    made.mkdir(parents=True)
    info = (folder / "tiny" / "1.0.0" / "dataset_info.json").read_text()
    (made / "dataset_info.json").write_text(info.replace("array_record", "tfrecord"))
    features = folder / "tiny" / "1.0.0" / "features.json"
    (made / "features.json").write_bytes(features.read_bytes())
    with pytest.raises(InputError, match="array_record files, found tfrecord files"):
        open_tfds("tiny", data_dir=tmp_path / "copy")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tin", "found none of this name. Did you mean tfds:tiny?"),
        ("", "found another kind of name"),
        ("../tiny", "found another kind of name"),
        ("huggingface:squad", "found another kind of name"),
        ("tiny/none", "expected a data set of TFDS, found BuilderConfig none"),
    ],
)
def test_names(folder: Path, name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        open_tfds(name, data_dir=folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_files_that_change(tmp_path: Path) -> None:
    Tiny(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    rows = open_tfds("tiny", data_dir=tmp_path)
    file = Path(rows.files[0].path)
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-9])
    with pytest.raises(InputError, match="found one that has changed since"):
        rows.check()
    with pytest.raises(
        InputError, match="tfds:tiny: train row 1: expected a row as TF"
    ):
        open_tfds("tiny", data_dir=tmp_path).row(0)
    file.unlink()
    with pytest.raises(InputError, match="expected a file, found nothing of that name"):
        open_tfds("tiny", data_dir=tmp_path)
