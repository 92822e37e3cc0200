"""One page that shows an evaluation, readable without a network."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from m3jax.core import files
from m3jax.evaluation import report_plots as plots
from m3jax.evaluation import report_tables as tables
from m3jax.evaluation.markup import Html, element, facts, join, number, page, table
from m3jax.evaluation.outcome import KINDS, Evaluation, Outcome

NAME = "report.html"
_NOTE = (
    "The metric that decides each task. In bold the best of a row, where several "
    "systems are compared. A task in several languages stands with their mean."
)


def write_report(folder: Path, evaluation: Evaluation) -> Path:
    """Write the page of an evaluation.

    Args:
        folder: gets report.html, whole or not at all; must exist.
        evaluation: the values.

    Returns:
        The file.

    Raises:
        OSError: the folder cannot be written to.
    """
    files.write_text(folder / NAME, render(evaluation))
    return folder / NAME


def render(evaluation: Evaluation) -> str:
    """Show an evaluation as one HTML page, with nothing to fetch and no script.

    Args:
        evaluation: the values.

    Returns:
        The page. Every text from outside is escaped.

    Example:
        >>> values = {"dense": {"ndcg@10": 0.5}, "BM25": {"ndcg@10": 0.4}}
        >>> outcome = Outcome("medquad", "retrieval", "ndcg@10", values)
        >>> html = render(Evaluation("a <b>", {}, (outcome,)))
        >>> "a &lt;b&gt;" in html, "<strong>0.5000</strong>" in html
        (True, True)
    """
    tasks = group(evaluation.outcomes)
    order = systems(evaluation.outcomes)
    sections = [
        element("section", *_task(task, order, place), id=anchor(place))
        for place, task in enumerate(tasks)
    ]
    maps = [
        plots.scatter(one, salt=f"map {place}")
        for place, one in enumerate(evaluation.maps)
    ]
    return page(
        f"{evaluation.model}: evaluation",
        element(
            "header",
            element("h1", evaluation.model),
            element("p", _extent(tasks), class_="soft"),
            facts(evaluation.about.items()),
        ),
        _summary(tasks) if tasks else None,
        *sections,
        element("section", element("h2", "Maps of embeddings"), *maps)
        if maps
        else None,
    )


def group(outcomes: Iterable[Outcome]) -> list[tuple[Outcome, ...]]:
    """Put the languages of a task together, and tasks of one kind side by side.

    Example:
        >>> values = {"dense": {"f1": 1.0}}
        >>> tasks = group(
        ...     Outcome("a", "bitext", "f1", values, language=x) for x in ("de", "fr")
        ... )
        >>> [len(task) for task in tasks]
        [2]
    """
    found: dict[tuple[str, str], list[Outcome]] = {}
    for one in outcomes:
        found.setdefault((one.kind, one.name), []).append(one)
    kinds = list(KINDS)
    ordered = sorted(found.items(), key=lambda item: kinds.index(item[0][0]))
    return [tuple(task) for _, task in ordered]


def systems(outcomes: Iterable[Outcome]) -> list[str]:
    """All systems, each once; its place decides its colour."""
    return list(dict.fromkeys(system for one in outcomes for system in one.values))


def anchor(place: int) -> str:
    """Name of a task's section, for links."""
    return f"task-{place}"


def extent(task: Sequence[Outcome]) -> str:
    """In how many languages a task is, in words; nothing for one alone.

    Example:
        >>> pairs = [("de", "en"), ("en", "de")]
        >>> values = {"dense": {"f1": 1.0}}
        >>> extent([
        ...     Outcome("a", "bitext", "f1", values, language=x, passage_language=y)
        ...     for x, y in pairs
        ... ])
        '2 pairs of languages'
    """
    if len(task) == 1:
        return ""
    if any(one.passage_language is not None for one in task):
        return f"{len(task)} pairs of languages"
    return f"{len(task)} languages"


def details(summary: str, *parts: Html) -> Html:
    """What is shown when somebody asks for it, and on paper."""
    return element("details", element("summary", summary), *parts)


def _extent(tasks: Sequence[Sequence[Outcome]]) -> str:
    if len(tasks) == 1:
        return "Evaluation on one task"
    return f"Evaluation on {len(tasks)} tasks"


