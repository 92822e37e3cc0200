"""Tables of `datasets` and Parquet, memory-mapped."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets.exceptions import DatasetNotFoundError

from m3jax.core.errors import InputError
from m3jax.data.sources import hub_dataset
from m3jax.data.sources.arrow import ArrowRows, open_hub, open_parquet, open_saved

TEXTS = [f"text é{i}" for i in range(25)]
FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        "label": datasets.ClassLabel(names=["no", "yes"]),
        "neg": datasets.List(datasets.Value("string")),
    }
)


def row(i: int) -> dict[str, Any]:
    return {"text": TEXTS[i], "label": ["no", "yes", -1][i % 3], "neg": ["x"] * (i % 3)}


def table() -> datasets.Dataset:
    columns = {
        "text": TEXTS,
        "label": [[0, 1, -1][i % 3] for i in range(25)],
        "neg": [["x"] * (i % 3) for i in range(25)],
    }
    return datasets.Dataset.from_dict(columns, features=FEATURES)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def check(rows: ArrowRows) -> None:
    assert len(rows) == 25
    assert rows.columns == ("text", "label", "neg")
    assert [rows.row(i) for i in range(25)] == [row(i) for i in range(25)]
    assert list(rows.rows(3, 21)) == [row(i) for i in range(3, 21)]
    assert list(rows.rows(0, 25)) == [row(i) for i in range(25)]
    assert list(rows.row(0)) == ["text", "label", "neg"]
    assert rows.where(16) == f"{rows.name}: row 17"
    with pytest.raises(IndexError):
        rows.row(25)
    with pytest.raises(IndexError):
        rows.row(-1)
    rows.check()


def test_a_saved_data_set(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "a", num_shards=2)
    rows = open_saved(tmp_path / "a")
    assert len(rows.files) == 2
    check(rows)
    # What is pickled are names of files; an open file would not go at all.
    assert len(pickle.dumps(rows)) < 1000
    check(pickle.loads(pickle.dumps(rows)))
    assert open_saved(tmp_path / "a").fingerprint == rows.fingerprint
    table().select(range(9)).save_to_disk(tmp_path / "b")
    assert open_saved(tmp_path / "b").fingerprint != rows.fingerprint


def test_saved_splits(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": table(), "test": table().select(range(4, 9))})
    both.save_to_disk(tmp_path / "a")
    check(open_saved(tmp_path / "a"))
    assert open_saved(tmp_path / "a", "test").row(0) == row(4)
    with pytest.raises(InputError, match=r"a: expected a split of \['train', 'test'\]"):
        open_saved(tmp_path / "a", "dev")


def test_a_saved_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found neither"):
        open_saved(tmp_path)
    (tmp_path / "news").mkdir()
    with pytest.raises(InputError, match=r"no such folder. Did you mean .*news\?"):
        open_saved(tmp_path / "new")
    for state, message in [
        ("[", "state.json: expected a JSON object"),
        ("{}", "expected a _fingerprint"),
        ('{"_fingerprint": "a"}', "news: expected a file of rows, found none"),
        (
            '{"_fingerprint": "a", "_data_files": [{"filename": "a"}]}',
            "a: expected a f",
        ),
        (
            '{"_fingerprint": "a", "_data_files": [{"filename": "../a"}]}',
            r"state.json: expected names of files beside it, found '../a'",
        ),
        (
            '{"_fingerprint": "a", "_data_files": [], "_indices_data_files": [1]}',
            "found a file of row numbers",
        ),
    ]:
        (tmp_path / "news" / "state.json").write_text(state)
        with pytest.raises(InputError, match=message):
            open_saved(tmp_path / "news")


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.97])
def test_a_truncated_arrow_file(tmp_path: Path, keep: float) -> None:
    table().save_to_disk(tmp_path / "a")
    (file,) = (tmp_path / "a").glob("*.arrow")
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(InputError, match=r"\.arrow: expected a whole Arrow file"):
        open_saved(tmp_path / "a")


def test_parquet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, cache = tmp_path / "a.parquet", tmp_path / "cache"
    table().to_parquet(str(path))
    rows = open_parquet([path], cache)
    check(rows)
    (made,) = (cache / "parquet").glob("[!.]*")
    time = made.stat().st_mtime_ns
    again = open_parquet([path], cache)
    assert again == rows and made.stat().st_mtime_ns == time
    # A damaged file in the cache is made again, and that is said.
    made.write_bytes(made.read_bytes()[:200])
    check(open_parquet([path], cache))
    assert capfd.readouterr().err == f"{made} is damaged: converted again\n"
    # One that has changed is noticed while it is read, and converted when opened.
    table().select(range(5)).to_parquet(str(path))
    with pytest.raises(InputError, match=r"a\.parquet: expected the file as it was"):
        rows.check()
    changed = open_parquet([path], cache)
    assert len(changed) == 5 and changed.fingerprint != rows.fingerprint
    assert not made.exists()
    path.unlink()
    with pytest.raises(InputError, match=r"a\.parquet: .* found none any more"):
        changed.check()
    assert capfd.readouterr().err == ""


def test_several_parquet_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    table().select(range(10)).to_parquet(str(paths[0]))
    table().select(range(10, 25)).to_parquet(str(paths[1]), batch_size=4)
    check(open_parquet(paths, tmp_path / "cache", name=f"{tmp_path}/*.parquet"))
    table().remove_columns("neg").to_parquet(str(paths[1]))
    with pytest.raises(InputError) as error:
        open_parquet(paths, tmp_path / "cache")
    expected = f"{paths[1]}: expected the columns of {paths[0]}: text, label, neg,"
    assert str(error.value).startswith(expected)


def test_parquet_of_other_programs(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "a", "c"]).dictionary_encode()
    other = pa.table({"a": words, "b": pa.array([1.5, None, 2, 3])})
    other = other.replace_schema_metadata({"huggingface": "mine", "pandas": "{}"})
    pq.write_table(other, tmp_path / "a.parquet", row_group_size=2)
    rows = open_parquet([tmp_path / "a.parquet"], tmp_path / "cache")
    assert list(rows.rows(1, 3)) == [{"a": "b", "b": None}, {"a": "a", "b": 2.0}]
    assert rows.row(3) == {"a": "c", "b": 3.0}


@pytest.mark.parametrize("kind", ["truncated", "foreign", "empty", "flipped", "sum"])
def test_a_bad_parquet_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.parquet"
    columns = pa.table({"text": [f"{i}" * 50 for i in range(2000)]})
    options: Any = {"write_page_checksum": True, "use_dictionary": False}
    packing = "none" if kind == "sum" else "zstd"
    pq.write_table(columns, path, compression=packing, **options)
    whole = bytearray(path.read_bytes())
    if kind == "flipped":  # the end, with the description, is whole
        whole[300] ^= 255
    elif kind == "sum":  # one letter is another
        whole[whole.index(b"1500" * 50)] ^= 1
    content = {"truncated": whole[:-100], "foreign": b"text\n" * 99}
    content |= {"flipped": whole, "sum": whole}
    path.write_bytes(content.get(kind, b""))
    with pytest.raises(InputError, match=r"a\.parquet: expected a Parquet") as error:
        open_parquet([path], tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("[!.]*.arrow")) + list(tmp_path.rglob("*.tmp"))


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    table().to_parquet(str(path))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 9))
    with pytest.raises(InputError, match=r"parquet: expected 0\.0 GB of free"):
        open_parquet([path], tmp_path / "cache")
    monkeypatch.undo()

    def full(path: str, mode: str) -> None:
        raise OSError(errno.ENOSPC, "Error writing")

    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(OSError, match=r"No space left.*: '.*parquet/a") as error:
        open_parquet([path], tmp_path / "cache")
    assert error.value.errno == errno.ENOSPC


def cached(root: Path, folder: str) -> None:
    """What `datasets` leaves in its cache after a download."""
    table().to_parquet(str(root / "a.parquet"))
    datasets.load_dataset(
        "parquet", data_files={"train": str(root / "a.parquet")}, cache_dir=str(root)
    )
    (made,) = (root / "parquet").glob("default-*/0.0.0/*/")
    place = root / "hub" / folder / "default" / "0.0.0" / "abc"
    shutil.copytree(made, place)
    (old,) = place.glob("*.arrow")
    old.rename(place / f"{folder.rpartition('___')[2]}-train.arrow")
    info = json.loads((place / "dataset_info.json").read_text())
    info |= {"dataset_name": folder.rpartition("___")[2], "config_name": "default"}
    (place / "dataset_info.json").write_text(json.dumps(info))


def test_a_data_set_in_the_hubs_cache(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cached(tmp_path, "owner___name")
    capfd.readouterr()
    datasets.enable_progress_bars()
    rows = open_hub("owner/name", root=tmp_path)
    assert datasets.utils.is_progress_bar_enabled()
    assert rows.name == "owner/name"
    check(rows)
    assert open_hub("owner/name", root=tmp_path).fingerprint == rows.fingerprint
    with pytest.raises(InputError, match="a data set with split dev, found Unknown"):
        open_hub("owner/name", split="dev", root=tmp_path)
    with pytest.raises(InputError, match="with subset a, split train, found"):
        open_hub("owner/name", subset="a", root=tmp_path)
    with pytest.raises(InputError, match="expected a whole split, such as train"):
        open_hub("owner/name", split="train[:5]", root=tmp_path)
    assert capfd.readouterr() == ("", "")


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        open_hub("owner/none", root=tmp_path)
    assert str(error.value) == (
        "owner/none: expected a data set in the cache, or a network to fetch it, found "
        "neither: HF_HUB_OFFLINE is set. Name a local file or folder, or try again "
        "with a network."
    )


def test_what_the_hub_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, before = DatasetNotFoundError, datasets.logging.WARNING
    datasets.logging.set_verbosity(before)
    hub = huggingface_hub.utils.logging
    hub_before = hub.get_verbosity()
    script = RuntimeError("Dataset scripts are no longer supported, but found a.py")
    for error, message in [
        (found("Dataset 'a/b' doesn't exist"), "hub, found none of this name"),
        (found("Dataset 'a/b' is a gated dataset"), "asks for a login. Run `hf auth"),
        (script, "expected a data set of files, found one of code. Look for a copy"),
    ]:

        def fail(*args: Any, error: Exception = error, **options: Any) -> None:
            assert datasets.logging.get_verbosity() == datasets.logging.CRITICAL
            assert hub.get_verbosity() == datasets.logging.CRITICAL
            raise error

        monkeypatch.setattr(datasets, "load_dataset", fail)
        with pytest.raises(InputError, match=message):
            open_hub("a/b", root=tmp_path)
        assert datasets.logging.get_verbosity() == before
        assert hub.get_verbosity() == hub_before != datasets.logging.CRITICAL


@pytest.mark.parametrize("name", ["../a", "a/../b", "/etc", "", "hf://a/b", "a b"])
def test_no_name_of_the_hub(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="expected a data set of the Hugging Face hub"):
        hub_dataset.load(name, subset=None, split="train", root=tmp_path)


def test_a_folder_is_not_taken_for_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="found a file or folder here"):
        open_hub("owner/name", root=tmp_path)


def test_a_worker_imports_little(tmp_path: Path) -> None:
    table().save_to_disk(tmp_path / "a")
    code = (
        "import sys; from m3jax.data.sources.arrow import open_saved\n"
        f"print(open_saved({str(tmp_path / 'a')!r}).row(1)['text'])\n"
        "assert not {'jax', 'torch', 'datasets', 'pandas'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert (done.stdout.decode(), done.stderr) == ("text é1\n", b"")
