"""Tables of a report: all metrics, languages as bars, two languages as a heat map."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from m3jax.evaluation.markup import Html, element, number, table
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.report_style import COLORS
from m3jax.evaluation.table import HEADERS

_HEADINGS = HEADERS | {"map": "MAP", "f1": "F1", "v_measure": "V-measure"}
_PREFIXES = {"ndcg@": "nDCG@", "mrr@": "MRR@", "map@": "MAP@"}


def heading(metric: str) -> str:
    """What a metric is called above a column.

    Example:
        >>> heading("ndcg@5"), heading("accuracy"), heading("f1_std")
        ('nDCG@5', 'accuracy', 'F1 ±')
    """
    for prefix, written in _PREFIXES.items():
        if metric.startswith(prefix):
            return metric.replace(prefix, written, 1)
    name, deviation, _ = metric.partition("_std")
    return _HEADINGS.get(name, name) + (" ±" if deviation else "")


def metrics(outcomes: Sequence[Outcome]) -> Html:
    """All that was measured, a row a system; in bold the best by what decides.

    Args:
        outcomes: of one task; several of them are told apart by language.

    Returns:
        The table.
    """
    first = outcomes[0]
    keys = _first_seen(
        key for one in outcomes for row in one.values.values() for key in row
    )
    keys = [first.main, *(key for key in keys if key != first.main)]
    rows = []
    for one in outcomes:
        best = max(one.decisive.values()) if len(one.values) > 1 else None
        for system, values in one.values.items():
            name = ", ".join(part for part in (one.languages, system) if part)
            cells = [
                number(values.get(key), best=best if key == one.main else None)
                for key in keys
            ]
            rows.append((name, cells))
    headings = ["", *map(heading, keys)]
    return table(headings, rows, label=f"All metrics of {first.name}")


def bars(outcomes: Sequence[Outcome], *, order: Sequence[str]) -> Html:
    """What decides, a row a language, each system with a bar from 0 to 1.

    Args:
        outcomes: of one task, one a language.
        order: all systems of the report; the place decides the colour.

    Returns:
        The table, with the mean over the languages below.
    """
    systems = _first_seen(system for one in outcomes for system in one.values)
    rows = []
    for one in outcomes:
        best = max(one.decisive.values()) if len(one.values) > 1 else None
        cells = [
            _bar(one.decisive.get(system), order.index(system), best=best)
            for system in systems
        ]
        rows.append((one.languages or one.name, cells))
    means = mean(outcomes)
    best = max(means.values()) if len(means) > 1 else None
    cells = [
        _bar(means.get(system), order.index(system), best=best) for system in systems
    ]
    rows.append(("mean", cells))
    first = outcomes[0]
    label = f"{first.name}, {heading(first.main)} by language"
    return table(["language", *systems], rows, label=label, class_="bars")


def heat_map(
    outcomes: Sequence[Outcome],
    values: Mapping[str, float],
    *,
    label: str,
    among: Sequence[float],
) -> Html:
    """Every language of the queries with every one of the passages.

    Args:
        outcomes: of one task, one a pair of languages.
        values: label of the outcome -> value.
        label: what they are.
        among: the colours go from the least to the greatest of these; where some are
            below 0, from 0 to both sides.

    Returns:
        The table, with means of rows and columns.
    """
    queries = _first_seen(one.language for one in outcomes)
    passages = _first_seen(one.passage_language for one in outcomes)
    found = {
        (one.language, one.passage_language): values[one.label]
        for one in outcomes
        if one.label in values
    }
    shade = _shades(among)
    rows = []
    for query in queries:
        row = [found.get((query, passage)) for passage in passages]
        rows.append((query, [*(_heat(value, shade) for value in row), _mean(row)]))
    columns = [
        [found.get((query, passage)) for query in queries] for passage in passages
    ]
    rows.append(("mean", [*map(_mean, columns), _mean(list(found.values()))]))
    headings = ["queries \\ passages", *passages, "mean"]
    return table(headings, rows, label=label, class_="heat")


def mean(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Mean of what decides, of the systems that all outcomes have.

    Example:
        >>> rows = [{"dense": {"f1": 0.5}, "BM25": {"f1": 0.5}}, {"dense": {"f1": 1.0}}]
        >>> mean([Outcome(str(i), "bitext", "f1", row) for i, row in enumerate(rows)])
        {'dense': 0.75}
    """
    systems = _first_seen(system for one in outcomes for system in one.values)
    return {
        system: fmean(one.decisive[system] for one in outcomes)
        for system in systems
        if all(system in one.values for one in outcomes)
    }


def _first_seen(items: Iterable) -> list:
    return list(dict.fromkeys(items))


def _bar(value: float | None, place: int, *, best: float | None) -> Html:
    if value is None:
        return number(None)
    width = 100 * min(max(value, 0), 1)
    style = f"--color: var(--c{place % COLORS}); width: {width:.1f}%"
    bar = element("span", element("i", style=style), class_="bar")
    return number(value, bar, best=best)


def _shades(values: Sequence[float]) -> tuple[float, float]:
    """Which value has no colour, and how far from it the colour is full."""
    low, high = min(values), max(values)
    if low < 0:
        return 0.0, max(high, -low)
    return low, (high - low) or 1.0


def _heat(value: float | None, shade: tuple[float, float]) -> Html:
    if value is None:
        return element("td")
    none, full = shade
    strength = (value - none) / full
    color = "--c0" if strength >= 0 else "--c1"
    mix = f"color-mix(in srgb, var({color}) {60 * abs(strength):.0f}%, transparent)"
    return element("td", f"{value:z.3f}", style=f"background: {mix}")


def _mean(values: Sequence[float | None]) -> Html:
    there = [value for value in values if value is not None]
    return element("td", f"{fmean(there):z.3f}" if there else "", class_="mean")