def _summary(tasks: Sequence[tuple[Outcome, ...]]) -> Html:
    """What decides, of every task and system, a table a kind of task."""
    parts = []
    kinds = dict.fromkeys(task[0].kind for task in tasks)
    for kind in kinds:
        same = [(i, task) for i, task in enumerate(tasks) if task[0].kind == kind]
        names = systems(one for _, task in same for one in task)
        rows = [_summary_row(i, task, names) for i, task in same]
        rows += _mean_row([task for _, task in same], names)
        columns, label = ["task", "metric", *names], KINDS[kind]
        shown = table(columns, rows, label=label, texts=2)
        parts.append(element("div", element("h3", label), shown))
    return element(
        "section",
        element("h2", "Summary"),
        element("div", *parts, class_="kinds"),
        element("p", _NOTE, class_="soft"),
    )


def _summary_row(
    place: int, task: Sequence[Outcome], names: Sequence[str]
) -> tuple[str, list[Html]]:
    found = tables.mean(task)
    best = max(found.values()) if len(found) > 1 else None
    more = extent(task)
    link = element("a", task[0].name, href=f"#{anchor(place)}")
    name = join([link, element("span", f", {more}", class_="soft") if more else None])
    metric = element("td", tables.heading(task[0].main), class_="text soft")
    return name, [metric, *(number(found.get(one), best=best) for one in names)]


def _mean_row(
    tasks: Sequence[tuple[Outcome, ...]], names: Sequence[str]
) -> list[tuple[str, list[Html]]]:
    """Of the systems that all tasks have; none where the metrics differ."""
    means = [tables.mean(task) for task in tasks]
    found = {
        name: fmean(row[name] for row in means)
        for name in names
        if all(name in row for row in means)
    }
    if len(tasks) == 1 or len({task[0].main for task in tasks}) > 1 or not found:
        return []
    best = max(found.values()) if len(found) > 1 else None
    cells = [number(found.get(name), best=best) for name in names]
    return [("mean of the tasks", [element("td"), *cells])]


def _task(task: Sequence[Outcome], order: Sequence[str], place: int) -> list[Html]:
    first = task[0]
    parts = [element("h2", first.name)]
    if len(task) == 1:
        return parts + _alone(first, order, place)
    about = ", ".join([KINDS[first.kind], extent(task), *_ranges(task)])
    parts.append(element("p", about, class_="soft"))
    alone = [one for one in task if one.passage_language is None]
    crossed = [one for one in task if one.passage_language is not None]
    main = tables.heading(first.main)
    if alone:
        parts.append(element("h3", f"{main} by language"))
        parts.append(tables.bars(alone, order=order))
    for system in systems(crossed):
        title = f"{main} of {system}, by languages"
        values = {
            one.label: one.decisive[system] for one in crossed if system in one.values
        }
        # One scale for all systems, so that their colours can be compared.
        every = [value for one in crossed for value in one.decisive.values()]
        shown = tables.heat_map(crossed, values, label=title, among=every)
        parts += [element("h3", title), shown]
    parts.append(_notes(task))
    parts.append(details("All metrics by language", tables.metrics(task)))
    for of_task, one in enumerate(task):
        if drawn := _plots(one, order, f"{place}.{of_task}"):
            counts = element("p", _counts(one), class_="soft")
            parts.append(details(f"Plots of {one.label}", counts, drawn))
    return parts


def _alone(one: Outcome, order: Sequence[str], place: int) -> list[Html]:
    about = ", ".join(
        part for part in (KINDS[one.kind], one.languages, _counts(one)) if part
    )
    return [
        element("p", about, class_="soft"),
        tables.metrics([one]),
        _notes([one]),
        _plots(one, order, str(place)) or Html(),
    ]


def _counts(one: Outcome) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in one.counts.items())


def _ranges(task: Sequence[Outcome]) -> list[str]:
    """The counts that every language has, from the least to the greatest."""
    found = []
    for name in task[0].counts:
        if all(name in one.counts for one in task):
            low, high = (f(one.counts[name] for one in task) for f in (min, max))
            size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            found.append(f"{size} {name} each")
    return found


def _plots(one: Outcome, order: Sequence[str], salt: str) -> Html | None:
    drawn = []
    curves = {system: curve for system, curve in one.curves.items() if len(curve) > 1}
    if curves:
        drawn.append(plots.recall_curves(curves, order=order, salt=f"{salt} curves"))
    for system, found in one.histograms.items():
        drawn.append(
            plots.score_histogram(system, found, order=order, salt=f"{salt} {system}")
        )
    return element("div", *drawn, class_="plots") if drawn else None


def _notes(task: Sequence[Outcome]) -> Html:
    """What is to be known; what holds for all languages is said once."""
    found: dict[str, list[str]] = {}
    for one in task:
        for note in one.notes:
            found.setdefault(note, []).append(one.label)
    items = [
        element("li", note if len(of) == len(task) else f"{', '.join(of)}: {note}")
        for note, of in found.items()
    ]
    return element("ul", *items, class_="notes") if items else Html()
