"""Accuracy and macro F1 by their definitions, and what is told beside them."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.classified import Classified, measure, unseen


def macro_f1(predicted: list[str], labels: list[str]) -> float:
    """2 tp / (2 tp + fp + fn), over every class that is found or right."""
    values = []
    for name in {*predicted, *labels}:
        pairs = [(a == name, b == name) for a, b in zip(predicted, labels, strict=True)]
        true = pairs.count((True, True))
        wrong = pairs.count((True, False)) + pairs.count((False, True))
        values.append(2 * true / (2 * true + wrong))
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(4))
def test_by_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.choice(list("abcd"), 20).tolist()
    labels = rng.choice(list("bcdef"), 20).tolist()  # a is never right, e never found
    right = sum(a == b for a, b in zip(predicted, labels, strict=True))
    found = measure(predicted, labels)
    assert found["accuracy"] == pytest.approx(right / 20)
    assert found["f1"] == pytest.approx(macro_f1(predicted, labels))
    assert list(found) == ["accuracy", "f1"]
    numbers = {name: i for i, name in enumerate("abcdef")}
    coded = (np.array([numbers[x] for x in row]) for row in (predicted, labels))
    assert measure(*coded) == found


def test_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="measure: expected 2 labels, found 1"):
        measure(["a"], ["a", "b"])
    with pytest.raises(InputError, match="measure: expected some labels, found 0"):
        measure([], [])


def test_notes() -> None:
    assert Classified({"accuracy": 1.0}).notes == ()
    found = Classified({}, unseen(["b", "a", "c", "b"], ["a"]), {"a": 3}, 2)
    assert found.notes == (
        "3 rows count as wrong, because no label could be theirs: b (2), c (1).",
        "1 labels have fewer training rows than were to be drawn: a (3).",
        "2 probes took all of their steps.",
    )
