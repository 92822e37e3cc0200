"""One page that sets two models side by side, readable without a network."""

from collections.abc import Sequence
from pathlib import Path

from m3jax.core import files
from m3jax.evaluation import report_tables as tables
from m3jax.evaluation.comparison import EXPLANATION, Comparison, Row, describe
from m3jax.evaluation.markup import Html, element, facts, number, page, table
from m3jax.evaluation.outcome import KINDS, Evaluation
from m3jax.evaluation.report import details

NAME = "comparison.html"
_COLUMNS = ("task", "system", "metric", "A", "B", "B - A")
_OF_ITEMS = ("", "95 % interval", "p", "better / worse / equal")


def write_comparison(folder: Path, found: Comparison) -> Path:
    """Write the page of a comparison.

    Args:
        folder: gets comparison.html, whole or not at all; must exist.
        found: of `comparison.compare`.

    Returns:
        The file.

    Raises:
        OSError: the folder cannot be written to.
    """
    files.write_text(folder / NAME, render_comparison(found))
    return folder / NAME


def render_comparison(found: Comparison) -> str:
    """Show a comparison as one HTML page, with nothing to fetch and no script.

    Args:
        found: of `comparison.compare`.

    Returns:
        The page. Every text from outside is escaped.

    Example:
        >>> from m3jax.evaluation.comparison import compare
        >>> from m3jax.evaluation.outcome import Outcome
        >>> a, b = (
        ...     Evaluation(
        ...         name, {}, (Outcome("s", "sts", "spearman", {"x": {"spearman": v}}),)
        ...     )
        ...     for name, v in (("<a>", 0.5), ("<b>", 0.75))
        ... )
        >>> "+0.2500" in render_comparison(compare(a, b))
        True
    """
    names = found.a.model, found.b.model
    kinds = dict.fromkeys(row.outcome.kind for row in found.rows)
    apart = [element("li", sentence) for sentence in found.apart]
    return page(
        f"{names[0]} and {names[1]}: comparison",
        element(
            "header",
            element("h1", f"{names[0]} and {names[1]}"),
            element("p", _verdict(found.rows), class_="soft"),
            element(
                "div",
                _about("A", found.a),
                _about("B", found.b),
                class_="kinds",
            ),
            element("p", EXPLANATION, class_="soft"),
        ),
        *(
            _kind(kind, [row for row in found.rows if row.outcome.kind == kind])
            for kind in kinds
        ),
        element(
            "section",
            element("h2", "Not compared"),
            element("ul", *apart, class_="notes"),
        )
        if apart
        else None,
    )


def _verdict(rows: Sequence[Row]) -> str:
    better, worse = (
        [row for row in rows if sign * row.difference > 0] for sign in (1, -1)
    )
    clear = [sum(row.is_clear for row in side) for side in (better, worse)]
    return (
        f"{len(rows)} rows: B is better in {len(better)}, clearly in {clear[0]}, "
        f"and worse in {len(worse)}, clearly in {clear[1]}"
    )


def _about(letter: str, evaluation: Evaluation) -> Html:
    title = element("h3", f"{letter}: {evaluation.model}")
    return element("div", title, facts(evaluation.about.items()))


def _kind(kind: str, rows: Sequence[Row]) -> Html:
    """All rows in one table, but pairs of languages as differences on a heat map."""
    plain = [row for row in rows if row.outcome.passage_language is None]
    crossed: dict[str, list[Row]] = {}
    for row in rows:
        if row.outcome.passage_language is not None:
            crossed.setdefault(row.outcome.name, []).append(row)
    parts = [element("h2", KINDS[kind])]
    if plain:
        parts.append(_table(plain, KINDS[kind]))
    for name, of_task in crossed.items():
        # To both sides of 0, whether or not there are differences on both.
        most = max(abs(row.difference) for row in of_task)
        for system in dict.fromkeys(row.system for row in of_task):
            same = [row for row in of_task if row.system == system]
            metric = tables.heading(same[0].outcome.main)
            title = f"{name}: B - A in {metric} of {system}"
            outcomes = [row.outcome for row in same]
            values = {row.outcome.label: row.difference for row in same}
            shown = tables.heat_map(outcomes, values, label=title, among=(-most, most))
            parts += [element("h3", title), shown]
        parts.append(
            details(f"Every pair of languages of {name}", _table(of_task, name))
        )
    return element("section", *parts)


def _table(rows: Sequence[Row], label: str) -> Html:
    """One row a task and system; what items tell only where some have items."""
    ends = [abs(row.difference) for row in rows]
    for row in rows:
        if row.paired is not None:
            ends += [abs(row.paired.low), abs(row.paired.high)]
    most = max(ends) or 1.0
    has_items = any(row.paired is not None for row in rows)
    found = [
        (
            row.outcome.label,
            [*_values(row), *(_of_items(row, most) if has_items else ())],
        )
        for row in rows
    ]
    columns = [*_COLUMNS, *(_OF_ITEMS if has_items else ())]
    return table(columns, found, label=label, texts=3)


def _values(row: Row) -> list[Html]:
    difference = f"{row.difference:+.4f}"
    words = row.system, tables.heading(row.outcome.main)
    return [
        *(element("td", word, class_="text") for word in words),
        number(row.a),
        number(row.b),
        element("td", element("strong", difference) if row.is_clear else difference),
    ]


def _of_items(row: Row, most: float) -> list[Html]:
    counts = None
    if row.paired is not None:
        sides = row.paired.better, row.paired.worse, row.paired.equal
        counts = " / ".join(f"{side:,}" for side in sides)
    texts = *describe(row.paired), counts
    return [
        element("td", _range(row, most)),
        *(element("td", text, class_="soft") for text in texts),
    ]


def _range(row: Row, most: float) -> Html:
    """The interval as a line and the difference as a point; 0 is in the middle."""

    def place(value: float) -> float:
        return 50 + 48 * value / most

    side = ("up" if row.difference > 0 else "down") if row.is_clear else ""
    line = None
    if row.paired is not None:
        low, high = place(row.paired.low), place(row.paired.high)
        line = element("i", style=f"left: {low:.1f}%; width: {high - low:.1f}%")
    point = element("b", style=f"left: {place(row.difference):.1f}%")
    return element("span", line, point, class_=f"range {side}".strip())
