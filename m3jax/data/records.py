"""What one row of a data set is."""

from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True)
class Pairs:
    """A query with passages that answer it and passages that do not.

    Attributes:
        query: what is asked.
        pos: the passages that answer it, at least one.
        neg: passages that do not.
        pos_scores: a teacher's score of each positive.
        neg_scores: a teacher's score of each negative.
        prompt: goes before the query in place of the data set's prompt.
        language: as the row tells it; for tables only.
    """

    query: str
    pos: tuple[str, ...]
    neg: tuple[str, ...] = ()
    pos_scores: tuple[float, ...] | None = None
    neg_scores: tuple[float, ...] | None = None
    prompt: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Text:
    """A text alone: for RetroMAE, masked tokens, or SimCSE, as its own positive.

    Attributes:
        text: the text.
        language: as the row tells it; for tables only.
    """

    text: str
    language: str | None = None


@dataclass(frozen=True)
class Scored:
    """Two texts and how alike they are.

    Attributes:
        first: one text; read as a query.
        second: the other; read as a passage.
        score: higher is more alike, on any scale.
        language: as the row tells it; for tables only.
    """

    first: str
    second: str
    score: float
    language: str | None = None


@dataclass(frozen=True)
class Labelled:
    """A text and the class that it belongs to.

    Attributes:
        text: the text.
        label: name of the class, in words where the data has words.
        language: as the row tells it; for tables only.
    """

    text: str
    label: str
    language: str | None = None


Record = Pairs | Text | Scored | Labelled


@dataclass(frozen=True)
class Retrieval:
    """Queries, the passages to search, and judgements of which answer which.

    Attributes:
        queries: query id -> text.
        corpus: passage id -> text.
        qrels: query id -> passage id -> grade; 0 is judged and found wanting.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Similarity:
    """Pairs of texts, and how alike people find the two.

    Attributes:
        first: one text of each pair.
        second: the other.
        scores: higher is more alike, on any scale.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


def content_hash(text: str) -> bytes:
    """Hash a text to 8 bytes, the same on every machine and in every run.

    Args:
        text: any text that UTF-8 can encode.

    Returns:
        8 bytes; `np.frombuffer(digest, np.uint32)` gives the two words of a `Batch`.

    Example:
        >>> content_hash("what is slerp?").hex()
        'e2d86c0d7e9b047b'
    """
    return blake2b(text.encode(), digest_size=8).digest()
