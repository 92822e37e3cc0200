"""Results side by side, for a terminal."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

HEADERS = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@100": "recall@100",
    "spearman": "Spearman",
    "pearson": "Pearson",
}
# Heads of a model, each with an nDCG@10 of its own.
HEADS = {
    "ndcg@10": "dense",
    "sparse/ndcg@10": "sparse",
    "multivec/ndcg@10": "multivec",
    "hybrid/ndcg@10": "hybrid",
}


def table(
    rows: Mapping[str, Mapping[str, float]],
    title: str,
    *,
    caption: str = "",
    headers: Mapping[str, str] = HEADERS,
) -> Table:
    """Lay out what was measured, one row a system.

    Args:
        rows: name of the system -> what was measured.
        title: what was measured.
        caption: on how much, e.g. "100 queries, 2,000 passages".
        headers: measure -> header; measures that no row has make no column.

    Returns:
        The table, for a rich console to print.

    Example:
        >>> table({"BM25": {"ndcg@10": 0.5}}, "test").row_count
        1
    """
    # Text, not str: rich reads [brackets] as markup.
    made = Table(title=Text(title), caption=Text(caption) if caption else None)
    made.add_column("")
    there = [key for key in headers if any(key in row for row in rows.values())]
    for key in there:
        made.add_column(headers[key], justify="right")
    for name, values in rows.items():
        cells = [f"{values[key]:.4f}" if key in values else "" for key in there]
        made.add_row(Text(name), *cells)
    return made
