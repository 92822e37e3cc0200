"""Translations found by their embeddings, against a loop over all pairs."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.bitext import measure


def by_loop(query: np.ndarray, passage: np.ndarray) -> dict[str, float]:
    """Each row is a class of one member; means of the measures over the classes."""
    count = len(query)
    found = []
    for row in query:
        cosines = [row @ other / np.linalg.norm(other) for other in passage]
        found.append(int(np.argmax(cosines)))
    precision, recall, f1 = [], [], []
    for i in range(count):
        true, taken = found[i] == i, found.count(i)
        precision.append(true / taken if taken else 0)
        recall.append(float(true))
        f1.append(2 * true / (taken + 1))
    accuracy = sum(found[i] == i for i in range(count)) / count
    means = {"precision": precision, "recall": recall, "f1": f1}
    return {"accuracy": accuracy} | {k: sum(v) / count for k, v in means.items()}


@pytest.mark.parametrize("noise", [0.1, 0.7, 2.0])
def test_by_definition(noise: float) -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 6))
    second = first + noise * rng.normal(size=(40, 6))
    second *= rng.uniform(0.1, 10, size=(40, 1))  # length decides nothing
    found = measure(first, second)
    backward = by_loop(second, first)
    expected = by_loop(first, second) | {f"backward/{k}": backward[k] for k in backward}
    assert found == pytest.approx(expected)
    assert found["accuracy"] == 1 if noise < 0.5 else found["f1"] < found["accuracy"]
    assert noise < 0.5 or found["accuracy"] != found["backward/accuracy"]


def test_of_equal_translations_the_first_is_found() -> None:
    found = measure(np.array([[1, 0], [1, 0], [0, 1]]), np.eye(2)[[0, 0, 1]])
    assert found["accuracy"] == found["backward/recall"] == pytest.approx(2 / 3)
    # 2 / 3 for the class that two took, 0 for the one that none did, 1 for the last.
    assert found["f1"] == pytest.approx(5 / 9)
    assert found["precision"] == pytest.approx(1 / 2)


def test_what_cannot_be_measured() -> None:
    bad = np.array([[1, 0, 0], [np.nan, 0, 0], [1, 1, 0]])
    refused = [
        ((np.eye(3), bad), "second: .* NaN or infinity in 1 of 3 rows, first in row 1"),
        ((bad, np.eye(3)), "first: .* NaN or infinity in 1 of 3 rows"),
        ((np.eye(3), np.zeros((3, 3))), "second: .* found 3 rows of zeros"),
        ((np.eye(3), np.eye(3, 4)), r"one width, found 3 \(first\), 4 \(second\)"),
        ((np.eye(3), np.eye(4, 3)[:2]), "bitext: expected as many .*, found 2 of 3"),
        ((np.eye(1), np.eye(1)), "two or more, found 1 of 1"),
    ]
    for given, message in refused:
        with pytest.raises(InputError, match=message):
            measure(*given)
