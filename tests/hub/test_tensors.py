"""Tensors of a folder: one file or several, whole or damaged."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from m3jax.core.errors import InputError
from m3jax.hub import torch_file
from m3jax.hub.tensors import (
    read_rows,
    read_safetensors,
    read_weights,
    write_safetensors,
    write_weights,
)

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=np.float32) / 8,
    "c": np.array([[0.5], [1.5]], np.float32),
    "d": np.array(7, np.float32),
}
SAFE, BIN = "model.safetensors", "pytorch_model.bin"


def write(folder: Path, **options: Any) -> None:
    sizes = {name: (one.shape, one.dtype) for name, one in TENSORS.items()}
    write_weights(folder, sizes, lambda: iter(TENSORS.items()), **options)


def write_bin(folder: Path) -> None:
    """Two files and their index, as transformers wrote them for years."""
    for file, names in (("pytorch_model-1.bin", "ab"), ("pytorch_model-2.bin", "cd")):
        torch_file.write(folder / file, {name: TENSORS[name] for name in names})
    place = {name: f"pytorch_model-{1 + (name > 'b')}.bin" for name in TENSORS}
    write_index(folder, place, BIN)


def write_index(folder: Path, place: Any, name: str = SAFE) -> None:
    text = json.dumps({"metadata": {}, "weight_map": place})
    (folder / f"{name}.index.json").write_text(text)


def equal(found: Any) -> None:
    assert set(found) == set(TENSORS) and len(found) == len(TENSORS)
    for name, tensor in TENSORS.items():
        assert tuple(found[name].shape) == tensor.shape
        assert np.dtype(found[name].dtype) == tensor.dtype
        everything = () if not tensor.shape else slice(None)
        np.testing.assert_array_equal(found[name][everything], tensor)
    np.testing.assert_array_equal(found["a"][1:2], TENSORS["a"][1:2])


def single_bin(folder: Path) -> None:
    torch_file.write(folder / BIN, TENSORS)


def sharded(folder: Path) -> None:
    write(folder, max_file=40)


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    SAFE: write,
    f"{SAFE}.index.json": sharded,
    BIN: single_bin,
    f"{BIN}.index.json": write_bin,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_four_layouts_are_read(name, tmp_path) -> None:
    LAYOUTS[name](tmp_path)
    found, path = read_weights(tmp_path)
    assert path == tmp_path / name
    equal(found)


def test_safetensors_come_first(tmp_path) -> None:
    torch_file.write(tmp_path / BIN, {"old": np.zeros(2, np.float32)})
    write(tmp_path)
    equal(read_weights(tmp_path)[0])


@pytest.mark.parametrize(
    ("most", "files"), [(10**9, None), (40, ["a b", "c d"]), (24, ["a", "b c", "d"])]
)
def test_files_are_no_larger_than_asked(most, files, tmp_path) -> None:
    write(tmp_path, max_file=most)
    found = {}
    for path in tmp_path.glob("*.safetensors"):
        found[path.name] = " ".join(sorted(safetensors.numpy.load_file(path)))
        assert path.stat().st_mode & 0o044 == 0o044
        with safetensors.safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}
    if files is None:
        assert found == {SAFE: "a b c d"}
        assert not (tmp_path / f"{SAFE}.index.json").exists()
        return
    count = len(files)
    names = [f"model-0000{i}-of-0000{count}.safetensors" for i in range(1, count + 1)]
    assert found == dict(zip(names, files, strict=True))
    index = json.loads((tmp_path / f"{SAFE}.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    assert {
        name: file
        for file, tensors in zip(names, files, strict=True)
        for name in tensors.split()
    } == index["weight_map"]


def test_no_more_than_a_file_is_held(tmp_path) -> None:
    given = []

    def tensors():
        for name, tensor in TENSORS.items():
            given.append((name, len(list(tmp_path.glob("*.safetensors")))))
            yield name, tensor

    sizes = {name: (one.shape, one.dtype) for name, one in TENSORS.items()}
    write_weights(tmp_path, sizes, tensors, max_file=24)
    assert given == [("a", 0), ("b", 1), ("c", 1), ("d", 2)]


def test_tensors_may_come_in_blocks(tmp_path) -> None:
    sizes = {name: (one.shape, one.dtype) for name, one in TENSORS.items()}
    taken = []

    def blocks(tensor: np.ndarray) -> Any:
        for row in tensor:
            taken.append(row)
            yield row[None]

    def tensors() -> Any:
        for name, tensor in TENSORS.items():
            yield name, blocks(tensor) if tensor.ndim else tensor

    write_weights(tmp_path, sizes, tensors)
    equal(read_weights(tmp_path)[0])
    assert len(taken) == 8
    for wrong in (lambda x: x[:1], lambda x: x.astype(np.float16)):
        given = {**TENSORS, "a": wrong(TENSORS["a"])}
        with pytest.raises(ValueError, match=r"a (has|comes)"):
            write_weights(tmp_path, sizes, lambda given=given: iter(given.items()))
    equal(read_weights(tmp_path)[0])


def test_a_transposed_tensor_is_written_row_by_row(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("m3jax.hub.tensors._BLOCK", 16)
    tensor = np.arange(35, dtype=np.float32).reshape(5, 7).T
    write_safetensors(tmp_path / SAFE, {"a": tensor})
    found = safetensors.numpy.load_file(tmp_path / SAFE)["a"]
    np.testing.assert_array_equal(found, tensor)


def test_numbers_lie_at_multiples_of_their_size(tmp_path) -> None:
    kinds = [ml_dtypes.bfloat16, np.float32, np.float16, np.float64, np.int64]
    tensors = {f"{n}": np.arange(3).astype(kind) for n, kind in enumerate(kinds)}
    write_safetensors(tmp_path / SAFE, tensors)
    data = (tmp_path / SAFE).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    with safetensors.safe_open(tmp_path / SAFE, "np") as file:
        for name, tensor in tensors.items():
            start = header[name]["data_offsets"][0]
            assert start % tensor.dtype.itemsize == 0
            np.testing.assert_array_equal(file.get_tensor(name), tensor)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_read_by_their_place(name, tmp_path) -> None:
    LAYOUTS[name](tmp_path)
    found, _ = read_weights(tmp_path)
    for key in "abc":
        for first, last in ((0, 1), (1, 2), (0, len(TENSORS[key]))):
            rows = read_rows(found[key], first, last)
            np.testing.assert_array_equal(rows, TENSORS[key][first:last])
            assert rows.dtype == TENSORS[key].dtype and rows.flags.writeable


def test_a_file_that_has_become_shorter(tmp_path) -> None:
    write(tmp_path)
    found = read_weights(tmp_path)[0]
    cut(SAFE, -9)(tmp_path)
    with pytest.raises(InputError, match="whole safetensors file, found it has become"):
        read_rows(found["c"], 0, 2)


@pytest.mark.parametrize("come", ["", "abc", "abdc", "abcx", "bacd"])
def test_other_tensors_than_announced_are_not_written(come, tmp_path) -> None:
    sizes = {name: (one.shape, one.dtype) for name, one in TENSORS.items()}
    rows = {name: TENSORS.get(name, np.ones(2)) for name in come}
    with pytest.raises(ValueError, match="were announced"):
        write_weights(tmp_path, sizes, lambda: iter(rows.items()))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
)
def test_every_float_is_read(dtype, tmp_path) -> None:
    values = np.array([[1.5, -2.25]], dtype)
    safetensors.numpy.save_file({"a": values}, tmp_path / SAFE)
    found = read_safetensors(tmp_path / SAFE)["a"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0:1], values)


def test_bits_of_eight_are_refused(tmp_path) -> None:
    values = np.zeros(2, ml_dtypes.float8_e4m3fn)
    safetensors.numpy.save_file({"a": values}, tmp_path / SAFE)
    with pytest.raises(InputError, match=f"{SAFE}: a: expected one of F64, .* F8_E4M3"):
        read_safetensors(tmp_path / SAFE)


def cut(name: str, keep: int) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:keep])

    return change


def then(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for step in steps:
            step(folder)

    return change


def mapped(place: Any) -> Callable[[Path], Any]:
    return then(sharded, lambda folder: write_index(folder, place))


ONE, TWO = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
PLACE = {"a": ONE, "b": ONE, "c": TWO, "d": TWO}
BAD = {
    # name: (what the folder holds, the file that is named, message)
    "an empty folder": (lambda _: None, "", "neither$"),
    "an h5 file": (
        lambda folder: (folder / "tf_model.h5").touch(),
        "",
        r"neither, but tf_model\.h5\. Save the model once more",
    ),
    "a cut safetensors file": (then(write, cut(SAFE, -9)), SAFE, "a whole safetensors"),
    "a cut header": (then(write, cut(SAFE, 20)), SAFE, "a whole safetensors"),
    "an empty safetensors file": (then(write, cut(SAFE, 0)), SAFE, "a whole safetens"),
    "a cut part": (then(sharded, cut(TWO, -9)), TWO, "a whole safetensors"),
    "a part is missing": (
        then(sharded, lambda folder: (folder / TWO).unlink()),
        TWO,
        "a safetensors file, found none",
    ),
    "a cut bin": (then(single_bin, cut(BIN, -99)), BIN, "a whole zip archive"),
    "an empty bin": (then(single_bin, cut(BIN, 0)), BIN, "found other bytes"),
    "a cut part of a bin": (
        then(write_bin, cut("pytorch_model-2.bin", -99)),
        "pytorch_model-2.bin",
        "a whole zip archive",
    ),
    "an index that is no JSON": (
        then(sharded, cut(f"{SAFE}.index.json", 30)),
        f"{SAFE}.index.json",
        "expected JSON",
    ),
    "no weight_map": (mapped(None), f"{SAFE}.index.json", "a weight_map"),
    "a number for a file": (
        mapped({**PLACE, "a": 3}),
        f"{SAFE}.index.json",
        "a weight_map",
    ),
    "a tensor that its file does not have": (
        mapped({**PLACE, "a": TWO}),
        f"{SAFE}.index.json",
        f"a tensor a in {TWO}, found none",
    ),
    "a tensor that the index does not have": (
        mapped({name: file for name, file in PLACE.items() if name != "b"}),
        f"{SAFE}.index.json",
        "every tensor in the index, found also b",
    ),
    **{
        f"a path out of the folder: {path}": (
            mapped({**PLACE, "a": path}),
            f"{SAFE}.index.json",
            "files inside the folder",
        )
        for path in ("../x.safetensors", "/x.safetensors", "a/../../x", "..\\x", "c:x")
    },
}


@pytest.mark.parametrize("case", BAD)
def test_bad_weights(case, tmp_path) -> None:
    make, name, message = BAD[case]
    make(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        dict(read_weights(tmp_path)[0])
    assert error.value.where == str(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [BIN, "pytorch_model-1.bin"])
def test_a_hostile_pickle_is_refused(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Evil:
        def __reduce__(self) -> Any:
            return open, ("pwned", "w")

    write_bin(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps({"a": Evil()}, 2))
    with pytest.raises(InputError, match=r"global _?io\.open") as error:
        read_weights(tmp_path)
    assert error.value.where == str(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda x: (done.append("fsync"), sync(x)))
    monkeypatch.setattr(os, "replace", lambda *x: (done.append("replace"), replace(*x)))
    write_safetensors(tmp_path / SAFE, TENSORS)
    assert done == ["fsync", "replace"]


def test_a_file_that_may_not_be_read_is_told_as_such(tmp_path, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    write(tmp_path)
    monkeypatch.setattr(safetensors, "safe_open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="expected a file that may be read, found no"):
        read_safetensors(tmp_path / SAFE)
