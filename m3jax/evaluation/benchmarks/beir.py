"""BEIR: the 15 public sets, CQADupStack as its 12 forums.

Read from `BeIR/NAME` (corpus/*.parquet and queries/*.parquet with _id, title and text)
and `BeIR/NAME-qrels` (SPLIT.tsv, BEIR's own layout); CQADupStack has a folder for each
forum in both. BEIR's number of CQADupStack is the mean of its forums.

Confirmed by files that public code fetches at fixed revisions: the layout of scifact,
nq, hotpotqa, trec-covid, webis-touche2020, fiqa and cqadupstack. Unconfirmed: that the
other sets are laid out likewise. The lengths are those of E5's and FlagEmbedding's
evaluation; BGE-M3's paper has no BEIR, and the weights are those of its MIRACL.

Source: Thakur et al. 2021 (arXiv:2104.08663); beir-cellar/beir; FlagOpen/FlagEmbedding,
FlagEmbedding/evaluation/beir/data_loader.py.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data import retrieval
from m3jax.data.corpora import passage_text
from m3jax.data.fields import string
from m3jax.data.records import Retrieval
from m3jax.evaluation.benchmarks import gather, published
from m3jax.evaluation.benchmarks.task import GENERAL, Task

FORUMS = (
    "android",
    "english",
    "gaming",
    "gis",
    "mathematica",
    "physics",
    "programmers",
    "stats",
    "tex",
    "unix",
    "webmasters",
    "wordpress",
)
_CQA = tuple(f"cqadupstack/{forum}" for forum in FORUMS)
_ONE = (
    "msmarco",
    "trec-covid",
    "nfcorpus",
    "nq",
    "hotpotqa",
    "fiqa",
    "arguana",
    "webis-touche2020",
    "quora",
    "dbpedia-entity",
    "scidocs",
    "fever",
    "climate-fever",
    "scifact",
)
# What a name opens.
PARTS: Mapping[str, tuple[str, ...]] = {
    "": _ONE + _CQA,
    "cqadupstack": _CQA,
    **{name: (name,) for name in _ONE + _CQA},
}
SPLITS = ("test", "dev", "train")


def tasks(
    parts: Iterable[str], *, split: str | None, root: str | Path, say: gather.Say
) -> Iterator[Task]:
    """Open sets one after another.

    Args:
        parts: names of sets.
        split: which judgements; None = test, and dev of msmarco, as BEIR reports it.
        root: as in `published.files`.
        say: is told in a line of everything odd.

    Yields:
        A task for each.

    Raises:
        InputError: a set cannot be had, or has no such split.
    """
    for part in parts:
        chosen = split or ("dev" if part == "msmarco" else "test")
        corpus, queries, qrels = _files(part, chosen, root)
        data = to_retrieval(
            published.rows(corpus),
            published.rows(queries),
            (row[1:] for row in retrieval.judgements(qrels)),
            where=f"beir/{part}",
            say=say,
        )
        yield Task(
            name=f"beir/{part}",
            language="en",
            data=data,
            metrics=("ndcg@10", "recall@100"),
            mixtures=GENERAL,
            query_length=512,
            passage_length=512,
            identical="left out",
        )


def to_retrieval(
    passages: Iterable[Mapping[str, object]],
    queries: Iterable[Mapping[str, object]],
    judged: Iterable[tuple[str, str, int]],
    *,
    where: str,
    say: gather.Say = lambda message: None,
) -> Retrieval:
    """Make a task of the rows of a set.

    Args:
        passages: with _id, title and text; a passage is title, space and text.
        queries: with _id and text, of all splits.
        judged: query ids, passage ids and grades, of one split.
        where: name of the set.
        say: is told in a line of everything odd.

    Returns:
        The task, with the queries that some passage answers.

    Raises:
        InputError: a row lacks something, or there is nothing to search or to score.

    Example:
        >>> passages = [{"_id": "p", "title": "Sum", "text": "It is 4."}]
        >>> queries = [{"_id": "q", "title": "", "text": "2 + 2?"}]
        >>> to_retrieval(passages, queries, [("q", "p", 1)], where="beir/sums").corpus
        {'p': 'Sum It is 4.'}
    """
    corpus = gather.texts(
        ((string(row, "_id", where), passage_text(row, where)) for row in passages),
        what="passages",
        where=where,
        say=say,
    )
    asked = gather.texts(
        ((string(row, "_id", where), string(row, "text", where)) for row in queries),
        what="queries",
        where=where,
        say=say,
    )
    grades = gather.judgements(
        judged, queries=asked, corpus=corpus, where=where, say=say
    )
    return retrieval.answerable(asked, corpus, grades, where=where, say=say)


def _files(
    part: str, split: str, root: str | Path
) -> tuple[list[Path], list[Path], Path]:
    name, _, forum = part.partition("/")
    inner = f"{forum}/" if forum else ""
    corpus, queries = published.files(
        f"BeIR/{name}",
        f"{inner}corpus/*.parquet",
        f"{inner}queries/*.parquet",
        root=root,
    )
    (qrels,) = published.files(f"BeIR/{name}-qrels", f"{inner}*.tsv", root=root)
    by_split = {path.stem: path for path in qrels}
    if split not in by_split:
        there = ", ".join(sorted(by_split))
        raise InputError(f"the split {split}", f"only {there}", where=f"beir/{part}")
    return corpus, queries, by_split[split]
