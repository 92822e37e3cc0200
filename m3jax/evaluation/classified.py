"""Labels that were found, against the right ones."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3jax.core.errors import InputError

METRICS = ("accuracy", "f1")


@dataclass(frozen=True)
class Classified:
    """How well labels were found, and what stands behind the numbers.

    Attributes:
        scores: accuracy and f1 (see `measure`); of several experiments their means,
            and accuracy_std and f1_std.
        unseen: labels that could not be found, because no training row or prompt has
            them -> how many rows of the test set have; those rows count as wrong.
        few: labels with fewer training rows than were to be drawn -> how many.
        unconverged: probes that took all of their max_iter steps.
    """

    scores: dict[str, float]
    unseen: Mapping[str, int] = field(default_factory=dict)
    few: Mapping[str, int] = field(default_factory=dict)
    unconverged: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the scores should know, a sentence each.

        Example:
            >>> Classified({}, unseen={"tide": 2, "sea": 1}).notes
            ('3 rows count as wrong, because no label could be theirs: tide (2), \
sea (1).',)
        """
        notes = []
        if self.unseen:
            notes.append(
                f"{sum(self.unseen.values())} rows count as wrong, because no label "
                f"could be theirs: {_counted(self.unseen)}."
            )
        if self.few:
            notes.append(
                f"{len(self.few)} labels have fewer training rows than were to be "
                f"drawn: {_counted(self.few)}."
            )
        if self.unconverged:
            notes.append(f"{self.unconverged} probes took all of their steps.")
        return tuple(notes)


def measure(
    predicted: Sequence[str] | np.ndarray, labels: Sequence[str] | np.ndarray
) -> dict[str, float]:
    """Compare labels with the right ones.

    accuracy is the share that is right; f1 = mean_c 2 tp_c / (2 tp_c + fp_c + fn_c),
    over all classes c that occur among either (macro F1).

    Args:
        predicted: the label found for each row.
        labels: the right one.

    Returns:
        accuracy and f1, from 0 to 1.

    Raises:
        InputError: there are none, or their numbers differ.

    Source: scikit-learn's accuracy_score and f1_score, as mteb calls them.

    Example:
        >>> measure(["sea", "sea", "sea"], ["sea", "sea", "moon"])
        {'accuracy': 0.6666666666666666, 'f1': 0.4}
    """
    from sklearn.metrics import accuracy_score, f1_score

    if len(predicted) != len(labels) or len(labels) == 0:
        expected = f"{len(labels) or 'some'} labels"
        raise InputError(expected, f"{len(predicted)}", where="measure")
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "f1": float(f1_score(labels, predicted, average="macro")),
    }


def unseen(labels: Sequence[str], known: Sequence[str]) -> dict[str, int]:
    """Count the rows whose label is not among the known ones.

    Args:
        labels: of the rows.
        known: labels that can be found; repeats do not matter.

    Returns:
        Label -> rows, in the order of the alphabet.

    Example:
        >>> unseen(["sea", "tide", "tide"], ["sea", "moon"])
        {'tide': 2}
    """
    among = set(known)
    return dict(sorted(Counter(one for one in labels if one not in among).items()))


def _counted(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} ({count})" for label, count in labels.items())
