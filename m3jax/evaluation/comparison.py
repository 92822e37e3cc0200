"""Two models side by side, with what chance alone would do."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from m3jax.core.errors import InputError
from m3jax.evaluation.outcome import KINDS, Evaluation, Outcome
from m3jax.evaluation.paired import RESAMPLES, Paired, bootstrap
from m3jax.evaluation.report_tables import heading

EXPLANATION = (
    "Bold: the 95 % interval of the difference, by paired bootstrap over the items, "
    "leaves out 0. Of equally good models it still does so once in 20 times. There is "
    "no interval where a metric is no mean over items."
)


@dataclass(frozen=True)
class Row:
    """One system of two models, on one task.

    Attributes:
        outcome: of the first model, which tells task, languages and counts.
        system: the same of both.
        a: the metric that decides, of the first model.
        b: of the second.
        paired: what the items say; None where the metric is no mean of items.
    """

    outcome: Outcome
    system: str
    a: float
    b: float
    paired: Paired | None

    @property
    def difference(self) -> float:
        """How much better the second model is."""
        return self.b - self.a

    @property
    def is_clear(self) -> bool:
        """Whether chance alone would hardly make such a difference."""
        return self.paired is not None and self.paired.is_clear


@dataclass(frozen=True)
class Comparison:
    """Two models on the tasks that both were measured on.

    Attributes:
        a: the first evaluation.
        b: the second.
        rows: one a task and system, in the order of the first evaluation.
        apart: what only one of them has, in sentences.
    """

    a: Evaluation
    b: Evaluation
    rows: tuple[Row, ...]
    apart: tuple[str, ...]


def compare(
    a: Evaluation, b: Evaluation, *, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Set two evaluations side by side, each task by the metric that decides it.

    Args:
        a: of the first model.
        b: of the second.
        resamples: of the paired bootstrap; see `paired.bootstrap`.
        seed: of its draws.

    Returns:
        The rows, and what was left out.

    Raises:
        InputError: a task was measured on other data by one of them, or there is no
            task and system that both have.

    Example:
        >>> first, second = (
        ...     Outcome("stsb", "sts", "spearman", {"dense": {"spearman": value}})
        ...     for value in (0.5, 0.75)
        ... )
        >>> a, b = Evaluation("a", {}, (first,)), Evaluation("b", {}, (second,))
        >>> compare(a, b).rows[0].difference
        0.25
    """
    firsts, seconds = ({_key(one): one for one in x.outcomes} for x in (a, b))
    rows: list[Row] = []
    apart = [*_alone("A", firsts, seconds), *_alone("B", seconds, firsts)]
    for key, first in firsts.items():
        if key not in seconds:
            continue
        second = seconds[key]
        if first.main != second.main:
            apart.append(f"{first.label}: A by {first.main}, B by {second.main}.")
            continue
        _check_counts(first, second)
        for system in first.values:
            if system in second.values:
                paired = _paired(first, second, system, resamples=resamples, seed=seed)
                values = first.decisive[system], second.decisive[system]
                rows.append(Row(first, system, *values, paired))
    if not rows:
        raise InputError(
            "a task and a system that both evaluations have",
            (" ".join(apart) or "no task in them").removesuffix("."),
            where=f"{a.model} and {b.model}",
        )
    return Comparison(a, b, tuple(rows), tuple(apart))


def comparison_table(found: Comparison) -> Table:
    """Lay out a comparison, one row a task and system.

    Args:
        found: of `compare`.

    Returns:
        The table, for a rich console to print.
    """
    caption = [f"A: {found.a.model}", f"B: {found.b.model}", EXPLANATION, *found.apart]
    # Text, not str: rich reads [brackets] as markup.
    made = Table(caption=Text("\n".join(caption)), caption_justify="left")
    made.add_column("", overflow="fold")
    for name in ("A", "B", "B - A", "95 % interval", "p", "n"):
        made.add_column(name, justify="right", no_wrap=True)
    for _, rows in itertools.groupby(found.rows, lambda row: _key(row.outcome)):
        same = list(rows)
        task = same[0].outcome
        made.add_section()
        made.add_row(Text(f"{task.label}, {heading(task.main)}", style="italic"))
        for row in same:
            made.add_row(
                Text(row.system),
                *(Text(f"{value:.4f}") for value in (row.a, row.b)),
                Text(f"{row.difference:+.4f}", style="bold" if row.is_clear else ""),
                *(Text(cell) for cell in describe(row.paired)),
                Text(f"{row.paired.count:,}" if row.paired else ""),
            )
    return made


def describe(paired: Paired | None) -> tuple[str, str]:
    """Interval and p in figures; empty where there are no items.

    Example:
        >>> describe(Paired(0.1, 0.05, 0.15, 0.0123, 7, 2, 1))
        ('0.0500, 0.1500', '0.0123')
    """
    if paired is None:
        return "", ""
    return f"{paired.low:.4f}, {paired.high:.4f}", f"{paired.p:.4f}"


def _key(outcome: Outcome) -> tuple[str, str]:
    return outcome.kind, outcome.label


def _alone(
    name: str,
    mine: Mapping[tuple[str, str], Outcome],
    others: Mapping[tuple[str, str], Outcome],
) -> Iterator[str]:
    """Tasks and systems that only one evaluation has."""
    tasks = [
        f"{one.label} ({KINDS[one.kind].lower()})"
        for key, one in mine.items()
        if key not in others
    ]
    if tasks:
        yield f"Only {name} was measured on {', '.join(tasks)}."
    systems: dict[str, list[str]] = {}
    for key, one in mine.items():
        for system in one.values:
            if key in others and system not in others[key].values:
                systems.setdefault(system, []).append(one.label)
    for system, labels in systems.items():
        yield f"Only {name} has {system} on {', '.join(labels)}."


def _check_counts(first: Outcome, second: Outcome) -> None:
    """Results on a corpus of another size are of another task."""
    for name, count in first.counts.items():
        other = second.counts.get(name, count)
        if other != count:
            raise InputError(
                f"the same data on both sides, {count:,} {name}",
                f"{other:,}",
                where=first.label,
                do="Evaluate both models on the same data.",
            )


def _paired(
    first: Outcome, second: Outcome, system: str, *, resamples: int, seed: int
) -> Paired | None:
    items = first.items.get(system, {}), second.items.get(system, {})
    if not all(items):
        return None
    try:
        if min(map(len, items)) < 2:
            return None
        return bootstrap(*items, resamples=resamples, seed=seed)
    except InputError as error:
        raise error.at(f"{first.label}, {system}") from None
