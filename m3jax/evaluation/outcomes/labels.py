"""Texts with labels: probes, few rows of each label, neighbours, prompts, clusters."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m3jax.data.labelled import read_classification
from m3jax.evaluation import classification, clustering, zero_shot
from m3jax.evaluation.classified import Classified
from m3jax.evaluation.outcome import EmbeddingMap, Outcome
from m3jax.evaluation.outcomes.settings import Settings, embed
from m3jax.evaluation.projection import project
from m3jax.inference.embedder import Embedder

_NEIGHBOURS = 5
_DRAWN = 8  # labels on the map


def outcomes(
    name: str,
    embedder: Embedder,
    path: Path,
    settings: Settings,
    *,
    language: str | None = None,
) -> Iterator[tuple[Outcome, EmbeddingMap | None]]:
    """Measure a set of texts with labels in every way.

    Args:
        name: of the set.
        embedder: the model.
        path: folder with train and test.
        settings: see `Settings`.
        language: of the texts.

    Yields:
        Classification with its map of the most frequent labels; classification by
        label prompts; clustering.

    Raises:
        InputError: a file is damaged, or too little is there.
    """
    data = read_classification(path)
    train = embed(embedder, data.train.texts, settings)
    test = embed(embedder, data.test.texts, settings)
    fitted = train, data.train.labels, test, data.test.labels
    few = f"few-shot, {settings.samples}"
    found = {
        "linear probe": classification.linear_probe(*fitted),
        few: classification.few_shot(*fitted, samples=settings.samples),
        f"{_NEIGHBOURS} neighbours": classification.knn(*fitted, k=_NEIGHBOURS),
    }
    counts = {
        "training rows": len(train),
        "test rows": len(test),
        "labels": len({*data.train.labels}),
    }
    most = [label for label, _ in Counter(data.test.labels).most_common(_DRAWN)]
    drawn = np.isin(data.test.labels, most)
    labels = [label for label in data.test.labels if label in most]
    picture = project(test[drawn], labels, title=f"{name}: {len(most)} labels")
    yield _outcome(name, "classification", found, counts, language), picture
    names = sorted({*data.train.labels})
    prompts = zero_shot.label_texts(map(_words, names), settings.label_prompt)
    shown = embed(embedder, prompts, settings)
    one = {"dense": zero_shot.measure(test, data.test.labels, shown, names)}
    yield _outcome(name, "zero_shot", one, counts, language), None
    runs = settings.runs
    yield (
        Outcome(
            name=name,
            kind="clustering",
            main="v_measure",
            values={"dense": clustering.measure(test, data.test.labels, runs=runs)},
            counts={"test rows": len(test), "labels": len({*data.test.labels})},
            language=language,
        ),
        None,
    )


def _outcome(
    name: str,
    kind: str,
    found: dict[str, Classified],
    counts: dict[str, int],
    language: str | None,
) -> Outcome:
    notes = [f"{way}: {note}" for way, one in found.items() for note in one.notes]
    return Outcome(
        name=name,
        kind=kind,
        main="accuracy",
        values={way: one.scores for way, one in found.items()},
        counts=counts,
        notes=tuple(notes),
        language=language,
    )


def _words(label: str) -> str:
    """A label as people write it: card_arrival is two words."""
    return label.replace("_", " ")
