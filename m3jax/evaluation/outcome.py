"""What was measured of a model: values that reports and comparisons are made from."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.fields import as_number

KINDS = {
    "retrieval": "Retrieval",
    "reranking": "Reranking",
    "sts": "Semantic similarity",
    "classification": "Classification",
    "zero_shot": "Classification by label prompts",
    "clustering": "Clustering",
    "bitext": "Bitext mining",
}
# Between a value and the mean of its items: more than another order of summing makes.
_ALIKE = 1e-6


@dataclass(frozen=True)
class Histogram:
    """How the scores of relevant passages lie among those of others.

    Attributes:
        edges: of the bins, n + 1 rising numbers.
        relevant: how many scores of relevant passages fall into each bin.
        other: how many of other passages do.

    Example:
        >>> Histogram.of([0.9, 0.8], [0.1, 0.2, 0.9], bins=2).other
        (2, 1)
    """

    edges: tuple[float, ...]
    relevant: tuple[int, ...]
    other: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that it is one."""
        bins = len(self.edges) - 1
        if bins < 1 or len(self.relevant) != bins or len(self.other) != bins:
            found = f"{len(self.relevant)} and {len(self.other)} counts"
            expected = f"counts of {bins} bins, one at least"
            raise InputError(expected, found, where="histogram")
        if np.any(np.diff(self.edges) <= 0) or min(*self.relevant, *self.other) < 0:
            raise InputError(
                "rising edges and counts from 0",
                "others",
                where="histogram",
            )

    @classmethod
    def of(
        cls,
        relevant: Sequence[float] | np.ndarray,
        other: Sequence[float] | np.ndarray,
        *,
        bins: int = 40,
    ) -> "Histogram":
        """Count scores, in bins of one width from the least score to the greatest.

        Args:
            relevant: scores of relevant passages.
            other: scores of other passages.
            bins: how many.

        Raises:
            InputError: there is no score at all, or one is not finite.
        """
        both = np.concatenate([relevant, other]).astype(np.float64)
        if not len(both) or not np.isfinite(both).all():
            found = "others" if len(both) else "none"
            raise InputError("finite scores", found, where="histogram")
        edges = np.histogram_bin_edges(both, bins)
        split = len(relevant)
        counts = [np.histogram(x, edges)[0] for x in (both[:split], both[split:])]
        return cls(*(tuple(part.tolist()) for part in (edges, *counts)))


