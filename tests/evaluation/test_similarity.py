"""Correlations against their definitions, and the cosines of a model."""

import math
from collections.abc import Sequence

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.prompts import Prompts
from m3jax.data.records import Similarity
from m3jax.evaluation.similarity import correlate, score
from m3jax.inference.encode import encode
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    a, b = sum(x) / len(x), sum(y) / len(y)
    both = math.fsum((u - a) * (v - b) for u, v in zip(x, y, strict=True))
    squares = [math.fsum((u - m) ** 2 for u in z) for z, m in ((x, a), (y, b))]
    return both / math.sqrt(squares[0] * squares[1])


def ranks(x: Sequence[float]) -> list[float]:
    """1 for the smallest; equal numbers share the mean of their ranks."""
    return [sum(v < u for v in x) + (sum(v == u for v in x) + 1) / 2 for u in x]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [2, 8, 1_024])
def test_by_definition(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    grades = [0.0, 5.0, *rng.integers(0, levels, 40).tolist()]
    cosines = rng.integers(-levels, levels, 42) / levels
    found = correlate(cosines.astype(np.float32), grades)
    assert found["pearson"] == pytest.approx(
        pearson(cosines.tolist(), grades), abs=1e-6
    )
    expected = pearson(ranks(cosines.tolist()), ranks(grades))
    assert found["spearman"] == pytest.approx(expected, abs=1e-6)
    assert list(found) == ["spearman", "pearson"]


def test_order_alone_decides_spearman() -> None:
    grades = [1, 2, 2, 5]
    assert correlate([0.1, 0.2, 0.2, 0.3], grades)["spearman"] == pytest.approx(1)
    assert correlate([-9, -99, -99, -100], grades)["spearman"] == pytest.approx(-1)
    # One tie broken: not the whole.
    assert correlate([0.1, 0.2, 0.21, 0.3], grades)["spearman"] < 0.96
    assert correlate([0.5] * 4, grades) == {"spearman": 0, "pearson": 0}


@pytest.mark.parametrize(
    ("cosines", "grades", "message"),
    [
        ([0.1, 0.2], [3, 3], "pairs of two grades or more, found 2 pairs of one grade"),
        ([0.1], [3], "found 1 pairs"),
        ([], [], "found 0 pairs"),
        ([0.1, 0.2], [1, 2, 3], r"expected \(2,\) grades, found \(3,\)"),
    ],
)
def test_what_has_no_correlation(cosines, grades, message) -> None:
    with pytest.raises(InputError, match=message):
        correlate(cosines, grades)


def test_cosines_of_a_model_with_the_query_prompt_on_both_sides() -> None:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size, layers=1))
    model = module, init(module, jax.random.key(0)), tokenizer
    words = " ".join(TEXTS).split()
    first = tuple(" ".join(words[i : i + 3]) for i in range(8))
    second = tuple(" ".join(words[2 * i : 2 * i + 2]) for i in range(8))
    data = Similarity(first, second, (0, 1, 2, 3, 3, 2, 1, 0))

    def cosines(*prompts: str) -> list[float]:
        left, right = (
            encode(*model, [prompt + text for text in texts], max_length=16).dense
            for prompt, texts in zip(prompts, (first, second), strict=True)
        )
        assert left is not None and right is not None
        return (left * right).sum(axis=1).tolist()

    prompts = Prompts(query="the sea: ", passage="a moon ")
    found = score(*model, data, prompts, max_length=16)
    assert found == pytest.approx(
        correlate(cosines("the sea: ", "the sea: "), data.scores), abs=1e-5
    )
    for other in ("a moon ", ""):
        apart = correlate(cosines("the sea: ", other), data.scores)
        assert abs(apart["pearson"] - found["pearson"]) > 1e-3
    on_mesh = score(*model, data, prompts, max_length=16, mesh=make_mesh(MeshConfig()))
    assert on_mesh == pytest.approx(found, abs=1e-5)
