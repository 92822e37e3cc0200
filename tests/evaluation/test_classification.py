"""Probes against scikit-learn used directly, neighbours against loops."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from m3jax.core.errors import InputError
from m3jax.evaluation.classification import few_shot, knn, linear_probe

NAMES = ("moon", "sea", "tide")


def blobs(count: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, list[str]]:
    """Embeddings that lie around a centre for each label, in no order."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(count) % len(NAMES))
    centres = 2 * np.eye(len(NAMES), 5)
    rows = centres[codes] + spread * rng.normal(size=(count, 5))
    return rows.astype(np.float32), [NAMES[code] for code in codes]


TRAIN, TEST = blobs(60, 0), blobs(40, 1)


def scores(predicted: Any, labels: list[str]) -> dict[str, float]:
    f1 = f1_score(labels, predicted, average="macro")
    return {"accuracy": accuracy_score(labels, predicted), "f1": float(f1)}


def test_linear_probe() -> None:
    fitted = LogisticRegression(max_iter=100).fit(*TRAIN)
    found = linear_probe(*TRAIN, *TEST)
    assert found.scores == pytest.approx(scores(fitted.predict(TEST[0]), TEST[1]))
    assert 0.5 < found.scores["accuracy"] < 1
    assert found.notes == ()


def test_a_probe_that_was_stopped_says_so() -> None:
    assert linear_probe(*TRAIN, *TEST, max_iter=2).unconverged == 1
    stopped = few_shot(*TRAIN, *TEST, max_iter=2, experiments=3)
    assert stopped.unconverged == 3


def test_few_shot_draws_as_mteb_does() -> None:
    rows, labels = TRAIN
    order, each = list(range(len(labels))), []
    for _ in range(4):
        np.random.RandomState(7).shuffle(order)
        taken: Counter[str] = Counter()
        drawn = []
        for row in order:
            if taken[labels[row]] < 3:
                drawn.append(row)
                taken[labels[row]] += 1
        fitted = LogisticRegression(max_iter=100)
        fitted.fit(rows[drawn], [labels[row] for row in drawn])
        each.append(scores(fitted.predict(TEST[0]), TEST[1]))
    found = few_shot(*TRAIN, *TEST, samples=3, experiments=4, seed=7)
    for name in ("accuracy", "f1"):
        values = [one[name] for one in each]
        assert found.scores[name] == pytest.approx(np.mean(values))
        assert found.scores[f"{name}_std"] == pytest.approx(np.std(values))
        assert np.std(values) > 0
    assert found.few == {}
    # The same seed, the same draws; another one, others.
    assert few_shot(*TRAIN, *TEST, samples=3, experiments=4, seed=7) == found
    other = few_shot(*TRAIN, *TEST, samples=3, experiments=4, seed=8)
    assert other.scores != found.scores


def test_few_shot_says_which_labels_are_too_few() -> None:
    rows, labels = TRAIN
    keep = [i for i in range(60) if labels[i] != "sea" or i < 20]
    there = labels[:20].count("sea")
    cut = rows[keep], [labels[i] for i in keep]
    assert few_shot(*cut, *TEST, samples=there, experiments=1).few == {}
    found = few_shot(*cut, *TEST, samples=there + 1, experiments=1)
    assert found.few == {"sea": there}
    # All rows are drawn, so that it is the probe on all of them, in another order.
    every = few_shot(*cut, *TEST, samples=60, experiments=1).scores
    whole = linear_probe(*cut, *TEST).scores
    assert every["accuracy"] == pytest.approx(whole["accuracy"])


def nearest_label(row: np.ndarray, k: int) -> str:
    rows, labels = TRAIN

    def cosine(other: np.ndarray) -> float:
        return float(row @ other / np.linalg.norm(row) / np.linalg.norm(other))

    order = sorted(range(len(rows)), key=lambda i: -cosine(rows[i]))[:k]
    votes = Counter(labels[i] for i in order)  # of equal counts, the first met
    return votes.most_common(1)[0][0]


@pytest.mark.parametrize("k", [1, 2, 5, 60])
def test_knn(k: int) -> None:
    predicted = [nearest_label(row, k) for row in TEST[0]]
    assert knn(*TRAIN, *TEST, k=k).scores == pytest.approx(scores(predicted, TEST[1]))


def test_ties_of_knn() -> None:
    # Rows 0 and 1 are the same, and longer ones are no nearer.
    train = np.array([[1, 0], [1, 0], [0, 5], [0, 9]])
    labels = ["sea", "moon", "tide", "tide"]

    def found(row: list[float], k: int, expected: str) -> bool:
        return knn(train, labels, np.array([row]), [expected], k=k).scores == {
            "accuracy": 1,
            "f1": 1,
        }

    assert found([3, 1], 1, "sea")  # of equal cosines the earlier row
    assert found([3, 1], 3, "sea")  # one vote each: the nearest
    assert found([3, 1], 4, "tide")  # the commonest, far as it is
    assert found([1, 3], 3, "tide")


METHODS = [linear_probe, few_shot, knn]


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_no_training_row_has(method: Any) -> None:
    rows, labels = TEST
    known = method(*TRAIN, rows[:30], labels[:30])
    found = method(*TRAIN, rows, labels[:30] + ["wave", "surf", "wave"] + ["surf"] * 7)
    assert found.unseen == {"surf": 8, "wave": 2}
    # They stay in the test set, as wrong ones.
    assert found.scores["accuracy"] == pytest.approx(known.scores["accuracy"] * 30 / 40)
    assert found.scores["f1"] < known.scores["f1"]
    assert known.unseen == {}


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_measured(method: Any) -> None:
    (rows, labels), (other, others) = TRAIN, TEST
    bad = other.copy()
    bad[3, 1] = np.nan
    refused = [
        ((rows, labels, bad, others), "test: .* NaN or infinity in 1 of 40 .* row 3"),
        ((rows[:0], [], other, others), r"train: .*, found the shape \(0, 5\)"),
        ((rows, labels, other[:0], []), r"test: .*, found the shape \(0, 5\)"),
        ((rows, labels, other[:, 1:], others), r"found 5 \(train\), 4 \(test\)"),
        ((rows, labels[1:], other, others), "train: expected 60 labels, .*, found 59"),
        ((rows, labels, other, others[1:]), "test: expected 40 labels, .*, found 39"),
        ((rows, ["sea"] * 60, other, others), "train: .*more, found 'sea' alone"),
    ]
    for given, message in refused:
        with pytest.raises(InputError, match=message):
            method(*given)


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        knn(*TRAIN, *TEST, k=0)
    with pytest.raises(InputError, match=r"k: expected at most 60, .*, found 61"):
        knn(*TRAIN, *TEST, k=61)
    for name in ("samples", "experiments", "max_iter"):
        with pytest.raises(InputError, match=f"{name}: expected a positive number"):
            few_shot(*TRAIN, *TEST, **{name: 0})
    with pytest.raises(InputError, match="max_iter: expected a positive number"):
        linear_probe(*TRAIN, *TEST, max_iter=0)


def test_order_of_the_training_rows_does_not_matter_to_knn() -> None:
    rows, labels = TRAIN
    order = random.Random(0).sample(range(60), 60)
    turned = rows[order], [labels[i] for i in order]
    assert knn(*turned, *TEST) == knn(*TRAIN, *TEST)
