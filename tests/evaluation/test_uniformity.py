"""Alignment and uniformity against loops over all pairs, and in blocks."""

import itertools
import math

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.uniformity import alignment, measure, uniformity

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(2, 13, 5))
GRADES = [0, 1, 2, 3, 3.9, 4, 4.5, 5, 5, 2.5, 1.5, 4.2, 0]


def direction(row: np.ndarray) -> np.ndarray:
    return row / math.sqrt(math.fsum(x * x for x in row))


def squared(one: np.ndarray, two: np.ndarray) -> float:
    pairs = zip(direction(one), direction(two), strict=True)
    return math.fsum((a - b) ** 2 for a, b in pairs)


def test_alignment_by_definition() -> None:
    pairs = [squared(*pair) for pair in zip(FIRST, SECOND, strict=True)]
    assert alignment(FIRST, 3 * SECOND) == pytest.approx(math.fsum(pairs) / 13)


@pytest.mark.parametrize("block", [1, 2, 5, 12, 13, 14])
def test_uniformity_by_definition_at_every_block(block: int) -> None:
    rows = np.concatenate([FIRST[:10], 2 * FIRST[:3]])  # some are the same
    pairs = [math.exp(-2 * squared(*p)) for p in itertools.combinations(rows, 2)]
    expected = math.log(math.fsum(pairs) / len(pairs))
    assert uniformity(rows, block=block) == pytest.approx(expected, abs=1e-6)


def test_no_array_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, exp = [], np.exp

    def spy(x: np.ndarray, **options: object) -> np.ndarray:
        sizes.append(x.size)
        return exp(x, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "exp", spy)
    uniformity(FIRST, block=4)
    assert max(sizes) == 16 and len(sizes) == 10  # 4 x 5 / 2 pairs of blocks


def test_of_graded_pairs() -> None:
    found = measure(FIRST, SECOND, GRADES)
    close = [i for i in range(13) if GRADES[i] >= 4]  # 4 itself counts
    assert len(close) == 5
    assert found["alignment"] == pytest.approx(alignment(FIRST[close], SECOND[close]))
    every = np.concatenate([FIRST, SECOND])  # texts of all grades, both sides
    assert found["uniformity"] == pytest.approx(uniformity(every))
    higher = measure(FIRST, SECOND, GRADES, least=4.1)["alignment"]
    close.remove(5)
    assert higher == pytest.approx(alignment(FIRST[close], SECOND[close]))


def test_extremes() -> None:
    same = np.ones((4, 3))
    assert uniformity(same) == pytest.approx(0, abs=1e-6)
    assert alignment(same, -same) == pytest.approx(4)
    assert alignment(same, 7 * same) == pytest.approx(0)


def test_what_cannot_be_measured() -> None:
    bad = FIRST.copy()
    bad[2, 2] = np.nan
    with pytest.raises(InputError, match=r"first: .* NaN or infinity in 1 of 13 rows"):
        measure(bad, SECOND, GRADES)
    with pytest.raises(InputError, match=r"second: .* 1 rows of zeros, first row 12"):
        measure(FIRST, SECOND * (np.arange(13)[:, None] != 12), GRADES)
    with pytest.raises(InputError, match=r"found 5 \(first\), 4 \(second\)"):
        measure(FIRST, SECOND[:, 1:], GRADES)
    for given in ((FIRST, SECOND[1:], GRADES), (FIRST, SECOND, GRADES[1:])):
        with pytest.raises(InputError, match=r"as many first texts as .*, found 13, 1"):
            measure(*given)
    with pytest.raises(InputError, match=r"of grade 6 or more, found none; .* is 5. L"):
        measure(FIRST, SECOND, GRADES, least=6)
    with pytest.raises(InputError, match="of grade 4 or more, found none"):
        measure(FIRST[:0], SECOND[:0], [])
    with pytest.raises(InputError, match="grades: expected finite numbers, found NaN"):
        measure(FIRST, SECOND, [math.nan, *GRADES[1:]])
    with pytest.raises(InputError, match="second: expected 13 embeddings, found 12"):
        alignment(FIRST, SECOND[1:])
    with pytest.raises(InputError, match="two embeddings or more, found 1"):
        uniformity(FIRST[:1])
    with pytest.raises(InputError, match="block: expected a positive number, found 0"):
        uniformity(FIRST, block=0)