@dataclass(frozen=True)
class Outcome:
    """What was measured of one model on one task.

    A system is a way to use the model, "dense" or "hybrid", or what it is compared
    with, "BM25".

    Attributes:
        name: of the task.
        kind: one of `KINDS`.
        main: the metric that decides.
        values: system -> metric -> value; `main` for every system.
        items: system -> query id, or number of the row -> `main` of it alone. Its mean
            is the value of `main`. Empty where the metric is not a mean.
        counts: on how much, e.g. "queries" -> 100.
        notes: what a reader of the numbers should know, in sentences.
        language: of the texts; for cross-lingual tasks of the queries.
        passage_language: of the passages; cross-lingual tasks only.
        curves: system -> k -> recall at k.
        histograms: system -> its scores.

    Raises:
        InputError: a part does not fit the others, or a number is not finite.

    Example:
        >>> values = {"dense": {"ndcg@10": 0.75}}
        >>> items = {"dense": {"q1": 0.5, "q2": 1.0}}
        >>> Outcome("xquad", "retrieval", "ndcg@10", values, items, language="de").label
        'xquad, de'
    """

    name: str
    kind: str
    main: str
    values: Mapping[str, Mapping[str, float]]
    items: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    language: str | None = None
    passage_language: str | None = None
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if self.kind not in KINDS:
            raise InputError(
                f"one of {', '.join(KINDS)}", self.kind, where=f"{self.label}: kind"
            )
        if self.passage_language is not None and self.language is None:
            raise InputError("a language of the queries", "none", where=self.label)
        if not self.values:
            raise InputError("the values of a system", "none", where=self.label)
        for where, value in self._numbers():
            as_number(value, f"{self.label}: {where}")
        for system, metrics in self.values.items():
            if self.main not in metrics:
                where, found = f"{self.label}: {system}", ", ".join(metrics) or "none"
                raise InputError(f"a value of {self.main}", found, where=where)
        for part in (self.items, self.curves, self.histograms):
            for system in part:
                if system not in self.values:
                    raise InputError(
                        f"one of {', '.join(self.values)}",
                        f"the system {system}",
                        where=self.label,
                    )
        for system, curve in self.curves.items():
            if min(curve, default=1) < 1:
                where = f"{self.label}: curves.{system}"
                raise InputError("k from 1", f"{min(curve)}", where=where)
        for system, row in self.items.items():
            if row:
                self._check_mean(system, statistics.fmean(row.values()))

    @property
    def languages(self) -> str:
        """The language, or that of the queries and that of the passages, or nothing."""
        both = self.language, self.passage_language
        return " → ".join(one for one in both if one is not None)

    @property
    def label(self) -> str:
        """Name of the task, with the languages if it has any."""
        return ", ".join(part for part in (self.name, self.languages) if part)

    @property
    def decisive(self) -> dict[str, float]:
        """System -> value of the metric that decides."""
        return {system: metrics[self.main] for system, metrics in self.values.items()}

    def _check_mean(self, system: str, mean: float) -> None:
        value = self.values[system][self.main]
        if not math.isclose(mean, value, rel_tol=_ALIKE, abs_tol=_ALIKE):
            raise InputError(
                f"items whose mean is {value:.6f}, the {self.main} of {system}",
                f"a mean of {mean:.6f}",
                where=self.label,
            )

    def _numbers(self) -> Iterator[tuple[str, object]]:
        for name in ("values", "items", "curves"):
            for system, row in getattr(self, name).items():
                for key, value in row.items():
                    yield f"{name}.{system}.{key}", value
        yield from ((f"counts.{name}", value) for name, value in self.counts.items())


@dataclass(frozen=True)
class EmbeddingMap:
    """Embeddings in two dimensions.

    Attributes:
        title: what the points are.
        points: one a text.
        labels: of the points; they decide the colours.
        shares: of the whole variance, along the first axis and the second.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]
    shares: tuple[float, float]

    def __post_init__(self) -> None:
        """Check that there are points, and every one has a label."""
        where = f"map {self.title}"
        if not self.points:
            raise InputError("at least one point", "none", where=where)
        if len(self.points) != len(self.labels):
            expected = f"{len(self.points)} labels, one a point"
            raise InputError(expected, f"{len(self.labels)}", where=where)


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model on all tasks.

    Attributes:
        model: its name.
        about: name -> value of whatever tells where the numbers are from: versions,
            date, command, fingerprint of the model.
        outcomes: one a task, and of tasks in several languages one a language.
        maps: of embeddings.
        data: test set -> part of it that was measured -> digest of its files; see
            `contents`.

    Raises:
        InputError: there are two outcomes of one task and language, or different
            metrics decide one task.
    """

    model: str
    about: Mapping[str, str]
    outcomes: tuple[Outcome, ...]
    maps: tuple[EmbeddingMap, ...] = ()
    data: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that a task stands here once."""
        seen, main = set(), {}
        for outcome in self.outcomes:
            task = outcome.kind, outcome.name
            if (first := main.setdefault(task, outcome.main)) != outcome.main:
                expected = f"{first}, which decides {outcome.name} in other languages"
                raise InputError(expected, outcome.main, where=outcome.label)
            if (key := (outcome.kind, outcome.label)) in seen:
                found = "two of them"
                raise InputError("one outcome a task", found, where=outcome.label)
            seen.add(key)
