"""The k best passages are found, in every tiling, on every mesh, in every storage."""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from m3jax.core.cores import cores
from m3jax.core.errors import InputError
from m3jax.inference import dense_search, host_search
from m3jax.inference.dense_search import sample_rows, share_found, top_k
from m3jax.inference.vectors import Vectors
from tests.compare import line


def naive(query: np.ndarray, passage: np.ndarray, k: int) -> tuple[Any, Any]:
    scores = query.astype(np.float64) @ passage.T.astype(np.float64)
    at = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # of equal ones the first
    return np.take_along_axis(scores, at, 1), at


def check(query: Any, passage: Any, k: int, mesh: Any = None, **options: Any) -> None:
    expected, expected_at = naive(np.asarray(query), np.asarray(passage), k)
    # The host searches, and a device does.
    for one in [mesh] if mesh else [None, line(1)]:
        scores, at = top_k(query, passage, k, mesh=one, **options)
        assert (scores.dtype, at.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(at, expected_at)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


@functools.cache
def vectors(count: int, seed: int, values: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if values is None:
        return rng.standard_normal((count, 8), np.float32)
    # Small integers: sums are exact, so equal scores are equal in any order.
    return rng.integers(-values, values + 1, (count, 8)).astype(np.float32)


@pytest.mark.parametrize("values", [None, 1])
@pytest.mark.parametrize("tile", [7, 64, 500, 10_000])
def test_equals_a_sort(tile: int, values: int | None) -> None:
    check(vectors(5, 0, values), vectors(500, 1, values), 20, tile=tile)


def test_default_tile() -> None:
    check(vectors(3, 0, 1), vectors(20_000, 1, 1), 100)


def test_ties_take_the_lower_number() -> None:
    check(np.ones((1, 4), np.float32), np.ones((50, 4), np.float32), 12, tile=5)


def test_both_zeros_are_equal() -> None:
    passage = np.array([[-1.0], [-1.0], [1.0]], np.float32)  # -0, -0 and 0
    check(np.zeros((1, 1), np.float32), passage, 3)
    scores, _ = top_k(np.zeros((1, 1), np.float32), passage, 3, mesh=line(1))
    assert not np.signbit(scores).any()


def test_negative_scores_beat_what_fills_a_tile() -> None:
    check(-np.ones((1, 2)), np.ones((5, 2)), 5, tile=4)


@pytest.mark.parametrize(
    ("queries", "passages", "k"), [(3, 4, 9), (2, 1, 5), (1, 7, 7)]
)
def test_k_beyond_the_corpus(queries: int, passages: int, k: int) -> None:
    query, passage = vectors(queries, 0), vectors(passages, 1)
    assert top_k(query, passage, k)[1].shape == (queries, min(k, passages))
    check(query, passage, k, tile=3)


@pytest.mark.parametrize(("queries", "passages"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_search(queries: int, passages: int) -> None:
    scores, at = top_k(np.ones((queries, 2)), np.ones((passages, 2)), 3)
    assert scores.shape == at.shape == (queries, min(3, passages))


def test_more_queries_than_are_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = set()
    find = dense_search._find

    def record(query: Any, passage: Any, *rest: Any, **options: Any) -> Any:
        shapes.add((len(query), len(passage)))
        return find(query, passage, *rest, **options)

    monkeypatch.setattr(dense_search, "_find", record)
    check(vectors(300, 0), vectors(500, 1), 10, tile=200)
    # Even parts, in groups of 32; so memory does not grow with either side.
    assert shapes == {(150, 192)}


def test_arrays_of_any_kind(tmp_path: Path) -> None:
    query, passage = vectors(3, 0, 1), vectors(90, 1, 1)
    np.save(tmp_path / "passage.npy", passage)
    mapped = np.load(tmp_path / "passage.npy", mmap_mode="r")
    check(query, mapped, 4, tile=40)
    check(jnp.asarray(query), jnp.asarray(passage), 4, tile=40)


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (0, {}, "k: expected a positive number, found 0"),
        (1, {"tile": 0}, "tile: expected a positive number, found 0"),
    ],
)
def test_top_k_refuses(k: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        top_k(np.ones((1, 2)), np.ones((1, 2)), k, **options)
    with pytest.raises(
        InputError, match="passages of width 2, as the queries, found 3"
    ):
        top_k(np.ones((1, 2)), np.ones((1, 3)), 1)


@pytest.mark.parametrize("values", [None, 1])
@pytest.mark.parametrize(("count", "tile"), [(3, None), (700, 256), (5_000, None)])
def test_a_mesh_finds_the_same(count: int, tile: int | None, values: Any) -> None:
    for devices in (2, 8):
        options: dict[str, Any] = {"tile": tile, "mesh": line(devices)}
        check(vectors(3, 0, values), vectors(count, 1, values), 20, **options)


def test_groups_that_tie_with_the_last() -> None:
    # 4,096 passages in groups of 32, most of them equal: the lowest numbers count.
    passage = np.ones((4_096, 1), np.float32)
    passage[4_000:4_010] = 2
    check(np.ones((1, 1), np.float32), passage, 64)
    # No tie: what the groups find is taken.
    check(np.ones((2, 1), np.float32), np.arange(4_096.0)[:, None], 64)


def test_ties_inside_the_groups_that_are_looked_into() -> None:
    # 128 groups, of which passage i is in group i modulo 128: 12 has the best passage
    # and one of two that are equal, 10 the other one, which has the lower number.
    passage = np.zeros((4_096, 1), np.float32)
    passage[[12, 140, 138], 0] = 9, 5, 5
    assert top_k(np.ones((1, 1)), passage, 3, mesh=line(1))[1].tolist() == [
        [12, 138, 140]
    ]


@pytest.mark.parametrize("storage", ["bfloat16", "int8"])
def test_few_bytes_are_scored_as_what_they_stand_for(storage: Any) -> None:
    passage, query = vectors(600, 1), vectors(4, 0)
    kept = Vectors.of(passage, storage)
    for mesh in (None, line(1), line(2)):
        scores, at = top_k(query, kept, 30, tile=128, mesh=mesh)
        expected, expected_at = naive(query, kept.float32(), 30)
        np.testing.assert_array_equal(at, expected_at)
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_an_approximate_search_finds_its_share() -> None:
    query, passage = vectors(200, 0), vectors(900, 1)
    exact = top_k(query, passage, 10)[1]
    scores, near = top_k(query, passage, 10, recall_target=0.9)
    assert share_found(exact, near) >= 0.9
    np.testing.assert_allclose(
        scores, np.take_along_axis(query @ passage.T, near, axis=1), atol=1e-5
    )


def test_the_share_that_is_found() -> None:
    exact = np.array([[3, 1, 2, 0], [5, 7, -1, -1]])
    assert share_found(exact, exact[:, ::-1]) == 1
    assert share_found(exact, np.array([[0, 9, 9, 9], [-1, 9, 5, 8]])) == 3 / 8
    assert share_found(exact[:0], exact[:0]) == 1
    assert share_found(exact[:, :0], exact[:, :0]) == 1


def test_few_queries_say_it() -> None:
    assert sample_rows(64).tolist() == list(range(64))
    rows = sample_rows(1_000)
    assert len(rows) <= 64 and rows[-1] > 900 and len({*np.diff(rows)}) == 1


@pytest.mark.parametrize("target", [0, 1, -0.5, 2])
def test_recall_target_is_a_share(target: float) -> None:
    message = "recall_target: expected a share above 0 and below 1"
    with pytest.raises(InputError, match=message):
        top_k(np.ones((1, 2)), np.ones((3, 2)), 1, recall_target=target)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many candidates there were each time that few of them stayed."""
    shrink, kept = host_search._Sieve._shrink, []

    def record(self: Any) -> None:
        kept.append(self.kept)
        shrink(self)

    monkeypatch.setattr(host_search._Sieve, "_shrink", record)
    return kept


def test_the_host_forgets_what_fell_behind(kept: list[int]) -> None:
    # Each tile is better than all before it.
    passage = np.arange(6_000.0, dtype=np.float32)[:, None]
    check(np.ones((3, 1), np.float32), passage, 10, tile=100)
    assert len(kept) > 5 and max(kept) < 2 * 8 * 10 * 3


def test_the_host_keeps_few_of_passages_that_are_alike(kept: list[int]) -> None:
    passage = np.ones((9_000, 2), np.float32)
    passage[7_777] = 2
    check(np.ones((40, 2), np.float32), passage, 5, tile=3_000)
    # Of each block that a core looks at five, where 120,000 scores are the same.
    assert max(kept) <= 4 * 5 * 40 * cores()


def test_the_host_searches_slab_by_slab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_search, "_QUERIES", 3)
    monkeypatch.setattr(host_search, "_SCORES", 3 * 700)
    monkeypatch.setattr(host_search, "_CACHED", 3 * 64)
    monkeypatch.setattr(host_search, "_HELD", 2 * 3 * 4)  # two slabs, then the third
    for count in (1, 3):
        monkeypatch.setattr(host_search, "cores", lambda count=count: count)
        check(vectors(8, 0, 1), vectors(5_000, 1, 1), 4)


def test_the_host_refuses_what_is_no_number() -> None:
    passage = vectors(5_000, 1).copy()
    passage[4_000, 0] = np.nan
    with pytest.raises(InputError, match="scores that are numbers, found NaN"):
        top_k(vectors(2, 0), passage, 3)


def test_host_searches_leave_blas_its_threads() -> None:
    def threads() -> list[int]:
        return [one["num_threads"] for one in threadpool_info()]

    query, passage, before = vectors(600, 0), vectors(20_000, 1), threads()
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: top_k(query, passage, 50)[1], range(4)))
    assert threads() == before
    assert all((one == found[0]).all() for one in found)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", [None, 0.9])
@pytest.mark.parametrize("count", [50, 4_096])  # all are sorted, groups are
def test_a_device_refuses_what_is_no_number(
    count: int, target: float | None, bad: float
) -> None:
    for devices in (1, 2):
        options: Any = {"mesh": line(devices), "recall_target": target}
        for at in (0, 17, count - 1):
            passage = vectors(count, 1).copy()
            passage[at, at % 8] = bad
            with pytest.raises(InputError, match="top_k: expected scores that are num"):
                top_k(vectors(2, 0), passage, 3, **options)


@pytest.mark.parametrize("mesh", [None, 1])
def test_a_query_that_is_no_number_is_refused(mesh: int | None) -> None:
    query = vectors(3, 0).copy()
    query[2, 5] = np.inf
    with pytest.raises(InputError, match="top_k: expected queries that are finite num"):
        top_k(query, vectors(50, 1), 3, mesh=None if mesh is None else line(mesh))
