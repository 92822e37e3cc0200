"""Rows of a published test set, put together; what is odd in them is counted and said.

Where a folder of one's own is refused (`m3jax.data.retrieval.read_beir`), a published
set is taken as the published loaders take it, for its numbers are compared with theirs.
"""

from collections.abc import Callable, Collection, Container, Iterable

from m3jax.core.errors import InputError
from m3jax.data.corpora import few

Say = Callable[[str], None]


def texts(
    found: Iterable[tuple[str, str]], *, what: str, where: str, say: Say
) -> dict[str, str]:
    """Collect texts by their ids; of an id that comes again the last text counts.

    Args:
        found: ids and texts.
        what: passages or queries, for messages.
        where: they are from.
        say: is told in a line of ids that come again.

    Returns:
        id -> text.

    Raises:
        InputError: there is none.

    Example:
        >>> found = [("a", "b"), ("a", "c")]
        >>> texts(found, what="passages", where="miracl/ko", say=print)
        miracl/ko: passages that come again, 1: 'a'; the last one counts
        {'a': 'c'}
    """
    kept: dict[str, str] = {}
    again: dict[str, None] = {}
    for name, text in found:
        if name in kept:
            again[name] = None
        kept[name] = text
    if not kept:
        raise InputError(f"at least one of its {what}", "none", where=where)
    count(again, f"{what} that come again", "the last one counts", where, say)
    return kept


def judgements(
    found: Iterable[tuple[str, str, int]],
    *,
    queries: Container[str],
    corpus: Container[str],
    where: str,
    say: Say,
) -> dict[str, dict[str, int]]:
    """Collect judgements; odd ones are treated as BEIR's own loader does.

    Args:
        found: query ids, passage ids and grades.
        queries: ids of those that are there; judgements of others are left out.
        corpus: ids of those that are there; judgements of others stay, and nothing can
            find them, as 5 of ArguAna's 1,406 (beir-cellar/beir#101).
        where: they are from.
        say: is told in a line of each kind of odd judgement.

    Returns:
        query id -> passage id -> grade; of a pair that comes again the last.

    Example:
        >>> found = [("q", "a", 1), ("q", "z", 1)]
        >>> judgements(found, queries="q", corpus="a", where="beir/arguana", say=print)
        beir/arguana: judged passages that are not in the corpus, 1: 'z'; they count as\
 not found
        {'q': {'a': 1, 'z': 1}}
    """
    qrels: dict[str, dict[str, int]] = {}
    no_query: dict[str, None] = {}
    no_passage: dict[str, None] = {}
    again: dict[str, None] = {}
    for query, passage, grade in found:
        if query not in queries:
            no_query[query] = None
            continue
        if passage not in corpus:
            no_passage[passage] = None
        grades = qrels.setdefault(query, {})
        if passage in grades:
            again[f"{query} {passage}"] = None
        grades[passage] = grade
    count(no_query, "judged queries that are not there", "left out", where, say)
    lost = "judged passages that are not in the corpus"
    count(no_passage, lost, "they count as not found", where, say)
    count(again, "pairs judged again", "the last grade counts", where, say)
    return qrels


def count(ids: Collection[str], what: str, so: str, where: str, say: Say) -> None:
    """Say how many ids are odd, and which are the first; nothing where none is.

    Args:
        ids: the ids.
        what: what they are.
        so: what becomes of them.
        where: they are from.
        say: is told.

    Example:
        >>> count(["q"], "queries without an answer", "missed", "mkqa/de", print)
        mkqa/de: queries without an answer, 1: 'q'; missed
    """
    if ids:
        say(f"{where}: {what}, {len(ids):,}: {few(ids)}; {so}")
