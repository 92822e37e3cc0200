"""Labels whose text is nearest, against a loop."""

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.classified import measure as compare
from m3jax.evaluation.zero_shot import label_texts, measure

NAMES = ["moon", "sea", "tide"]


def test_label_texts() -> None:
    assert label_texts(NAMES[:2]) == ["moon", "sea"]
    found = label_texts(["{0} {x}", "sea"], "the {}, {}!")
    assert found == ["the {0} {x}, {0} {x}!", "the sea, sea!"]
    for template in ("", "the sea", "the {label}"):
        with pytest.raises(
            InputError, match=r"template: expected .* \{\} in it, found '"
        ):
            label_texts(NAMES, template)


def test_the_nearest_label() -> None:
    rng = np.random.default_rng(0)
    texts, prompts = rng.normal(size=(30, 4)), rng.normal(size=(3, 4))
    # Length decides nothing.
    prompts *= np.array([[1], [10], [0.1]])
    labels = rng.choice(NAMES, 30).tolist()
    predicted = []
    for text in texts:
        cosines = [text @ prompt / np.linalg.norm(prompt) for prompt in prompts]
        predicted.append(NAMES[int(np.argmax(cosines))])
    found = measure(texts, labels, prompts, NAMES)
    assert found.scores == pytest.approx(compare(predicted, labels))
    assert found.unseen == {}
    assert found.scores["accuracy"] < 1
    right = measure(texts, predicted, prompts, NAMES)
    assert right.scores == {"accuracy": 1, "f1": 1}


def test_of_equal_ones_the_first() -> None:
    prompts = np.array([[0, 1], [1, 0], [2, 0]])
    found = measure(np.array([[3, 0]]), ["sea"], prompts, NAMES)
    assert found.scores["accuracy"] == 1


def test_labels_without_a_prompt_are_told() -> None:
    texts = np.eye(3)[[0, 1, 2, 2]]
    found = measure(texts, ["moon", "wave", "surf", "wave"], np.eye(3), NAMES)
    assert found.unseen == {"surf": 1, "wave": 2}
    assert found.scores["accuracy"] == 1 / 4


def test_what_cannot_be_measured() -> None:
    three, labels = np.eye(3), list(NAMES)
    bad = np.where(three == 1, np.nan, three)
    refused = [
        ((bad, labels, three, NAMES), "texts: .* found NaN or infinity in 3 of 3"),
        ((three, labels, bad, NAMES), "prompts: .* found NaN or infinity in 3 of 3"),
        ((three, labels, 0 * three, NAMES), "prompts: .* 3 rows of zeros"),
        ((three, labels, np.eye(3, 4), NAMES), r"found 3 \(texts\), 4 \(prompts\)"),
        ((three, labels[1:], three, NAMES), "texts: expected 3 labels, .*, found 2"),
        ((three, labels, three, NAMES[1:]), "prompts: expected 3 labels, .*, found 2"),
        ((three, labels, three, ["sea"] * 3), "prompts: .* found 'sea' alone"),
        (
            (three, labels, three, ["sea", "moon", "sea"]),
            "prompts: expected each label once, found 'sea' again",
        ),
    ]
    for given, message in refused:
        with pytest.raises(InputError, match=message):
            measure(*given)
