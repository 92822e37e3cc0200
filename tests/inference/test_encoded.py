"""Embeddings on the host: sliced, joined, kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded, concatenate

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)


def rows(encoded: Encoded) -> list[float]:
    """First column, which tells the rows apart."""
    assert encoded.dense is not None
    return encoded.dense[:, 0].tolist()


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (slice(2, 5), [4, 6, 8]),
        (slice(None, None, -1), [10, 8, 6, 4, 2, 0]),
        (np.array([5, 0, 5]), [10, 0, 10]),
        ([3], [6]),
        (np.array([True, False, False, False, False, True]), [0, 10]),
        (np.array([], int), []),
    ],
)
def test_slices(index: Any, expected: list[float]) -> None:
    part = Encoded(ROWS)[index]
    assert rows(part) == expected
    assert len(part) == len(expected)


@pytest.mark.parametrize("index", [1, np.int64(1), np.array(1)])
def test_one_row_is_refused(index: Any) -> None:
    with pytest.raises(InputError, match=r"encoded\[3:4\] keeps row 3"):
        Encoded(ROWS)[index]


def test_absent_outputs_stay_absent() -> None:
    nothing = Encoded()
    assert nothing[1:].dense is None
    assert concatenate([nothing, nothing]).dense is None
    assert len(nothing) == 0


def test_concatenate() -> None:
    parts = [Encoded(ROWS[4:]), Encoded(ROWS[:0]), Encoded(ROWS[:1])]
    assert rows(concatenate(parts)) == [8, 10, 0]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([], "no embeddings"),
        ([Encoded(ROWS), Encoded(ROWS[:, :1])], "1 and 2"),
        ([Encoded(ROWS), Encoded()], "2 and none"),
    ],
)
def test_concatenate_refuses(parts: list[Encoded], found: str) -> None:
    with pytest.raises(InputError, match=f"expected embeddings of one width.*{found}"):
        concatenate(parts)


@pytest.mark.parametrize("count", [6, 0])
def test_saved_and_mapped(tmp_path: Path, count: int) -> None:
    Encoded(ROWS[:count]).save(tmp_path / "new")
    opened = Encoded.open(tmp_path / "new").dense
    assert isinstance(opened, np.memmap)
    assert not opened.flags.writeable
    np.testing.assert_array_equal(opened, ROWS[:count])
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_saved_over_itself(tmp_path: Path) -> None:
    Encoded(ROWS).save(tmp_path / "new")
    Encoded.open(tmp_path / "new")[1:].save(tmp_path / "new")
    assert rows(Encoded.open(tmp_path / "new")) == [2, 4, 6, 8, 10]


def test_a_save_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoded(ROWS).save(tmp_path / "new")

    def full(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        Encoded(ROWS[:1]).save(tmp_path / "new")
    assert rows(Encoded.open(tmp_path / "new")) == [0, 2, 4, 6, 8, 10]
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found 'thesis.tex' in it. Name another"):
        Encoded(ROWS).save(tmp_path)
    with pytest.raises(InputError, match=r"thesis.tex: expected a new folder.* a file"):
        Encoded(ROWS).save(tmp_path / "thesis.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "dense.npy: expected an array of embeddings, found none"),
        (b"", "dense.npy: expected an array of embeddings"),
        (b"something else", "dense.npy: expected an array of embeddings"),
        (np.zeros(3, np.float32), r"expected float32 of shape \[n e\].*\(3,\)"),
        (np.zeros((3, 2)), r"expected float32 of shape \[n e\].*float64"),
        ("cut", "dense.npy: expected an array of embeddings"),
    ],
)
def test_damaged(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "dense.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "cut":
        np.save(path, ROWS)
        path.write_bytes(path.read_bytes()[:-8])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        Encoded.open(tmp_path)
