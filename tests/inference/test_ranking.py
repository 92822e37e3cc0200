"""Fusion of rankings by hand; what mixtures of heads refuse."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.best import Best, best_places
from m3jax.inference.encoded import Encoded
from m3jax.inference.ranking import fuse, rank
from m3jax.inference.segment import Segment


def ranking(*rows: list[int]) -> Best:
    at = np.array(rows)
    return Best(np.where(at < 0, -np.inf, 1.0).astype(np.float32), at)


def test_reciprocal_ranks_by_hand() -> None:
    first, second = ranking([4, 7, 1], [2, -1, -1]), ranking([7, 9, 4], [-1, -1, -1])
    fused = fuse([first, second], 3)
    assert fused.at.tolist() == [[7, 4, 9], [2, -1, -1]]
    expected = [1 / 62 + 1 / 61, 1 / 61 + 1 / 63, 1 / 62]
    assert fused.scores[0].tolist() == pytest.approx(expected)
    # Only the first of each ranking counts; of equal ones the lower number is first.
    assert fuse([first, second], 3, depth=1).at[0].tolist() == [4, 7, -1]


@pytest.mark.parametrize("k", [1, 3, 400, 40_000])
def test_best_places_of_many(k: int) -> None:
    scores = np.random.default_rng(0).integers(-3, 30, 20_001).astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    expected = order[scores[order] > 0][:k]
    np.testing.assert_array_equal(best_places(scores, k), expected)


def test_what_is_refused() -> None:
    both = Encoded(np.eye(2, dtype=np.float32))
    block = Segment.of([("a", "1"), ("b", "2")], both)
    with pytest.raises(InputError, match="heads: expected one of dense, sparse, multi"):
        rank(both, [block], (), 2, k=1)
    with pytest.raises(
        InputError, match="rescored: expected a positive number, found 0"
    ):
        rank(both, [block], ("dense",), 2, k=1, rescored=0)
    with pytest.raises(
        InputError, match="none: weights: expected a weight above 0 for"
    ):
        rank(both, [block], ("dense", "sparse"), 2, k=1, mixtures={"none": (0, 0, 1)})
    with pytest.raises(
        InputError, match="index: expected sparse embeddings, found none"
    ):
        rank(both, [block], ("dense", "sparse"), 2, k=1)
    with pytest.raises(
        InputError, match="Segment: expected 1 embeddings, one a passage"
    ):
        Segment.of([("a", "1")], both)
