"""How well texts find their translations."""

from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation.rows import require_one_width, unit
from m3jax.inference.dense_search import top_k

METRICS = ("accuracy", "f1", "precision", "recall")


def measure(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Find the nearest translation of each text, and the nearest text of each.

    Nearest by cosine, exact; of equal cosines the earlier one. So of two translations
    that are the same text, the second is never found.

    Every row is a class of its own, of one member, and f1, precision and recall are
    means over the classes: precision counts how many others took a translation for
    theirs. So f1 <= accuracy, and recall = accuracy.

    Args:
        first: embeddings of texts, `[n e]`.
        second: embeddings of their translations, in the same order, `[n e]`.

    Returns:
        accuracy, f1, precision and recall of the search with the first in the second,
        as mteb reports them, and backward/accuracy and so on of the other direction.

    Raises:
        InputError: embeddings are not finite or zero, their numbers or widths differ,
            or there are fewer than two pairs.

    Source: mteb's AbsTaskBitextMining; Artetxe and Schwenk 2019 (the Tatoeba sets),
    arXiv:1812.10464.

    Example:
        >>> first, second = np.eye(3), np.array([[9, 1, 0], [8, 0, 1], [0, 0, 1]])
        >>> measure(first, second)["backward/accuracy"]
        0.6666666666666666
    """
    first, second = unit(first, where="first"), unit(second, where="second")
    require_one_width(first=first, second=second)
    if len(first) != len(second) or len(first) < 2:
        expected = "as many translations as texts, two or more"
        found = f"{len(second)} of {len(first)}"
        raise InputError(expected, found, where="bitext")
    backward = _directed(second, first)
    return _directed(first, second) | {
        f"backward/{name}": value for name, value in backward.items()
    }


def _directed(query: np.ndarray, passage: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    _, at = top_k(query, passage, 1)
    found, right = at[:, 0], np.arange(len(query))
    zero: Any = 0  # scikit-learn's stubs know only "warn"
    precision, recall, f1, _ = precision_recall_fscore_support(
        right, found, average="weighted", zero_division=zero
    )
    values: tuple[Any, ...] = accuracy_score(right, found), f1, precision, recall
    return {name: float(value) for name, value in zip(METRICS, values, strict=True)}
