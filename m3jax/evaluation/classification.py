"""How well labels can be read off embeddings: probes and nearest neighbours."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.classified import METRICS, Classified, measure, unseen
from m3jax.evaluation.rows import (
    finite,
    require_labels,
    require_one_width,
    require_positive,
    require_two_labels,
    unit,
)
from m3jax.inference.dense_search import top_k


def linear_probe(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    max_iter: int = 100,
) -> Classified:
    """Fit a logistic regression to all training rows, and measure it on the test set.

    Args:
        train: embeddings to learn from, `[n e]`, taken as they are.
        train_labels: of the same rows.
        test: embeddings to be measured on, `[q e]`.
        test_labels: of the same rows.
        max_iter: steps of the solver, at most.

    Returns:
        accuracy and f1.

    Raises:
        InputError: embeddings are not finite, numbers of rows or widths differ, all
            training labels are the same, or max_iter is below 1.

    Source: scikit-learn's LogisticRegression (l2, C = 1, lbfgs), as mteb's
    classification tasks call it.

    Example:
        >>> train, test = np.array([[0, 1], [1, 0]]), np.array([[0.1, 0.9]])
        >>> linear_probe(train, ["sea", "moon"], test, ["sea"]).scores["accuracy"]
        1.0
    """
    require_positive(max_iter=max_iter)
    task = _task(finite, train, train_labels, test, test_labels)
    predicted, unconverged = _probe(task, np.arange(len(task.train)), max_iter)
    scores = measure(predicted, task.test_codes)
    return Classified(scores, task.unseen, unconverged=unconverged)


def few_shot(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    samples: int = 8,
    experiments: int = 10,
    max_iter: int = 100,
    seed: int = 42,
) -> Classified:
    """Fit logistic regressions to a few rows of each label, drawn several times.

    The draws are mteb's: the numbers of the rows are shuffled, of each label the first
    few are taken, and the next experiment shuffles what has been shuffled before.

    Args:
        train: embeddings to draw from, `[n e]`, taken as they are.
        train_labels: of the same rows.
        test: embeddings to be measured on, `[q e]`.
        test_labels: of the same rows.
        samples: rows drawn of each label; of a label with fewer all are, said in `few`.
        experiments: how often.
        max_iter: steps of the solver, at most.
        seed: of the draws.

    Returns:
        accuracy and f1, means over the experiments, and accuracy_std and f1_std, their
        standard deviations (of the experiments as they are, not an estimate of more).

    Raises:
        InputError: embeddings are not finite, numbers of rows or widths differ, all
            training labels are the same, or a number is below 1.

    Source: Muennighoff et al. 2023 (MTEB), arXiv:2210.07316; mteb's
    AbsTaskClassification.

    Example:
        >>> train, test = np.array([[0, 1], [1, 0]] * 9), np.array([[0.1, 0.9]])
        >>> few_shot(train, ["sea", "moon"] * 9, test, ["sea"]).scores["accuracy_std"]
        0.0
    """
    require_positive(samples=samples, experiments=experiments, max_iter=max_iter)
    task = _task(finite, train, train_labels, test, test_labels)
    order = np.arange(len(task.train))
    found, unconverged = [], 0
    for _ in range(experiments):
        np.random.RandomState(seed).shuffle(order)
        predicted, more = _probe(task, _first(order, task.codes, samples), max_iter)
        found.append(measure(predicted, task.test_codes))
        unconverged += more
    rows = {name: [one[name] for one in found] for name in METRICS}
    scores = {name: float(np.mean(row)) for name, row in rows.items()}
    scores |= {f"{name}_std": float(np.std(row)) for name, row in rows.items()}
    counts = sorted(Counter(train_labels).items())
    few = {label: count for label, count in counts if count < samples}
    return Classified(scores, task.unseen, few, unconverged)


def knn(
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
    *,
    k: int = 5,
) -> Classified:
    """Give each row of the test set the commonest label of its nearest training rows.

    Nearest by cosine, exact; of equal cosines the earlier row. Of labels that are
    equally common among the k, the one whose nearest row is nearest.

    Args:
        train: embeddings with known labels, `[n e]`.
        train_labels: of the same rows.
        test: embeddings to be measured on, `[q e]`.
        test_labels: of the same rows.
        k: neighbours that vote; at most n.

    Returns:
        accuracy and f1.

    Raises:
        InputError: embeddings are not finite or zero, numbers of rows or widths differ,
            all training labels are the same, or k does not fit.

    Example:
        >>> train, test = np.array([[0, 1], [1, 0]]), np.array([[0.1, 0.9]])
        >>> knn(train, ["sea", "moon"], test, ["sea"], k=1).scores["accuracy"]
        1.0
    """
    require_positive(k=k)
    task = _task(unit, train, train_labels, test, test_labels)
    if k > len(task.train):
        expected = f"at most {len(task.train)}, the training rows"
        raise InputError(expected, f"{k}", where="k")
    _, at = top_k(task.test, task.train, k)
    found = task.codes[at]  # [q k], the nearest first
    votes = np.zeros(found.shape, np.int64)
    for i in range(k):
        votes += found == found[:, i, None]
    best = votes.argmax(axis=1)  # of equal votes the first, so the nearest
    predicted = found[np.arange(len(found)), best]
    return Classified(measure(predicted, task.test_codes), task.unseen)


@dataclass(frozen=True, eq=False)
class _Task:
    """Both parts, checked, with numbers for labels."""

    train: np.ndarray
    codes: np.ndarray
    test: np.ndarray
    test_codes: np.ndarray
    unseen: Mapping[str, int]


def _task(
    check: Callable[..., np.ndarray],
    train: np.ndarray,
    train_labels: Sequence[str],
    test: np.ndarray,
    test_labels: Sequence[str],
) -> _Task:
    train, test = check(train, where="train"), check(test, where="test")
    require_one_width(train=train, test=test)
    require_labels(train_labels, train, where="train")
    require_labels(test_labels, test, where="test")
    require_two_labels(train_labels, where="train")
    names = sorted({*train_labels, *test_labels})
    number = {name: i for i, name in enumerate(names)}
    return _Task(
        train,
        np.array([number[label] for label in train_labels]),
        test,
        np.array([number[label] for label in test_labels]),
        unseen(test_labels, train_labels),
    )


def _first(order: np.ndarray, codes: np.ndarray, samples: int) -> np.ndarray:
    """Of each label the first rows, in that order."""
    taken: Counter[int] = Counter()
    rows = []
    for row, code in zip(order.tolist(), codes[order].tolist(), strict=True):
        if taken[code] < samples:
            taken[code] += 1
            rows.append(row)
    return np.array(rows)


def _probe(task: _Task, rows: np.ndarray, max_iter: int) -> tuple[np.ndarray, int]:
    """Labels that a logistic regression finds, and 1 if it was stopped too early."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is counted instead
        probe.fit(task.train[rows], task.codes[rows])
    return np.asarray(probe.predict(task.test)), int(probe.n_iter_.max() >= max_iter)
