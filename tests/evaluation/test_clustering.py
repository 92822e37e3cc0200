"""Clusters against scikit-learn used directly, and against what V-measure means."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import MiniBatchKMeans

from m3jax.core.errors import InputError
from m3jax.evaluation.clustering import measure

NAMES = ("moon", "sea", "tide")


def blobs(spread: float) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 90)
    rows = 3 * np.eye(3)[codes] + spread * rng.normal(size=(90, 3))
    return rows.astype(np.float32), [NAMES[code] for code in codes]


def entropy(counts: Sequence[int]) -> float:
    total = sum(counts)
    return -math.fsum(c / total * math.log(c / total) for c in counts)


def v_measure(labels: Sequence[Any], clusters: Sequence[Any]) -> float:
    """2 I / (H(labels) + H(clusters)), which is the mean of both entropies' shares."""
    both = list(zip(labels, clusters, strict=True))
    one, two, joint = (
        entropy(list(Counter(x).values())) for x in (labels, clusters, both)
    )
    return 2 * (one + two - joint) / (one + two)


@pytest.mark.parametrize("rows", [None, 50])
def test_against_scikit_learn(rows: int | None) -> None:
    embeddings, labels = blobs(1.5)
    draw, each = random.Random(5), []
    for run in range(3):
        at = list(range(90)) if rows is None else draw.choices(range(90), k=rows)
        clusters: Any = MiniBatchKMeans(
            n_clusters=3,
            batch_size=32,
            init="k-means++",
            n_init=1,  # type: ignore[arg-type]
            random_state=5 + run if rows is None else 5,
        )
        assigned = clusters.fit_predict(embeddings[at]).tolist()
        each.append(v_measure([labels[i] for i in at], assigned))
    found = measure(embeddings, labels, runs=3, rows=rows, batch_size=32, seed=5)
    assert found["v_measure"] == pytest.approx(np.mean(each))
    assert found["v_measure_std"] == pytest.approx(np.std(each))
    assert 0.05 < found["v_measure"] < 0.95 and found["v_measure_std"] > 0
    again = measure(embeddings, labels, runs=3, rows=rows, batch_size=32, seed=5)
    assert again == found


def test_from_nothing_to_all() -> None:
    embeddings, labels = blobs(0.01)
    assert measure(embeddings, labels, runs=2, rows=200)["v_measure"] == pytest.approx(
        1
    )
    same = np.ones_like(embeddings)
    assert measure(same, labels, runs=2, rows=200)["v_measure"] == pytest.approx(0)
    # Names of labels mean nothing.
    other = ["abc"[NAMES.index(label)] for label in reversed(labels)]
    turned = measure(embeddings[::-1], other, runs=2, rows=200)["v_measure"]
    assert turned == pytest.approx(1)


def test_what_cannot_be_measured() -> None:
    embeddings, labels = blobs(1.0)
    bad = embeddings.copy()
    bad[7] = np.inf
    refused: list[tuple[Any, Any, dict[str, Any], str]] = [
        (bad, labels, {}, "clustering: .* NaN or infinity in 1 of 90 rows, .* row 7"),
        (embeddings[:0], [], {}, r"found the shape \(0, 3\)"),
        (embeddings, labels[1:], {}, "expected 90 labels, one a row, found 89"),
        (embeddings, ["sea"] * 90, {}, "two labels or more, found 'sea' alone"),
        (embeddings, labels, {"rows": 2}, "rows: expected at least 3, .*, found 2"),
        (embeddings, labels, {"runs": 0}, "runs: expected a positive number"),
        (embeddings, labels, {"batch_size": 0}, "batch_size: expected a positive"),
    ]
    for rows, names, options, message in refused:
        with pytest.raises(InputError, match=message):
            measure(rows, names, **options)
