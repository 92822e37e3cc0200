"""Results side by side, for a terminal."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

HEADERS = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@100": "recall@100"}


def table(
    rows: Mapping[str, Mapping[str, float]], title: str, *, caption: str = ""
) -> Table:
    """Lay out what was measured, one row a system.

    Args:
        rows: name of the system -> what `retrieval.measure` returned.
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
    for header in HEADERS.values():
        made.add_column(header, justify="right")
    for name, values in rows.items():
        cells = [f"{values[key]:.4f}" if key in values else "" for key in HEADERS]
        made.add_row(Text(name), *cells)
    return made
