"""MIRACL: 18 languages, each with its own Wikipedia to search.

Read from `miracl/miracl` (miracl-v1.0-LANG/topics/topics.miracl-v1.0-LANG-SPLIT.tsv,
query id and text; miracl-v1.0-LANG/qrels/qrels.miracl-v1.0-LANG-SPLIT.tsv in TREC's
form) and `miracl/miracl-corpus` (miracl-corpus-v1.0-LANG/docs-N.jsonl.gz with docid,
title and text). Both have a loading script, which `datasets` no longer runs: the files
are read as they are. Reported on dev, for the test sets have no public judgements; de
and yo have no train. These facts are confirmed by public code that reads the files, and
the number of files of each language by the script's own table in two copies.

A passage is title, line break and text, as BGE-M3's authors say they read it
(FlagOpen/FlagEmbedding#653). An id of a query that is the id of a passage is chance
(FlagOpen/FlagEmbedding#929). Unconfirmed: that Korean ids come twice, as is said in
castorini/pyserini#1902 (the last one counts, as in FlagEmbedding); and the length of
512, the default of FlagEmbedding's evaluation.

Source: Zhang et al. 2023 (MIRACL); Chen et al. 2024 (BGE-M3); FlagOpen/FlagEmbedding,
FlagEmbedding/evaluation/miracl/data_loader.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.fields import optional_string, string, utf8
from m3jax.data.lines import lines
from m3jax.data.records import Retrieval
from m3jax.data.retrieval import answerable
from m3jax.evaluation.benchmarks import gather, published
from m3jax.evaluation.benchmarks.task import GENERAL, Task

# Files of the corpus: half of them would be half a corpus.
_FILES = {
    "ar": 5,
    "bn": 1,
    "de": 32,
    "en": 66,
    "es": 21,
    "fa": 5,
    "fi": 4,
    "fr": 30,
    "hi": 2,
    "id": 3,
    "ja": 14,
    "ko": 3,
    "ru": 20,
    "sw": 1,
    "te": 2,
    "th": 2,
    "yo": 1,
    "zh": 10,
}
LANGUAGES = tuple(_FILES)
# What a name opens.
PARTS: Mapping[str, tuple[str, ...]] = {
    "": LANGUAGES,
    **{language: (language,) for language in LANGUAGES},
}
SPLITS = ("dev", "train")


def tasks(
    parts: Iterable[str], *, split: str | None, root: str | Path, say: gather.Say
) -> Iterator[Task]:
    """Open languages one after another.

    Args:
        parts: languages.
        split: which queries; None = dev.
        root: as in `published.files`.
        say: is told in a line of everything odd.

    Yields:
        A task for each.

    Raises:
        InputError: a language cannot be had, or has no such split.
    """
    for language in parts:
        where = f"miracl/{language}"
        stem = f"miracl-v1.0-{language}"
        (topics,), (qrels,) = published.files(
            "miracl/miracl",
            f"{stem}/topics/topics.{stem}-{split or 'dev'}.tsv",
            f"{stem}/qrels/qrels.{stem}-{split or 'dev'}.tsv",
            root=root,
        )
        name, pattern = f"miracl-corpus-v1.0-{language}", "docs-*.jsonl.gz"
        (corpus,) = published.files(
            "miracl/miracl-corpus", f"{name}/{pattern}", root=root
        )
        if len(corpus) < _FILES[language]:
            expected = f"{_FILES[language]} files {pattern}"
            raise InputError(expected, f"{len(corpus)}", where=f"{where}: {name}")
        data = to_retrieval(
            published.rows(corpus),
            _topics(topics),
            _judged(qrels),
            where=where,
            say=say,
        )
        yield Task(
            name=where,
            language=language,
            data=data,
            metrics=("ndcg@10", "recall@100"),
            mixtures=GENERAL,
            query_length=512,
            passage_length=512,
        )


def to_retrieval(
    passages: Iterable[Mapping[str, object]],
    queries: Iterable[tuple[str, str]],
    judged: Iterable[tuple[str, str, int]],
    *,
    where: str,
    say: gather.Say = lambda message: None,
) -> Retrieval:
    r"""Make a task of the rows of a language.

    Args:
        passages: with docid, title and text; a passage is title, line break and text.
        queries: ids and texts.
        judged: query ids, passage ids and grades.
        where: name of the set.
        say: is told in a line of everything odd.

    Returns:
        The task, with the queries that some passage answers.

    Raises:
        InputError: a row lacks something, or there is nothing to search or to score.

    Example:
        >>> passages = [{"docid": "39#0", "title": "Albedo", "text": "A measure."}]
        >>> judged = [("q", "39#0", 1)]
        >>> to_retrieval(passages, [("q", "Albedo?")], judged, where="miracl/en").corpus
        {'39#0': 'Albedo\nA measure.'}
    """
    corpus = gather.texts(
        ((string(row, "docid", where), _passage(row, where)) for row in passages),
        what="passages",
        where=where,
        say=say,
    )
    asked = gather.texts(queries, what="queries", where=where, say=say)
    grades = gather.judgements(
        judged, queries=asked, corpus=corpus, where=where, say=say
    )
    return answerable(asked, corpus, grades, where=where, say=say)


def _passage(row: Mapping[str, object], where: str) -> str:
    return f"{optional_string(row, 'title', where) or ''}\n{string(row, 'text', where)}"


def _topics(path: Path) -> Iterator[tuple[str, str]]:
    for where, columns in _columns(path, "query id and text", 2):
        if not columns[1]:
            raise InputError("a query", "an empty one", where=where)
        yield columns[0], columns[1]


def _judged(path: Path) -> Iterator[tuple[str, str, int]]:
    for where, columns in _columns(path, "query id, Q0, passage id and grade", 4):
        with suppress(ValueError):
            yield columns[0], columns[2], int(columns[3])
            continue
        raise InputError("a grade, an integer", repr(columns[3]), where=where)


def _columns(path: Path, what: str, count: int) -> Iterator[tuple[str, list[str]]]:
    for where, line in lines(path):
        columns = utf8(line, where=where).split("\t")
        if len(columns) != count:
            expected = f"{what} with tabs between"
            raise InputError(expected, f"{len(columns)} columns", where=where)
        yield where, columns
