"""Sparse search by postings, against a whole product."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from m3jax.core.errors import InputError
from m3jax.inference import postings as module
from m3jax.inference.encoded import Encoded
from m3jax.inference.postings import POSTINGS_FILES, Postings
from m3jax.inference.scores import sparse
from m3jax.inference.sparse_rows import SparseRows

V = 40


def rows(count: int, most: int, seed: int, *, whole: bool = False) -> SparseRows:
    """Some texts; the lower a token id, the more texts have it."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, most + 1, count)
    ids = np.floor(V * rng.random(lengths.sum()) ** 3).astype(int)
    weights = rng.integers(1, 4, len(ids)) if whole else rng.random(len(ids))
    return SparseRows.from_flat(ids, weights, np.cumsum([0, *lengths]), V)


def naive(
    query: SparseRows, passage: SparseRows, k: int
) -> list[list[tuple[int, float]]]:
    found = []
    for row in sparse(Encoded(sparse=query), Encoded(sparse=passage)):
        order = np.argsort(-row, kind="stable")[:k]
        found.append([(int(i), float(row[i])) for i in order if row[i] > 0])
    return found


def check(query: SparseRows, passage: SparseRows, k: int) -> None:
    best = Postings.of(passage).search(query, k)
    assert best.at.shape == best.scores.shape == (len(query), min(k, len(passage)))
    for number, expected in enumerate(naive(query, passage, k)):
        there = best.at[number] >= 0
        assert best.at[number][there].tolist() == [i for i, _ in expected]
        scores = [x for _, x in expected]
        np.testing.assert_allclose(best.scores[number][there], scores, rtol=1e-6)
        assert np.isneginf(best.scores[number][~there]).all()


@pytest.mark.parametrize("whole", [False, True])  # whole numbers: scores that are equal
@pytest.mark.parametrize(("count", "most"), [(1, 3), (300, 8), (2_000, 2)])
@pytest.mark.parametrize("k", [1, 25, 5_000])
def test_equals_the_product(count: int, most: int, k: int, whole: bool) -> None:
    check(rows(12, 6, 1, whole=whole), rows(count, most, 0, whole=whole), k)


@pytest.mark.parametrize("heavy", [1, 10**9])
def test_columns_change_nothing(monkeypatch: pytest.MonkeyPatch, heavy: int) -> None:
    monkeypatch.setattr(module, "_HEAVY", heavy)
    query, passage = rows(9, 6, 1, whole=True), rows(500, 8, 0, whole=True)
    check(query, passage, 20)
    postings = Postings.of(passage)
    postings.search(query, 20)
    # With 1 only a token that every text has would get one, with 10**9 all do, as far
    # as the memory of the postings goes.
    assert len(postings._columns) == (
        0 if heavy == 1 else min(V, 2 * passage.matrix.nnz // 500)
    )


def test_one_search_leaves_nothing_for_the_next() -> None:
    query, passage = rows(30, 6, 1), rows(400, 8, 0)
    together = Postings.of(passage).search(query, 10)
    for number in range(len(query)):
        alone = Postings.of(passage).search(query[number : number + 1], 10)
        np.testing.assert_array_equal(alone.at[0], together.at[number])


def test_scores_of_some_passages() -> None:
    query, passage = rows(5, 6, 1), rows(200, 8, 0)
    postings, at = Postings.of(passage), np.array([199, 3, 3, 0, 77])
    whole = sparse(Encoded(sparse=query), Encoded(sparse=passage))
    for number in range(5):
        found = postings.score(query[number : number + 1], at)
        np.testing.assert_allclose(found, whole[number, at], rtol=1e-6)
    assert postings.score(query[:1], np.empty(0, int)).shape == (0,)


def test_shared_tokens_come_by_what_they_add() -> None:
    passage = SparseRows.from_flat([1, 2, 3], [1, 5, 2], [0, 2, 3], V)
    query = SparseRows.from_flat([1, 2, 4], [3, 0.5, 9], [0, 3], V)
    postings = Postings.of(passage)
    assert list(postings.shared(query, 0).items()) == [(1, (3, 1)), (2, (0.5, 5))]
    assert postings.shared(query, 1) == {}


def test_weights_of_zero_are_left_out() -> None:
    data = np.array([3, 0, 2], np.float32)
    csr = data, np.array([4, 7, 7]), np.array([0, 2, 3])
    passage = SparseRows(scipy.sparse.csr_array(csr, shape=(2, V)))
    postings = Postings.of(passage)
    assert (postings.passages.tolist(), postings.weights.tolist()) == ([0, 1], [3, 2])
    assert np.flatnonzero(np.diff(postings.offsets)).tolist() == [4, 7]
    assert passage.matrix.nnz == 3  # which is not ours to change


def test_written_and_opened(tmp_path: Path) -> None:
    query, postings = rows(5, 6, 1), Postings.of(rows(200, 8, 0))
    postings.write(tmp_path)
    opened = Postings.open(tmp_path)
    assert opened is not None
    assert isinstance(opened.weights, np.memmap)
    np.testing.assert_array_equal(
        opened.search(query, 9).at, postings.search(query, 9).at
    )


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (0, np.array([0, 3]), "expected number of passages and tokens"),
        (
            1,
            np.array([0, 9, 1], np.int32),
            "expected passage numbers below 2, found 0 to",
        ),
        (1, np.array([0, 1, 1]), r"expected int32 \[n\], found int64"),
        (
            2,
            np.array([1, 2], np.float32),
            "Postings: expected 3 weights, one a posting",
        ),
        (2, None, "expected postings of tokens, found none"),
        (3, np.array([2, V, 1]), "expected number of passages and tokens"),
    ],
)
def test_damaged(tmp_path: Path, name: int, array: Any, message: str) -> None:
    Postings.of(SparseRows.from_flat([1, 2, 3], [1, 5, 2], [0, 2, 3], V)).write(
        tmp_path
    )
    path = tmp_path / POSTINGS_FILES[name]
    path.unlink() if array is None else np.save(path, array)
    with pytest.raises(InputError, match=message):
        Postings.open(tmp_path)


def test_what_is_refused() -> None:
    postings = Postings.of(rows(5, 6, 1))
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        postings.search(rows(1, 2, 0), 0)
    other = SparseRows.from_flat([1], [1], [0, 1], 7)
    with pytest.raises(
        InputError, match="queries over 40 tokens, as the passages, found 7"
    ):
        postings.search(other, 1)
    with pytest.raises(InputError, match="queries over 40 tokens"):
        postings.score(other, np.array([0]))
