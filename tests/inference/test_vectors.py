"""Vectors in fewer bytes: what is lost, and what a file keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.vectors import Vectors

RANDOM = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
ALL = ["float32", "bfloat16", "int8"]


@pytest.mark.parametrize(
    ("storage", "size", "error"),
    [("float32", 4, 0), ("bfloat16", 2, 2**-8), ("int8", 1, 0.5 / 127)],
)
def test_what_is_lost(storage: Any, size: int, error: float) -> None:
    kept = Vectors.of(RANDOM, storage)
    assert (len(kept), kept.width, kept.storage) == (50, 12, storage)
    assert kept.values.itemsize == size
    # bfloat16 rounds each number, int8 by a share of the largest of its vector.
    peak = np.abs(RANDOM).max(axis=1, keepdims=True) if size == 1 else np.abs(RANDOM)
    assert (np.abs(kept.float32() - RANDOM) <= error * peak * 1.001).all()
    assert kept.float32().dtype == np.float32


def test_int8_of_zeros_and_of_single_numbers() -> None:
    kept = Vectors.of(np.array([[0, 0], [0, -3e-30], [5, 0]], np.float32), "int8")
    np.testing.assert_allclose(kept.float32(), [[0, 0], [0, -3e-30], [5, 0]], rtol=1e-6)
    assert len(Vectors.of(np.empty((0, 3), np.float32), "int8")) == 0


@pytest.mark.parametrize("storage", ALL)
def test_written_and_opened(tmp_path: Path, storage: Any) -> None:
    kept = Vectors.of(RANDOM, storage)
    kept.write(tmp_path, "dense")
    opened = Vectors.open(tmp_path, "dense")
    assert opened is not None
    assert opened.storage == storage
    np.testing.assert_array_equal(opened.float32(), kept.float32())
    np.testing.assert_array_equal(opened[[3, 1]].float32(), kept.float32()[[3, 1]])
    # Of a slice nothing is read.
    assert np.shares_memory(opened[3:5].values, opened.values)
    assert Vectors.open(tmp_path, "other") is None


def test_damaged(tmp_path: Path) -> None:
    Vectors.of(RANDOM, "int8").write(tmp_path, "dense")
    np.save(tmp_path / "dense.scales.npy", np.ones(3, np.float32))
    with pytest.raises(InputError, match=r"scales.npy: expected float32 \[50\], found"):
        Vectors.open(tmp_path, "dense")
    (tmp_path / "dense.scales.npy").unlink()
    with pytest.raises(
        InputError, match=r"scales.npy: expected a scale for each vector"
    ):
        Vectors.open(tmp_path, "dense")
    np.save(tmp_path / "dense.int8.npy", RANDOM)
    with pytest.raises(
        InputError, match=r"int8.npy: expected int8 \[n e\], found float32"
    ):
        Vectors.open(tmp_path, "dense")


def test_another_word() -> None:
    with pytest.raises(InputError, match="storage: expected one of float32, bfloat16"):
        Vectors.of(RANDOM, "int4")  # type: ignore[arg-type]
