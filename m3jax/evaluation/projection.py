"""Embeddings on a map: the two directions in which they differ most."""

from collections.abc import Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.outcome import EmbeddingMap


def project(
    vectors: np.ndarray,
    labels: Sequence[str],
    *,
    title: str,
    at_most: int = 2_000,
    seed: int = 0,
) -> EmbeddingMap:
    """Draw embeddings in two dimensions by principal components.

    The components are computed exactly, and each points to where its largest weight is
    positive, so that the same embeddings always give the same map.

    Args:
        vectors: `[n e]`, at least two of them and two wide.
        labels: one a vector.
        title: what the vectors are.
        at_most: points on the map; of more vectors as many are drawn at random.
        seed: of the draw.

    Returns:
        Points rounded to 5 digits, in the order of the vectors.

    Raises:
        InputError: the shape does not fit, or a number is not finite.

    Source: Pearson 1901; scikit-learn's `PCA`.

    Example:
        >>> vectors = np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
        >>> found = project(vectors, ["a", "b", "b"], title="three texts")
        >>> found.points, found.shares
        (((-2.0, 0.0), (0.0, 0.0), (2.0, 0.0)), (1.0, 0.0))
    """
    where = f"map {title}"
    if vectors.ndim != 2 or min(vectors.shape) < 2:
        expected = "at least two embeddings, at least two wide"
        raise InputError(expected, f"shape {vectors.shape}", where=where)
    if len(labels) != len(vectors):
        raise InputError(f"{len(vectors)} labels", f"{len(labels)}", where=where)
    if at_most < 2:
        raise InputError("two points or more", f"{at_most}", where=where)
    rows = np.arange(len(vectors))
    if len(vectors) > at_most:
        # At random: rows that are evenly spread may all be of one language.
        drawn = np.random.default_rng(seed).choice(rows, at_most, replace=False)
        rows = np.sort(drawn)
    chosen = np.asarray(vectors[rows], np.float64)
    if not np.isfinite(chosen).all():
        raise InputError("finite numbers", "others", where=where)
    points, shares = _principal(chosen)
    return EmbeddingMap(
        title,
        tuple((x, y) for x, y in points.tolist()),
        tuple(labels[row] for row in rows.tolist()),
        (shares[0], shares[1]),
    )


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, list[float]]:
    from sklearn.decomposition import PCA

    if not np.ptp(vectors, axis=0).any():  # no direction explains a part of nothing
        return np.zeros((len(vectors), 2)), [0.0, 0.0]
    pca = PCA(2, svd_solver="full")
    # + 0: no minus before a zero.
    return pca.fit_transform(vectors).round(
        5
    ) + 0, pca.explained_variance_ratio_.tolist()
