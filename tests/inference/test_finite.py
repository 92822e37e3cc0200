"""Embeddings that are no numbers are refused, by head and by name."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded
from m3jax.inference.finite import require_finite
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows

NAMES = ("a", "b", "c", "d")


def encoded() -> Encoded:
    """Four texts, of which b has neither a token nor a vector."""
    offsets = np.array([0, 2, 2, 3, 5])
    sparse = SparseRows.from_flat([1, 2, 1, 3, 4], [1, 2, 1, 1, 1], offsets, 9)
    vectors = MultivecRows(np.ones((5, 3), np.float32), offsets)
    return Encoded(np.ones((4, 2), np.float32), sparse, vectors)


def test_numbers_pass() -> None:
    require_finite(encoded(), NAMES, where="passages")
    require_finite(Encoded(), (), where="passages")
    require_finite(Encoded(np.empty((0, 3), np.float32)), (), where="passages")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("head", "places", "found"),
    [
        ("dense", [1], "1 of 4 texts, first in 'b'"),
        ("dense", [2, 3], "2 of 4 texts, first in 'c'"),
        ("sparse", [1], "1 of 4 texts, first in 'a'"),
        ("sparse", [3, 4], "1 of 4 texts, first in 'd'"),
        ("multivec", [2, 4], "2 of 4 texts, first in 'c'"),
        ("multivec", [0], "1 of 4 texts, first in 'a'"),
    ],
)
def test_others_do_not(head: str, places: list[int], found: str, bad: float) -> None:
    texts = encoded()
    assert texts.dense is not None and texts.sparse is not None
    assert texts.multivec is not None
    arrays = {
        "dense": texts.dense[:, -1],
        "sparse": texts.sparse.matrix.data,
        "multivec": texts.multivec.vectors[:, 0],
    }
    arrays[head][places] = bad
    message = f"passages: expected finite {head} embeddings, .* infinity in {found}"
    with pytest.raises(InputError, match=message):
        require_finite(texts, NAMES, where="passages")
