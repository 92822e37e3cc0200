"""The passages found for a query, as a program prints them."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from m3jax.core import show

if TYPE_CHECKING:
    from m3jax.inference.explain import Match, Why

_MATCHES = 8  # shown of each passage, at most


@dataclass(frozen=True)
class Found:
    """One passage for one query.

    Attributes:
        score: of the passage.
        name: its id.
        text: its text.
        why: what the heads say of it; None where nobody asked.
    """

    score: float
    name: str
    text: str
    why: "Why | None" = None


def print_json(name: str | None, query: str, found: Sequence[Found]) -> None:
    """Print one JSON object a passage.

    Args:
        name: id of the query; None if it has none.
        query: its text.
        found: the passages, the best first.

    Example:
        >>> print_json("q", "sea", [Found(0.5, "p", "the sea")])
        {"query": "sea", "rank": 1, "score": 0.5, "id": "p", "text": "the sea", \
"query_id": "q"}
    """
    for rank, one in enumerate(found, start=1):
        row: dict[str, Any] = {"query": query, "rank": rank, "score": one.score}
        row |= {"id": one.name, "text": one.text}
        if name is not None:
            row["query_id"] = name
        if one.why is not None:
            row["why"] = dataclasses.asdict(one.why)
        print(json.dumps(row, ensure_ascii=False), flush=True)


def print_table(name: str | None, query: str, found: Sequence[Found]) -> None:
    """Print a table; its title is the query."""
    explained = any(one.why for one in found)
    columns = ("rank>", "score>", "id", *(("why",) if explained else ()), "text")
    rows = (
        (str(rank), f"{one.score:.4f}", one.name, *_said(one.why), one.text)
        for rank, one in enumerate(found, start=1)
    )
    show.print_table(query, columns, rows)


def _said(why: "Why | None") -> tuple[str, ...]:
    """A cell that says why; none where nobody asked."""
    if why is None:
        return ()
    said = ["  ".join(f"{head} {score:.3f}" for head, score in why.scores.items())]
    for head, matches in (("sparse", why.sparse), ("multivec", why.multivec)):
        if matches:
            shown = ", ".join(_match(match) for match in matches[:_MATCHES])
            said.append(f"{head}: {shown}{', ...' if matches[_MATCHES:] else ''}")
    return ("\n".join(said),)


def _match(match: "Match") -> str:
    """One match in words: salt 0.31, or sea~tide 0.72 where two tokens differ."""
    both = (match.query, match.passage)
    name = match.query if both[0] == both[1] else "~".join(both)
    return f"{name} {match.score:.2f}"
