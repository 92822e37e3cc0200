"""The map against principal components by hand."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.projection import project


def by_hand(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors of the covariance, each with its largest weight positive."""
    centred = vectors - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :2]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, [0, 1]])
    return centred @ axes, values[::-1][:2] / values.sum()


@pytest.mark.parametrize(("n", "e"), [(50, 6), (5, 30), (2, 2)])
def test_components(n: int, e: int) -> None:
    rng = np.random.default_rng(n)
    vectors = (rng.normal(size=(n, e)) * np.linspace(3, 1, e)).astype(np.float32)
    labels = [f"label {i}" for i in range(n)]
    found = project(vectors, labels, title="t")
    points, shares = by_hand(vectors.astype(np.float64))
    if n > 2:
        np.testing.assert_allclose(found.points, points, atol=2e-5)
    np.testing.assert_allclose(found.points[0][0], points[0][0], atol=2e-5)
    np.testing.assert_allclose(found.shares, shares, atol=1e-6)
    assert found.labels == tuple(labels)
    assert found == project(vectors, labels, title="t")


def test_signs_do_not_follow_the_order_of_the_rows() -> None:
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    labels = ["x"] * 40
    there, back = (project(x, labels, title="t") for x in (vectors, vectors[::-1]))
    np.testing.assert_allclose(there.points, back.points[::-1], atol=2e-5)


def test_at_most() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 4))
    labels = [f"{i % 12}" for i in range(600)]  # as twelve languages in turn
    found = project(vectors, labels, title="t", at_most=50)
    assert len(found.points) == len(found.labels) == 50
    assert len(set(found.labels)) > 8
    assert found == project(vectors, labels, title="t", at_most=50)
    assert found != project(vectors, labels, title="t", at_most=50, seed=1)
    rows = project(vectors, [str(i) for i in range(600)], title="t", at_most=50).labels
    chosen = [int(row) for row in rows]
    assert chosen == sorted(set(chosen))
    points, _ = by_hand(vectors[chosen])
    np.testing.assert_allclose(found.points, points, atol=2e-5)


def test_all_alike() -> None:
    found = project(np.full((3, 4), 0.1), ["a", "b", "c"], title="t")
    assert found.points == ((0.0, 0.0),) * 3 and found.shares == (0.0, 0.0)


@pytest.mark.parametrize(
    ("vectors", "labels", "at_most", "message"),
    [
        (np.zeros((1, 4)), ["a"], 9, r"map t: .* two embeddings.*found shape \(1, 4\)"),
        (np.zeros((4, 1)), ["a"] * 4, 9, r"at least two wide, found shape \(4, 1\)"),
        (np.zeros(4), ["a"] * 4, 9, r"found shape \(4,\)"),
        (np.zeros((4, 4)), ["a"], 9, "expected 4 labels, found 1"),
        (np.zeros((4, 4)), ["a"] * 4, 1, "two points or more, found 1"),
        (np.full((4, 4), np.nan), ["a"] * 4, 9, "map t: expected finite numbers"),
    ],
)
def test_what_has_no_map(vectors, labels, at_most: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        project(vectors, labels, title="t", at_most=at_most)
