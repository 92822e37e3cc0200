"""Texts with labels: probes, few rows of each label, neighbours, prompts, clusters."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from m3jax.data.labelled import Classification, read_classification
from m3jax.evaluation import classification, clustering, zero_shot
from m3jax.evaluation.classified import Classified
from m3jax.evaluation.contents import label
from m3jax.evaluation.outcome import EmbeddingMap, Outcome
from m3jax.evaluation.outcomes.settings import Settings, embed
from m3jax.evaluation.projection import project
from m3jax.evaluation.test_sets import SPLIT
from m3jax.inference.embedder import Embedder

_NEIGHBOURS = 5
_DRAWN = 8  # labels on the map


def outcomes(
    name: str,
    embedder: Embedder,
    path: Path,
    settings: Settings,
    *,
    split: str = SPLIT,
    language: str | None = None,
) -> Iterator[tuple[Outcome, EmbeddingMap | None]]:
    """Measure a set of texts with labels in every way that it is large enough for.

    Args:
        name: of the set.
        embedder: the model.
        path: folder with train and test.
        settings: see `Settings`; `say` is told if it is too small for all of them.
        split: which file is measured on.
        language: of the texts.

    Yields:
        Classification with its map of the most frequent labels, and classification by
        label prompts, if there are labels to tell apart in train; clustering, if there
        are in test. What is left out the notes of the others tell.

    Raises:
        InputError: a file is damaged.
    """
    data = read_classification(path, split)
    learnt, right = data.train.labels, data.test.labels
    classified, clustered = len({*learnt}) > 1, len({*right}) > 1
    if not classified and not clustered:
        title = label(name, language or "")
        settings.say(f"{title} is left out: train and {split} have one label each")
        return
    test = embed(embedder, data.test.texts, settings)
    if classified:
        note = f"Not clustered, because all rows of {split} are {right[0]!r}."
        notes = () if clustered else (note,)
        yield from _classified(name, embedder, data, test, settings, language, notes)
    if clustered:
        note = f"Not classified, because all rows of train are {learnt[0]!r}."
        found = clustering.measure(test, right, runs=settings.runs)
        yield (
            Outcome(
                name=name,
                kind="clustering",
                main="v_measure",
                values={"dense": found},
                counts={"test rows": len(test), "labels": len({*right})},
                notes=() if classified else (note,),
                language=language,
            ),
            None,
        )


def _classified(
    name: str,
    embedder: Embedder,
    data: Classification,
    test: np.ndarray,
    settings: Settings,
    language: str | None,
    notes: tuple[str, ...],
) -> Iterator[tuple[Outcome, EmbeddingMap | None]]:
    learnt, right = data.train.labels, data.test.labels
    train = embed(embedder, data.train.texts, settings)
    fitted = train, learnt, test, right
    few = f"few-shot, {settings.samples}"
    k = min(_NEIGHBOURS, len(train))
    found = {
        "linear probe": classification.linear_probe(*fitted),
        few: classification.few_shot(*fitted, samples=settings.samples),
        f"{k} neighbours": classification.knn(*fitted, k=k),
    }
    if k < _NEIGHBOURS:
        notes = (f"{k} neighbours for {_NEIGHBOURS}: train has no more rows.", *notes)
    counts = {
        "training rows": len(train),
        "test rows": len(test),
        "labels": len({*learnt}),
    }
    picture = _picture(name, test, right)
    yield _outcome(name, "classification", found, counts, language, notes), picture
    names = sorted({*learnt})
    prompts = zero_shot.label_texts(map(_words, names), settings.label_prompt)
    shown = embed(embedder, prompts, settings)
    one = {"dense": zero_shot.measure(test, right, shown, names)}
    yield _outcome(name, "zero_shot", one, counts, language), None


def _picture(
    name: str, test: np.ndarray, right: tuple[str, ...]
) -> EmbeddingMap | None:
    """The rows of the most frequent labels, if they are enough for a map."""
    most = [one for one, _ in Counter(right).most_common(_DRAWN)]
    labels = [one for one in right if one in most]
    if len(labels) < 2:
        return None
    drawn = np.isin(right, most)
    return project(test[drawn], labels, title=f"{name}: {len(most)} labels")


def _outcome(
    name: str,
    kind: str,
    found: dict[str, Classified],
    counts: dict[str, int],
    language: str | None,
    more: tuple[str, ...] = (),
) -> Outcome:
    notes = [f"{way}: {note}" for way, one in found.items() for note in one.notes]
    return Outcome(
        name=name,
        kind=kind,
        main="accuracy",
        values={way: one.scores for way, one in found.items()},
        counts=counts,
        notes=(*notes, *more),
        language=language,
    )


def _words(label: str) -> str:
    """A label as people write it: card_arrival is two words."""
    return label.replace("_", " ")
