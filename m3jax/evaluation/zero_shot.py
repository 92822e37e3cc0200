"""Classification without training rows: every label is a text, the nearest wins."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.evaluation import classified
from m3jax.evaluation.classified import Classified
from m3jax.evaluation.rows import (
    require_labels,
    require_one_width,
    require_two_labels,
    unit,
)
from m3jax.inference.dense_search import top_k

_PLACE = "{}"


def label_texts(names: Iterable[str], template: str = _PLACE) -> list[str]:
    """Make a text of each label.

    Args:
        names: the labels, in words.
        template: the text, with {} where the label stands.

    Returns:
        The texts, to be encoded as the texts to classify are.

    Raises:
        InputError: the template has no {}, so that all texts would be the same.

    Example:
        >>> label_texts(["great", "terrible"], "It is a {} film.")
        ['It is a great film.', 'It is a terrible film.']
    """
    if _PLACE not in template:
        expected = f"a template with {_PLACE} in it"
        raise InputError(expected, repr(template), where="template")
    return [template.replace(_PLACE, name) for name in names]


def measure(
    texts: np.ndarray, labels: Sequence[str], prompts: np.ndarray, names: Sequence[str]
) -> Classified:
    """Give each text the label whose prompt is nearest, and measure how many are right.

    Nearest by cosine; of equal cosines the label that is named first.

    Args:
        texts: embeddings of the texts, `[q e]`.
        labels: the right labels of the texts.
        prompts: embeddings of the labels' texts, `[p e]`; see `label_texts`.
        names: the labels of the prompts, each once.

    Returns:
        accuracy and f1; labels that are not among the names are told in `unseen`.

    Raises:
        InputError: embeddings are not finite or zero, numbers of rows or widths differ,
            or the names are fewer than two or not unique.

    Source: Wang et al. 2022 (E5), zero-shot text classification, arXiv:2212.03533.

    Example:
        >>> texts, prompts = np.array([[0.1, 0.9], [0.8, 0.2]]), np.eye(2)
        >>> measure(texts, ["sea", "tide"], prompts, ["moon", "sea"]).unseen
        {'tide': 1}
    """
    texts, prompts = unit(texts, where="texts"), unit(prompts, where="prompts")
    require_one_width(texts=texts, prompts=prompts)
    require_labels(labels, texts, where="texts")
    require_labels(names, prompts, where="prompts")
    require_two_labels(names, where="prompts")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        found = f"{twice[0]!r} again"
        raise InputError("each label once", found, where="prompts")
    _, at = top_k(texts, prompts, 1)
    nearest: list[int] = at[:, 0].tolist()
    scores = classified.measure([names[i] for i in nearest], labels)
    return Classified(scores, classified.unseen(labels, names))
