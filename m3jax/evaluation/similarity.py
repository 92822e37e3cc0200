"""How well cosines follow the grades of people: Spearman and Pearson."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts
from m3jax.data.records import Similarity
from m3jax.data.tokenize import Tokenizer
from m3jax.inference.encode import encode
from m3jax.nn.embedding import EmbeddingModule

METRICS = ("spearman", "pearson")


def correlate(
    cosines: Sequence[float] | np.ndarray, grades: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """Correlate cosines with grades.

    pearson = cov(c, g) / (std(c) std(g)); spearman is the same of the ranks, where
    equal numbers share the mean of their ranks.

    Args:
        cosines: of n pairs.
        grades: of the same pairs, on any scale.

    Returns:
        spearman and pearson, from -1 to 1; both 0 where all cosines are equal, for then
        they tell no pair from another.

    Raises:
        InputError: the numbers of pairs differ, or all grades are equal.

    Source: Spearman 1904; as STS tasks are measured since SemEval 2012.

    Example:
        >>> correlate([0.1, 0.2, 0.9], [1, 2, 3])["spearman"]
        1.0
    """
    x, y = np.asarray(cosines, np.float64), np.asarray(grades, np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise InputError(f"{x.shape} grades", f"{y.shape}", where="correlate")
    if len(y) < 2 or np.ptp(y) == 0:
        found = f"{len(y)} pairs of one grade"
        raise InputError("pairs of two grades or more", found, where="correlate")
    if np.ptp(x) == 0:
        return dict.fromkeys(METRICS, 0.0)
    # scipy's stubs do not know that the first of these is a number.
    spearman: Any = scipy.stats.spearmanr(x, y)[0]
    pearson: Any = scipy.stats.pearsonr(x, y)[0]
    return {"spearman": float(spearman), "pearson": float(pearson)}


def score(
    module: EmbeddingModule,
    params: Params,
    tokenizer: Tokenizer,
    data: Similarity,
    prompts: Prompts,
    *,
    max_length: int,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Measure the dense embeddings of a model on graded pairs.

    Both texts of a pair are of one kind, so the query prompt stands before both, as in
    E5's and Qwen3-Embedding's evaluation.

    Args:
        module: the model.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        data: the pairs.
        prompts: of the model.
        max_length: tokens kept of each text.
        mesh: devices that share the rows.
        batch_tokens: tokens in a batch; see `inference.encode`.
        progress: show a bar on a terminal.

    Returns:
        spearman and pearson of the cosines; see `correlate`.

    Raises:
        InputError: the length does not fit the model, or all grades are equal.
    """
    encoded = encode(
        module,
        params,
        tokenizer,
        [prompts.query + text for text in (*data.first, *data.second)],
        max_length=max_length,
        batch_tokens=batch_tokens,
        mesh=mesh,
        progress=progress,
        description="pairs",
    )
    assert encoded.dense is not None  # it is what encode computes by default
    first, second = np.split(encoded.dense, 2)
    return correlate(np.einsum("ne,ne->n", first, second), data.scores)
