"""The best of a corpus that goes by, part by part."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference.best import Best


def test_of_equal_scores_the_first_stays() -> None:
    best = Best.none(1, 3).merge(np.array([[2.0, 1.0]]), np.array([[0, 1]]))
    best = best.merge(np.array([[1.0, 2.0]]), np.array([[2, 3]]))
    assert best.at.tolist() == [[0, 3, 1]]
    assert best.scores.tolist() == [[2, 2, 1]]


def test_what_is_no_number_is_refused() -> None:
    # A sort would put it last, and so lose the passage.
    with pytest.raises(InputError, match="expected scores that are numbers, found NaN"):
        Best.none(1, 2).merge(np.array([[1.0, np.nan]]), np.array([[0, 1]]))
