"""Texts in one file: each is taken as it was put in, and damage is told."""

from pathlib import Path

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.strings import Strings

TEXTS = ["salt", "", "東京", "\u2028"]


def test_written_and_opened(tmp_path: Path) -> None:
    Strings.of(TEXTS).write(tmp_path, "texts")
    opened = Strings.open(tmp_path, "texts")
    assert (list(opened), len(opened), opened[-1]) == (TEXTS, 4, "\u2028")
    assert list(opened[1:3]) == TEXTS[1:3]
    assert isinstance(opened.data, np.memmap)
    with pytest.raises(IndexError):
        opened[4]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    Strings.of(TEXTS).write(tmp_path, "texts")
    data = np.load(tmp_path / "texts.npy")
    data[5] = 0xFF  # the second byte of the third text
    np.save(tmp_path / "texts.npy", data)
    opened = Strings.open(tmp_path, "texts")
    assert opened[0] == "salt"
    message = r"texts.npy: expected UTF-8, found byte 0x.. in text 2. .*--fresh\)"
    for take in (lambda: opened[2], lambda: list(opened), lambda: opened[1:]):
        with pytest.raises(InputError, match=message):
            take()
