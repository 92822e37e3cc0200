"""Retrieval tasks: folders in BEIR's layout."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.corpora import few, json_lines, named, passage_text, twice
from m3jax.data.fields import string, utf8
from m3jax.data.lines import lines, near_name
from m3jax.data.records import Retrieval

_DIGITS = 9  # of a grade: pytrec_eval's integers have 32 bits

QRELS_HEADER = ["query-id", "corpus-id", "score"]


def read_beir(
    folder: str | Path,
    split: str = "test",
    *,
    say: Callable[[str], None] = lambda message: None,
) -> Retrieval:
    r"""Read a retrieval task from a folder in BEIR's layout.

    The folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`,
    `text`), each plain or as `.gz` or `.zst`, and `qrels/{split}.tsv`. As in BEIR, a
    passage is its title, a space and its text. A query stays only if some passage is
    judged above 0 for it.

    Args:
        folder: the folder.
        split: which file of judgements.
        say: is told in a line of the queries that are left out.

    Returns:
        The task.

    Raises:
        InputError: a file is missing, a line is bad, an id comes twice or is judged
            and not there, a passage is judged twice for a query, or nothing is left
            to score.

    Example:
        >>> import tempfile
        >>> task = Path(tempfile.mkdtemp())
        >>> (task / "qrels").mkdir()
        >>> passage = '{"_id": "p", "title": "Sum", "text": "It is 4."}'
        >>> _ = (task / "corpus.jsonl").write_text(passage)
        >>> query = '{"_id": "q", "text": "2 + 2?"}'
        >>> _ = (task / "queries.jsonl").write_text(query)
        >>> qrels = "query-id\tcorpus-id\tscore\nq\tp\t1\n"
        >>> _ = (task / "qrels" / "test.tsv").write_text(qrels)
        >>> read_beir(task).corpus
        {'p': 'Sum It is 4.'}
    """
    files = beir_files(folder, split)
    corpus = _texts(files.corpus, passage_text)
    if not corpus:
        raise InputError("a passage a line", "an empty file", where=str(files.corpus))
    queries = _texts(files.queries, query_text)
    if not queries:
        raise InputError("a query a line", "an empty file", where=str(files.queries))
    judged = _qrels(files.qrels, queries, corpus)
    return answerable(queries, corpus, judged, where=str(files.qrels), say=say)


def answerable(
    queries: Mapping[str, str],
    corpus: dict[str, str],
    judged: Mapping[str, dict[str, int]],
    *,
    where: str,
    say: Callable[[str], None] = lambda message: None,
) -> Retrieval:
    """Leave out the queries without a passage that answers them.

    BEIR's loader leaves out those that are not judged. One whose every grade is 0 would
    count 0 for every system, and is left out as well.

    Args:
        queries: query id -> text.
        corpus: passage id -> text.
        judged: query id -> passage id -> grade, of queries that are there.
        where: the judgements stand.
        say: is told in a line of the queries that are left out, and in another of
            those that are not judged at all.

    Returns:
        The task, its queries in the order of the judgements.

    Raises:
        InputError: no judgement is above 0.

    Example:
        >>> texts, passages = {"q": "2 + 2?", "r": "2 + 3?"}, {"p": "It is 4."}
        >>> judged = {"q": {"p": 1}}
        >>> found = answerable(texts, passages, judged, where="a.tsv", say=print)
        a.tsv: 1 of 2 queries is not judged and is left out: 'r'
        >>> found.queries
        {'q': '2 + 2?'}
    """
    qrels = {q: grades for q, grades in judged.items() if max(grades.values()) > 0}
    if not qrels:
        raise nothing_answers(where)
    reasons = {
        ("has no passage judged above 0", "have no passage judged above 0"): [
            query for query in judged if query not in qrels
        ],
        ("is not judged", "are not judged"): [q for q in queries if q not in judged],
    }
    for (one, many), out in reasons.items():
        if out:
            words = f"{one} and is" if len(out) == 1 else f"{many} and are"
            share = f"{len(out):,} of {len(queries):,} queries"
            say(f"{where}: {share} {words} left out: {few(out)}")
    return Retrieval({query: queries[query] for query in qrels}, corpus, qrels)


@dataclass(frozen=True)
class BeirFiles:
    """The files of a folder in BEIR's layout.

    Attributes:
        corpus: the passages.
        queries: the queries.
        qrels: the judgements.
    """

    corpus: Path
    queries: Path
    qrels: Path


def beir_files(folder: str | Path, split: str) -> BeirFiles:
    """Find the files of a folder in BEIR's layout.

    Args:
        folder: the folder.
        split: which file of judgements.

    Returns:
        The files.

    Raises:
        InputError: there is no such folder, or one of the files is missing.

    Example:
        >>> beir_files("no_such_folder", "test")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no_such_folder: expected a folder in BEIR's \
layout, found nothing of that name
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing of that name"
        raise InputError(
            "a folder in BEIR's layout", found, where=str(folder), do=near_name(folder)
        )
    corpus, queries = json_lines(folder, "corpus"), json_lines(folder, "queries")
    qrels = folder / "qrels" / f"{split}.tsv"
    if not qrels.exists():
        splits = sorted(file.stem for file in qrels.parent.glob("*.tsv"))
        do = f"Splits in this folder: {', '.join(splits)}." if splits else ""
        raise InputError("a file of judgements", "none", where=str(qrels), do=do)
    return BeirFiles(corpus, queries, qrels)


def judgements(path: Path) -> Iterator[tuple[str, str, str, int]]:
    r"""Read a file of judgements in BEIR's layout.

    Args:
        path: a header, then query id, passage id and grade, with tabs between.

    Yields:
        Where the line stands, query id, passage id and grade.

    Raises:
        InputError: the file cannot be read, or a line is bad.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "test.tsv")
        >>> _ = file.write_text("query-id\tcorpus-id\tscore\nq\tp\t1\n")
        >>> [judgement[1:] for judgement in judgements(file)]
        [('q', 'p', 1)]
    """
    header = True
    for where, line in lines(path):
        columns = utf8(line, where=where).split("\t")
        if header:
            _require_header(columns, where)
            header = False
        else:
            yield where, *_judgement(columns, where)


def query_text(row: Mapping[str, object]) -> str:
    """Take the text of a query out of its row.

    Args:
        row: an object with `text`.

    Returns:
        The text; it may be empty.

    Raises:
        InputError: there is no text, or it is no string.

    Example:
        >>> query_text({"_id": "q", "text": "2 + 2?", "title": "not part of it"})
        '2 + 2?'
    """
    return string(row, "text")


def nothing_answers(path: str | Path) -> InputError:
    """What is wrong with a file of judgements without any above 0.

    Args:
        path: the file.

    Returns:
        The error.

    Example:
        >>> str(nothing_answers(Path("test.tsv")))
        'test.tsv: expected a query with an answer, found no judgement above 0'
    """
    found = "no judgement above 0"
    return InputError("a query with an answer", found, where=str(path))


def unknown_id(name: str, what: str, where: str) -> InputError:
    """What is wrong with a judgement of something that is not there.

    Args:
        name: the id.
        what: query or passage.
        where: the file and line number.

    Returns:
        The error.

    Example:
        >>> str(unknown_id("q9", "query", "test.tsv:2"))
        "test.tsv:2: query-id: expected the _id of a query, found 'q9'"
    """
    column = "query-id" if what == "query" else "corpus-id"
    return InputError(f"the _id of a {what}", repr(name), where=f"{where}: {column}")


def _texts(path: Path, read: Callable[[Mapping[str, object]], str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    again: dict[str, str] = {}
    for where, line in lines(path):
        name, text = named(line, where=where, read=read)
        if name in texts:
            again.setdefault(name, where)
        texts[name] = text
    if again:
        raise twice(again)
    return texts


def _qrels(
    path: Path, queries: Mapping[str, str], corpus: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    # What is wrong -> with which id -> where first.
    wrong: dict[str, dict[str, str]] = {
        "unknown query-id": {},
        "unknown corpus-id": {},
        "judged again": {},
    }
    for where, query, passage, grade in judgements(path):
        grades = qrels.setdefault(query, {})
        if query not in queries:
            wrong["unknown query-id"].setdefault(query, where)
        if passage not in corpus:
            wrong["unknown corpus-id"].setdefault(passage, where)
        if passage in grades:
            wrong["judged again"].setdefault(f"{query} {passage}", where)
        grades[passage] = grade
    told = [f"{what}, {len(ids):,}: {few(ids)}" for what, ids in wrong.items() if ids]
    if told:
        raise InputError(
            "queries and passages that are there, each pair judged once",
            "; ".join(told),
            where=next(where for ids in wrong.values() for where in ids.values()),
        )
    return qrels


def _require_header(columns: list[str], where: str) -> None:
    if columns != QRELS_HEADER:
        # Skipped unread, a first judgement would be lost without a word.
        raise InputError(
            f"the header {' '.join(QRELS_HEADER)!r}, with tabs",
            repr(" ".join(columns)) + (", without" if len(columns) == 1 else ""),
            where=where,
        )


def _judgement(columns: list[str], where: str) -> tuple[str, str, int]:
    if len(columns) != 3:
        raise InputError("3 columns with tabs between", str(len(columns)), where=where)
    query, passage, grade = columns
    if len(grade) <= _DIGITS:
        with suppress(ValueError):
            return query, passage, int(grade)
    shown = repr(grade) if len(grade) <= _DIGITS else f"{len(grade):,} characters"
    expected = f"an integer of at most {_DIGITS} digits"
    raise InputError(expected, shown, where=f"{where}: score")
