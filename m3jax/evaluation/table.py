"""Results side by side, for a terminal."""

from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from m3jax.evaluation.outcome import KINDS, Outcome

HEADERS = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@100": "recall@100",
    "spearman": "Spearman",
    "pearson": "Pearson",
}


def table(
    rows: Mapping[str, Mapping[str, float]], title: str, *, caption: str = ""
) -> Table:
    """Lay out what was measured, one row a system, or a head of it.

    Args:
        rows: name of the system -> what `retrieval.measure`, `heads.score`,
            `similarity.score` or `reranking.score` returned.
        title: what was measured.
        caption: on how much, e.g. "100 queries, 2,000 passages".

    Returns:
        The table, for a rich console to print.

    Example:
        >>> table({"BM25": {"ndcg@10": 0.5}}, "test").row_count
        1
    """
    # Text, not str: rich reads [brackets] as markup.
    made = Table(title=Text(title), caption=Text(caption) if caption else None)
    made.add_column("")
    rows = by_head(rows)
    keys = [key for key in HEADERS if any(key in values for values in rows.values())]
    for key in keys:
        made.add_column(HEADERS[key], justify="right")
    for name, values in rows.items():
        cells = [f"{values[key]:.4f}" if key in values else "" for key in keys]
        made.add_row(Text(name), *cells)
    return made


def by_head(
    rows: Mapping[str, Mapping[str, float]],
) -> dict[str, dict[str, float]]:
    """Give each head of a system a row of its own.

    Args:
        rows: name of the system -> metric, or head/metric -> value.

    Returns:
        Name of the system, and of the head where one is named -> metric -> value.

    Example:
        >>> by_head({"after": {"mrr@10": 0.5, "sparse/mrr@10": 0.4}})
        {'after': {'mrr@10': 0.5}, 'after, sparse': {'mrr@10': 0.4}}
    """
    found: dict[str, dict[str, float]] = {}
    for name, values in rows.items():
        found[name] = {}
        for key, value in values.items():
            head, _, metric = key.rpartition("/")
            row = f"{name}, {head}" if head else name
            found.setdefault(row, {})[metric] = value
    return {name: values for name, values in found.items() if values}


def summary(outcomes: Sequence[Outcome], title: str) -> Table:
    """What decides each test set, a row a set and a system.

    Args:
        outcomes: of one model.
        title: what was measured.

    Returns:
        The table; the best system of a set comes first.

    Example:
        >>> values = {"dense": {"ndcg@10": 0.5}, "BM25": {"ndcg@10": 0.75}}
        >>> summary([Outcome("sea", "retrieval", "ndcg@10", values)], "model").row_count
        2
    """
    made = Table(title=Text(title))
    for name in ("test set", "", "metric", "system"):
        made.add_column(name, overflow="fold")
    made.add_column("value", justify="right")
    for outcome in outcomes:
        ranked = sorted(outcome.decisive.items(), key=lambda one: -one[1])
        for number, (system, value) in enumerate(ranked):
            first = (outcome.label, KINDS[outcome.kind], outcome.main)
            cells = first if number == 0 else ("", "", "")
            last = number == len(ranked) - 1
            row = (*map(Text, (*cells, system)), f"{value:.4f}")
            made.add_row(*row, end_section=last)
    return made
