from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.data.permutation import permute


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 5_000), key=st.tuples(st.integers(0, 9), st.integers(0)))
def test_each_thing_comes_once(count: int, key: tuple[int, int]) -> None:
    found = permute(np.arange(count), count, key)
    assert np.array_equal(np.sort(found), np.arange(count))


def test_a_place_does_not_depend_on_the_others_asked_for() -> None:
    whole = permute(np.arange(10_000), 10_000, (3, 1))
    some = np.array([9_999, 17, 17, 4_000])
    assert np.array_equal(permute(some, 10_000, (3, 1)), whole[some])


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_every_order_is_as_likely(count: int) -> None:
    draws = 100 * int(np.prod(range(1, count + 1)))
    orders = Counter(
        tuple(permute(np.arange(count), count, (seed,)).tolist())
        for seed in range(draws)
    )
    assert len(orders) == draws // 100
    # Six standard deviations of a count of 100.
    assert all(abs(times - 100) < 6 * 100**0.5 for times in orders.values())


def test_long_orders_are_not_related() -> None:
    count = 100_000
    one, two = (permute(np.arange(count), count, (key,)) for key in (1, 2))
    pairs = [(one, two), (one, np.arange(count)), (one[1:], one[:-1])]
    for left, right in pairs:
        assert abs(np.corrcoef(left, right)[0, 1]) < 6 / count**0.5


@pytest.mark.parametrize("other", [(1, 0, 2), (0, 0, 3), (0, 1, 2), (0, 0)])
def test_every_part_of_the_key_counts(other: tuple[int, ...]) -> None:
    places = np.arange(1_000)
    one, two = (permute(places, 1_000, key) for key in ((0, 0, 2), other))
    assert (one == two).mean() < 0.02


def test_the_order_stays_what_it_is() -> None:
    """A change would give every run that goes on other batches than it began with."""
    assert permute(np.arange(8), 8, (0, 1)).tolist() == GOLDEN
    assert permute(np.array([5]), 10**9, (7, 2)).tolist() == [GOLDEN_LARGE]


GOLDEN = [7, 0, 5, 6, 2, 4, 3, 1]
GOLDEN_LARGE = 373_470_474
