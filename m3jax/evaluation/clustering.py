"""How well clusters of embeddings follow the labels of their texts."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.rows import (
    finite,
    require_labels,
    require_positive,
    require_two_labels,
)

METRICS = ("v_measure",)


def measure(
    embeddings: np.ndarray,
    labels: Sequence[str],
    *,
    runs: int = 10,
    rows: int | None = 16_384,
    batch_size: int = 512,
    seed: int = 42,
) -> dict[str, float]:
    """Cluster embeddings by k-means, and compare the clusters with the labels.

    k is the number of labels. v = 2 h c / (h + c), with h the homogeneity (a cluster
    holds one label) and c the completeness (a label lies in one cluster). Each run
    clusters rows that are drawn anew, with replacement, as mteb does it.

    Args:
        embeddings: `[n e]`, taken as they are.
        labels: of the same rows.
        runs: how often.
        rows: drawn for each run; None clusters all of them as they are, and then the
            runs differ in where the clusters begin.
        batch_size: rows of a step of mini-batch k-means.
        seed: of the draws and of the first centres.

    Returns:
        v_measure, the mean over the runs, from 0 to 1, and v_measure_std, their
        standard deviation.

    Raises:
        InputError: embeddings are not finite, the numbers differ, all labels are the
            same, there are fewer rows than labels, or a number is below 1.

    Source: Rosenberg and Hirschberg 2007; scikit-learn's MiniBatchKMeans and
    v_measure_score, as mteb's AbsTaskClustering calls them.

    Example:
        >>> embeddings = np.array([[0, 0], [0, 0.1], [9, 9], [9, 9.1]])
        >>> measure(embeddings, ["sea", "sea", "moon", "moon"], rows=None)
        {'v_measure': 1.0, 'v_measure_std': 0.0}
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import v_measure_score

    require_positive(runs=runs, batch_size=batch_size)
    embeddings = finite(embeddings, where="clustering")
    require_labels(labels, embeddings, where="clustering")
    require_two_labels(labels, where="clustering")
    names = sorted(set(labels))
    if rows is not None and rows < len(names):
        expected = f"at least {len(names)}, the number of labels"
        raise InputError(expected, f"{rows}", where="rows")
    number = {name: i for i, name in enumerate(names)}
    codes = np.array([number[label] for label in labels])
    once: Any = 1  # scikit-learn's stubs know only "auto"
    draw, found = random.Random(seed), []
    for run in range(runs):
        if rows is None:
            at, start = np.arange(len(codes)), seed + run
        else:
            at, start = np.array(draw.choices(range(len(codes)), k=rows)), seed
        clusters = MiniBatchKMeans(
            len(names), batch_size=batch_size, n_init=once, random_state=start
        )
        assigned = clusters.fit_predict(embeddings[at])
        found.append(float(v_measure_score(codes[at], assigned)))
    return {"v_measure": float(np.mean(found)), "v_measure_std": float(np.std(found))}
