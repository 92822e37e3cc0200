"""MLDR: long documents in 13 languages.

Read from `Shitao/MLDR`: mldr-v1.0-LANG/corpus.jsonl.gz (docid, text) and
mldr-v1.0-LANG/SPLIT.jsonl.gz (query_id, query, positive_passages, negative_passages).
The data set has a loading script, which `datasets` no longer runs: the files are read
as they are. Reported on test. A passage is the whole text; there are no titles.

Confirmed by FlagEmbedding's code and a copy of the script: names, columns, languages,
splits, lengths (512 and 8,192) and weights.

Source: Chen et al. 2024 (BGE-M3); FlagOpen/FlagEmbedding, C_MTEB/MLDR and
FlagEmbedding/evaluation/mldr/data_loader.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.fields import kind_of, string
from m3jax.data.records import Retrieval
from m3jax.data.retrieval import answerable
from m3jax.evaluation.benchmarks import gather, published
from m3jax.evaluation.benchmarks.task import LONG, Task

LANGUAGES = tuple("ar de en es fr hi it ja ko pt ru th zh".split())
# What a name opens.
PARTS: Mapping[str, tuple[str, ...]] = {
    "": LANGUAGES,
    **{language: (language,) for language in LANGUAGES},
}
SPLITS = ("test", "dev", "train")
_GRADES = {"positive_passages": 1, "negative_passages": 0}


def tasks(
    parts: Iterable[str], *, split: str | None, root: str | Path, say: gather.Say
) -> Iterator[Task]:
    """Open languages one after another.

    Args:
        parts: languages.
        split: which queries; None = test.
        root: as in `published.files`.
        say: is told in a line of everything odd.

    Yields:
        A task for each.

    Raises:
        InputError: a language cannot be had.
    """
    for language in parts:
        where = f"mldr/{language}"
        corpus, queries = published.files(
            "Shitao/MLDR",
            f"mldr-v1.0-{language}/corpus.jsonl.gz",
            f"mldr-v1.0-{language}/{split or 'test'}.jsonl.gz",
            root=root,
        )
        data = to_retrieval(
            published.rows(corpus), published.rows(queries), where=where, say=say
        )
        yield Task(
            name=where,
            language=language,
            data=data,
            metrics=("ndcg@10",),
            mixtures=LONG,
            query_length=512,
            passage_length=8_192,
        )


def to_retrieval(
    passages: Iterable[Mapping[str, object]],
    queries: Iterable[Mapping[str, object]],
    *,
    where: str,
    say: gather.Say = lambda message: None,
) -> Retrieval:
    """Make a task of the rows of a language.

    Args:
        passages: with docid and text.
        queries: with query_id, query, and positive_passages and negative_passages, each
            a list of objects with docid; either may be null.
        where: name of the set.
        say: is told in a line of everything odd.

    Returns:
        The task, with the queries that some passage answers.

    Raises:
        InputError: a row lacks something, or there is nothing to search or to score.

    Example:
        >>> passages = [{"docid": "doc-de-1", "text": "Salz ist ein Mineral."}]
        >>> query = {"query_id": "q-de-1", "query": "Was ist Salz?"}
        >>> query |= {"positive_passages": passages, "negative_passages": []}
        >>> to_retrieval(passages, [query], where="mldr/de").qrels
        {'q-de-1': {'doc-de-1': 1}}
    """
    corpus = gather.texts(
        ((string(row, "docid", where), string(row, "text", where)) for row in passages),
        what="passages",
        where=where,
        say=say,
    )
    judged: list[tuple[str, str, int]] = []

    def asked() -> Iterator[tuple[str, str]]:
        for row in queries:
            name = string(row, "query_id", where)
            # The texts of the passages, which are long, stay behind.
            judged.extend((name, *one) for one in _judged(row, where))
            yield name, string(row, "query", where)

    texts = gather.texts(asked(), what="queries", where=where, say=say)
    grades = gather.judgements(
        judged, queries=texts, corpus=corpus, where=where, say=say
    )
    return answerable(texts, corpus, grades, where=where, say=say)


def _judged(row: Mapping[str, object], where: str) -> Iterator[tuple[str, int]]:
    for key, grade in _GRADES.items():
        found = row.get(key) or []
        if not isinstance(found, list):
            raise InputError("a list", kind_of(found), where=f"{where}: {key}")
        for one in found:
            if not isinstance(one, dict):
                raise InputError("objects", kind_of(one), where=f"{where}: {key}")
            yield string(one, "docid", f"{where}: {key}"), grade
