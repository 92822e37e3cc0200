"""Text that stands before a query or a passage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """What a model wants to read before a text, e.g. E5's "query: "."""

    query: str = ""
    """Before every query."""
    passage: str = ""
    """Before every passage."""
