"""Semantic similarity: Spearman's correlation, alignment and uniformity."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from m3jax.data.config import Dataset
from m3jax.data.similarity import read_similarity
from m3jax.evaluation import similarity, sts, uniformity
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.outcomes.settings import Settings, embed
from m3jax.evaluation.test_sets import SPLIT, rows_file
from m3jax.inference.embedder import Embedder

_HIGH = 0.8  # of the highest grade: SimCSE's 4 of 5


def outcomes(
    name: str,
    embedder: Embedder,
    parts: Mapping[str, Path],
    settings: Settings,
    *,
    split: str = SPLIT,
) -> Iterator[Outcome]:
    """Measure graded pairs; of several subsets also all of them together.

    Args:
        name: of the set.
        embedder: the model.
        parts: subset or language -> folder or file.
        settings: see `Settings`.
        split: which file of a folder.

    Yields:
        The outcome of each subset; then, of several, their correlation as one list
        (SimCSE's "all"), the mean of the subsets' and the mean weighted by size.

    Raises:
        InputError: a file is damaged.
    """
    cosines, grades = {}, {}
    for part, path in parts.items():
        data = read_similarity(Dataset(str(rows_file(path, split))))
        both = embed(embedder, (*data.first, *data.second), settings)
        first, second = np.split(both, 2)
        cosines[part] = np.einsum("ne,ne->n", first, second)
        grades[part] = np.array(data.scores)
        least = _HIGH * max(data.scores)
        values = similarity.correlate(cosines[part], grades[part])
        values |= uniformity.measure(first, second, grades[part], least=least)
        yield Outcome(
            name=name,
            kind="sts",
            main="spearman",
            values={"dense": values},
            counts={"pairs": len(data.scores)},
            language=part or None,
        )
    if len(parts) > 1:
        together = sts.aggregate(cosines, grades)
        yield Outcome(
            name=f"{name}, all subsets",
            kind="sts",
            main="all",
            values={"dense": together},
            counts={"pairs": sum(map(len, grades.values()))},
        )
