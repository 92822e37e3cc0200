"""Batches go back to where their texts are."""

import numpy as np

from m3jax.inference.encoded import Encoded
from m3jax.inference.gather import gather
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows


def test_every_text_gets_its_own_rows() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([2, 0, 3, 1, 4])
    vectors = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    dense = rng.normal(size=(5, 2)).astype(np.float32)

    def part(*numbers: int) -> tuple[np.ndarray, Encoded]:
        at = np.array(numbers)
        offsets = np.concatenate([[0], np.cumsum(lengths[at])])
        flat = np.concatenate([vectors[i] for i in at])
        ids, weights = at[:, None] + 5, np.ones((len(at), 1), np.float32)
        sparse = SparseRows.from_tokens(ids, weights, 20)
        return at, Encoded(dense[at], sparse, MultivecRows(flat, offsets))

    found = gather(iter([part(4, 2), part(0), part(3, 1)]), 5)
    assert found.dense is not None and found.sparse and found.multivec
    np.testing.assert_array_equal(found.dense, dense)
    assert list(found.sparse) == [{i + 5: 1.0} for i in range(5)]
    for i, expected in enumerate(vectors):
        np.testing.assert_array_equal(found.multivec[i], expected)
    only = gather([(np.array([1, 0]), Encoded(None, None, part(2, 0)[1].multivec))], 2)
    assert only.dense is None and only.sparse is None and only.multivec
    np.testing.assert_array_equal(only.multivec[1], vectors[2])
