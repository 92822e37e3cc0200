"""MKQA: questions in 25 languages, answered out of the English Wikipedia.

Queries and answers from `Shitao/bge-m3-data`, MKQA_test-data.zip with LANG.jsonl (id,
question, answers): the 6,619 questions a language that BGE-M3's authors have kept,
those with a short answer. The corpus is `BeIR/nq`, searched and looked into as title,
line break and text, in lower case and with one sign for all hyphens, quotes and slashes
(`plain`), as the scripts of the paper do; the later package puts a space for the break.
There are no judgements: a query is answered if a passage contains one of its answers.

Confirmed by FlagEmbedding's code: ids of the data sets, names of the files, columns,
languages, corpus and its cleaning, lengths of 512, weights of dense+sparse and of all.
Unconfirmed: that the answers are in English, as the corpus is; and whether the rows
have more columns, which are passed over.

Source: Longpre et al. 2021 (MKQA); Chen et al. 2024 (BGE-M3); FlagOpen/FlagEmbedding,
C_MTEB/MKQA and FlagEmbedding/evaluation/mkqa/data_loader.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from m3jax.data.fields import as_strings, optional_string, required, string
from m3jax.data.records import Retrieval
from m3jax.evaluation.benchmarks import gather, published
from m3jax.evaluation.benchmarks.plain import plain
from m3jax.evaluation.benchmarks.task import GENERAL, Task

LANGUAGES = tuple(
    "ar fi ja ko ru es sv he th da de fr it nl pl pt hu vi ms km no tr "
    "zh_cn zh_hk zh_tw".split()
)
# What a name opens; English is there, and not among the 25.
PARTS: Mapping[str, tuple[str, ...]] = {
    "": LANGUAGES,
    **{language: (language,) for language in (*LANGUAGES, "en")},
}
SPLITS = ("test",)


def tasks(
    parts: Iterable[str], *, split: str | None, root: str | Path, say: gather.Say
) -> Iterator[Task]:
    """Open languages one after another; their corpus is read once.

    Args:
        parts: languages.
        split: there is only test.
        root: as in `published.files`.
        say: is told in a line of everything odd.

    Yields:
        A task for each; the corpus is the same object in all.

    Raises:
        InputError: the corpus or a language cannot be had.
    """
    parts = list(parts)
    if not parts:  # then the corpus is not read either
        return
    ((packed,),) = published.files(
        "Shitao/bge-m3-data", "MKQA_test-data.zip", root=root
    )
    (files,) = published.files("BeIR/nq", "corpus/*.parquet", root=root)
    corpus = to_corpus(published.rows(files), where="mkqa", say=say)
    for language in parts:
        where = f"mkqa/{language}"
        rows = published.rows([f"zip://{language}.jsonl::{packed}"])
        data, answers = to_retrieval(rows, corpus, where=where, say=say)
        yield Task(
            name=where,
            language=language,
            data=data,
            metrics=("answer_recall@100",),
            mixtures=GENERAL,
            query_length=512,
            passage_length=512,
            answers=answers,
        )


def to_corpus(
    passages: Iterable[Mapping[str, object]],
    *,
    where: str,
    say: gather.Say = lambda message: None,
) -> dict[str, str]:
    r"""Make the corpus of its rows.

    Args:
        passages: with _id, title and text.
        where: name of the set.
        say: is told in a line of ids that come again.

    Returns:
        Passage id -> title, line break and text, in lower case and `plain`.

    Raises:
        InputError: a row lacks something, or there is none.

    Example:
        >>> row = {"_id": "doc0", "title": "Oz", "text": "A\u2013B"}
        >>> to_corpus([row], where="mkqa")
        {'doc0': 'oz\na-b'}
    """
    return gather.texts(
        ((string(row, "_id", where), _passage(row, where)) for row in passages),
        what="passages",
        where=where,
        say=say,
    )


def to_retrieval(
    rows: Iterable[Mapping[str, object]],
    corpus: dict[str, str],
    *,
    where: str,
    say: gather.Say = lambda message: None,
) -> tuple[Retrieval, dict[str, tuple[str, ...]]]:
    """Make a task of the questions of a language.

    Args:
        rows: with id, question and answers.
        corpus: passage id -> text.
        where: name of the set.
        say: is told in a line of everything odd.

    Returns:
        The task, each query with an empty row of judgements, so that it is searched;
        and query id -> answers.

    Raises:
        InputError: a row lacks something, or there is none.

    Example:
        >>> rows = [{"id": 7, "question": "Hauptstadt?", "answers": ["Paris"]}]
        >>> data, answers = to_retrieval(rows, {"doc0": "paris"}, where="mkqa/de")
        >>> data.queries, data.qrels, answers
        ({'7': 'Hauptstadt?'}, {'7': {}}, {'7': ('Paris',)})
    """
    answers: dict[str, tuple[str, ...]] = {}

    def asked() -> Iterator[tuple[str, str]]:
        for row in rows:
            name = str(required(row, "id", where))
            answers[name] = as_strings(
                required(row, "answers", where), f"{where}: answers"
            )
            yield name, string(row, "question", where)

    queries = gather.texts(asked(), what="queries", where=where, say=say)
    none = [name for name, strings in answers.items() if not strings]
    gather.count(none, "queries without an answer", "they count as missed", where, say)
    return Retrieval(queries, corpus, {name: {} for name in queries}), answers


def _passage(row: Mapping[str, object], where: str) -> str:
    title = optional_string(row, "title", where) or ""
    return plain(f"{title}\n{string(row, 'text', where)}".lower())
