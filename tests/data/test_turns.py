from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.data.turns import take_turns

WEIGHTS = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=30)


def counts(turns: np.ndarray, sets: int) -> np.ndarray:
    """Turns of each data set before each step, and after the last."""
    each = np.zeros((len(turns) + 1, sets))
    each[1:] = np.cumsum(np.eye(sets)[turns], axis=0)
    return each


@settings(max_examples=80, deadline=None)
@given(weights=WEIGHTS, steps=st.integers(1, 400))
def test_shares_hold_at_every_step(weights: Sequence[float], steps: int) -> None:
    turns, before = take_turns(weights, steps)
    found = counts(turns, len(weights))
    asked = np.arange(steps + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(found - asked).max() < 1 + 1e-6
    assert np.array_equal(before, found[np.arange(steps), turns])


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_whole_numbers_come_out_even(weights: list[int]) -> None:
    turns, _ = take_turns(weights, sum(weights))
    assert np.bincount(turns).tolist() == weights


@pytest.mark.parametrize("light", [1, 50])
def test_a_heavy_data_set_does_not_wait_for_many_light_ones(light: int) -> None:
    turns, _ = take_turns([light, *[1] * light], 2 * light)
    # Every other step, not first all the others.
    assert np.abs(np.cumsum(turns == 0) - np.arange(1, 2 * light + 1) / 2).max() <= 1
