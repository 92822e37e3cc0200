"""Mixtures of heads by hand, and against sums over all pairs; what is refused."""

from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference import scores
from m3jax.inference.best import Best, best_places
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.ranking import RRF, Fusion, Mixture, fuse, rank
from m3jax.inference.segment import Segment
from m3jax.inference.sparse_rows import SparseRows


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


def test_the_same_ranks_in_another_order_are_equal() -> None:
    assert 1 / 61 + 1 / 67 + 1 / 62 != 1 / 67 + 1 / 62 + 1 / 61
    lists = [[0] * 7 for _ in range(3)]
    for passage, ranks in ((1, (1, 7, 2)), (2, (7, 2, 1))):
        for row, rank_ in zip(lists, ranks, strict=True):
            row[rank_ - 1] = passage
    for i, row in enumerate(lists):
        row[:] = [at or 100 * (i + 1) + j for j, at in enumerate(row)]
    fused = fuse([ranking(row) for row in lists], 2)
    assert fused.scores[0, 0] == fused.scores[0, 1]
    assert fused.at.tolist() == [[1, 2]]


def test_scores_that_are_added_up_by_hand() -> None:
    first = Best(np.array([[4.0, 2.0, 1.0]]), np.array([[7, 3, 5]]))
    second = Best(np.array([[9.0, 3.0, -np.inf]]), np.array([[5, 7, -1]]))
    fused = fuse([first, second], 4, weights=(1, 0.5))
    # 7 has 4 + 1.5 and 5 has 1 + 4.5; second says nothing of 3.
    assert fused.at.tolist() == [[5, 7, 3, -1]]
    assert fused.scores.tolist() == [[5.5, 5.5, 2.0, -np.inf]]
    # The third of the first ranking no longer counts.
    fused = fuse([first, second], 4, weights=(1, 0.5), depth=2)
    assert fused.at.tolist() == [[7, 5, 3, -1]]
    assert fused.scores.tolist() == [[5.5, 4.5, 2.0, -np.inf]]


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def texts(seed: int, count: int) -> Encoded:
    """Random embeddings of texts of four tokens each."""
    rng = np.random.default_rng(seed)
    offsets = np.arange(count + 1) * 4
    ids, weights = rng.integers(0, 25, 4 * count), rng.uniform(0.1, 2, 4 * count)
    return Encoded(
        unit(rng.normal(size=(count, 5))),
        SparseRows.from_flat(ids, weights, offsets, 25),
        MultivecRows(unit(rng.normal(size=(4 * count, 3))), offsets),
    )


QUERY, PASSAGE = texts(0, 3), texts(1, 40)
SCORES = {head: getattr(scores, head)(QUERY, PASSAGE) for head in scores.HEADS}


def order(row: np.ndarray, k: int) -> list[int]:
    """Places of the best; what has -inf is left out."""
    best = np.argsort(-row, kind="stable")[:k]
    return [int(i) for i in best if np.isfinite(row[i])]


def found_by(head: str, number: int, depth: int) -> list[int]:
    row = SCORES[head][number]
    return order(np.where(row > 0, row, -np.inf) if head == "sparse" else row, depth)


@pytest.mark.parametrize(("size", "k", "rescored"), [(7, 12, 3), (40, 3, 9)])
def test_each_mixture_has_its_own_candidates(size: int, k: int, rescored: int) -> None:
    mixtures: dict[str, Any] = {
        "together": Mixture((1, 0.3, 1)),
        "of dense": Mixture((0.15, 0.5, 0.35), of=("dense",), depth=6),
        "lists": Fusion((0.2, 0.8, 0), depth=20),
        "ranks": RRF,
        "few ranks": Fusion(depth=2),
    }
    blocks = []
    for start in range(0, 40, size):
        rows = [(str(i), "") for i in range(start, min(start + size, 40))]
        blocks.append(Segment.of(rows, PASSAGE[start : start + size]))
    options: dict[str, Any] = {"k": k, "rescored": rescored, "mixtures": mixtures}
    found = rank(QUERY, blocks, scores.HEADS, 40, **options)
    assert list(found) == [*scores.HEADS, *mixtures]
    for number in range(3):
        every = {head: SCORES[head][number] for head in scores.HEADS}
        dense, sparse = (found_by(head, number, 20) for head in ("dense", "sparse"))
        first = [dense[:rescored], sparse[:rescored]]
        assert {*first[0]} != {*first[1]} and {*dense} != {*sparse}

        def mixed(*weights: float, among: list[int], every=every) -> np.ndarray:
            total = sum(w * every[head] for head, w in zip(every, weights, strict=True))
            where = np.isin(np.arange(40), among)
            return np.where(where, total / sum(weights), -np.inf)

        def reciprocal(*lists: list[int]) -> np.ndarray:
            ranks = np.full(40, -np.inf)
            for best in lists:
                added = 1 / np.arange(61, 61 + len(best))
                ranks[best] = np.maximum(ranks[best], 0) + added
            return ranks.astype(np.float32)

        multivec = mixed(0, 0, 1, among=first[0])
        third = order(multivec, rescored)
        lists = np.full(40, -np.inf)
        for head, weight, best in (("dense", 0.2, dense), ("sparse", 0.8, sparse)):
            lists[best] = np.maximum(lists[best], 0) + weight * every[head][best]
        expected = {
            "multivec": multivec,
            "together": mixed(1, 0.3, 1, among=first[0] + first[1]),
            "of dense": mixed(0.15, 0.5, 0.35, among=dense[:6]),
            "lists": lists,
            "ranks": reciprocal(*first, third),
            "few ranks": reciprocal(dense[:2], sparse[:2], third[:2]),
        }
        for name, row in expected.items():
            best = order(row, k)
            assert found[name].at[number, : len(best)].tolist() == best, name
            assert (found[name].at[number, len(best) :] == -1).all(), name
            np.testing.assert_allclose(
                found[name].scores[number, : len(best)], row[best], atol=1e-6
            )


def test_a_mixture_of_heads_that_do_not_search_takes_those_that_do() -> None:
    block = Segment.of([(str(i), "") for i in range(40)], PASSAGE)
    mixtures = {"one": Mixture(of=("dense",)), "two": Mixture(of=("sparse",))}
    heads, options = ("sparse", "multivec"), {"k": 9, "mixtures": mixtures}
    found = rank(QUERY, [block], heads, 40, **options)
    np.testing.assert_array_equal(found["one"].at, found["two"].at)


def test_one_head_has_no_mixture() -> None:
    block = Segment.of([(str(i), "") for i in range(40)], PASSAGE)
    mixtures = {"hybrid": Mixture((0, 1, 1)), "rrf": RRF}
    found = rank(QUERY, [block], ("dense",), 40, k=2, mixtures=mixtures)
    assert list(found) == ["dense"]


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
        none = {"none": Mixture((0, 0, 1))}
        rank(both, [block], ("dense", "sparse"), 2, k=1, mixtures=none)
    with pytest.raises(InputError, match="rrf: expected a positive number, found 0"):
        rank(both, [block], ("dense",), 2, k=1, mixtures={"rrf": Fusion(depth=0)})
    with pytest.raises(InputError, match="mixture: of: expected some of dense, spar"):
        Mixture(of=("dens",))
    with pytest.raises(
        InputError, match="index: expected sparse embeddings, found none"
    ):
        rank(both, [block], ("dense", "sparse"), 2, k=1)
    with pytest.raises(
        InputError, match="Segment: expected 1 embeddings, one a passage"
    ):
        Segment.of([("a", "1")], both)
