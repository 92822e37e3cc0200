"""Embeddings that can be measured, and those that cannot."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.rows import finite, require_one_width, unit


def test_unit() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 7)) * np.array([[1], [1e-20], [1e20], [3], [0.1]])
    found = unit(rows.astype(np.float32), where="test")
    assert found.dtype == np.float32
    expected = rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-6)


BAD = [
    (np.ones((2, 0)), r"test: expected embeddings, a row each, found the shape \(2, 0"),
    (np.ones((0, 2)), r"found the shape \(0, 2\)"),
    (np.ones(2), r"found the shape \(2,\)"),
    (
        np.array([[1.0, 2], [np.nan, 1], [1, -np.inf], [1, 1]]),
        "test: expected finite embeddings, found NaN or infinity in 2 of 4 rows, first "
        "in row 1",
    ),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
@pytest.mark.parametrize("check", [finite, unit])
def test_no_embeddings(check, rows: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(rows, where="test")


def test_zeros_have_no_direction() -> None:
    rows = np.array([[1.0, 2], [0, 0]])
    with pytest.raises(InputError, match=r"test: .* 1 rows of zeros, first row 1"):
        unit(rows, where="test")
    assert finite(rows, where="test").tolist() == rows.tolist()


def test_widths_that_differ() -> None:
    with pytest.raises(InputError, match=r"of one width, found 3 \(a\), 4 \(b\)"):
        require_one_width(a=np.ones((2, 3)), b=np.ones((2, 4)))
