"""Retrieval: every head and mixture of a model, BM25 beside them, and a reranker."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.corpora import few
from m3jax.data.prompts import Prompts, query_prompt
from m3jax.data.records import Retrieval
from m3jax.data.retrieval import read_beir
from m3jax.evaluation import bm25, heads, reranking, trec
from m3jax.evaluation.benchmarks.task import without_identical
from m3jax.evaluation.outcome import Histogram, Outcome
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.retrieval import Results, by_query, measure
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import RRF, Fusion, Mixture
from m3jax.inference.reranker import Reranker

BM25, BM25_TOKENS = "BM25", "BM25-tokens"
MIXED = "dense+sparse"
_CURVE = (1, 3, 5, 10, 20, 50, 100, 200, 500, 1_000)
_DRAWN = 100  # passages of each query in a histogram


def read(path: Path, split: str) -> tuple[Retrieval, tuple[str, ...]]:
    """A folder in BEIR's layout, and what is odd about it."""
    notes: list[str] = []
    data = read_beir(path, split, say=notes.append)
    try:
        trec.check_ids(data)
    except InputError as error:
        raise error.at(str(path)) from None
    if same := themselves(data):
        notes.append(
            f"{len(same):,} queries are passages, of the same id: they are left out of "
            "what they find, as in BEIR."
        )
    for what, texts in (("queries", data.queries), ("passages", data.corpus)):
        if blank := [name for name, text in texts.items() if not text.strip()]:
            share = f"{len(blank):,} of {len(texts):,} {what}"
            notes.append(f"{share} are blank, and measured as they are: {few(blank)}")
    return data, tuple(notes)


def search(
    embedder: Embedder, data: Retrieval, settings: Settings
) -> dict[str, Results]:
    """Search a test set with every head of a model, and by BM25.

    Args:
        embedder: the model.
        data: queries and corpus; see `themselves`.
        settings: see `Settings`.

    Returns:
        System -> query id -> passage id -> score.

    Raises:
        InputError: a setting does not fit the model.
    """
    there = settings.outputs or embedder.module.config.outputs
    d, s, _ = settings.weights
    mixtures: dict[str, Mixture | Fusion] = {"hybrid": Mixture(settings.weights)}
    if len(there) == 3 and d + s > 0:
        mixtures[MIXED] = Mixture((d, s, 0.0))
    length = settings.max_length or embedder.max_length
    same = themselves(data)
    found = rankings(
        embedder,
        data,
        settings,
        mixtures=mixtures,
        query_length=length,
        passage_length=length,
        k=settings.k + bool(same),
        rescored=settings.rescored,
    )
    return {
        name: without_identical(one, settings.k, queries=same)
        for name, one in found.items()
    }


def themselves(data: Retrieval) -> frozenset[str]:
    """Judged queries that are passages of the corpus, as in ArguAna and Quora.

    The passage has their id and, but for a title, their text, and does not answer them.
    """
    return frozenset(
        query
        for query, grades in data.qrels.items()
        if query in data.corpus
        and grades.get(query, 0) <= 0
        and data.corpus[query].rstrip().endswith(data.queries[query].strip())
    )


def rankings(
    embedder: Embedder,
    data: Retrieval,
    settings: Settings,
    *,
    mixtures: Mapping[str, Mixture | Fusion],
    query_length: int,
    passage_length: int,
    k: int,
    rescored: int,
) -> dict[str, Results]:
    """Search by every head, by mixtures, reciprocal-rank fusion and `baselines`.

    Args:
        embedder: the model.
        data: queries and corpus.
        settings: of which outputs, task, batch_tokens and progress count.
        mixtures: of the heads.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        k: passages kept of each query.
        rescored: see `heads.search`.

    Returns:
        System -> query id -> passage id -> score.
    """
    prompt = query_prompt(embedder.prompts, settings.task)
    return heads.search(
        embedder.module,
        embedder.params,
        embedder.tokenizer,
        data,
        Prompts(prompt, embedder.prompts.passage),
        query_length=query_length,
        passage_length=passage_length,
        mesh=embedder.mesh,
        outputs=settings.outputs,
        mixtures={**mixtures, "rrf": RRF},
        k=k,
        rescored=rescored,
        batch_tokens=settings.batch_tokens,
        progress=settings.progress,
        warn=True,
    ) | baselines(embedder, data, k)


def baselines(embedder: Embedder, data: Retrieval, k: int) -> dict[str, Results]:
    """Search by BM25, by its own words and by the tokens of a model.

    Args:
        embedder: the model.
        data: queries and corpus.
        k: passages kept of each query.

    Returns:
        System -> query id -> passage id -> score.
    """
    tokens = bm25.token_words(embedder.tokenizer)
    return {
        BM25: bm25.search(data, k),
        BM25_TOKENS: bm25.search(data, k, words=tokens),
    }


def outcome(
    name: str,
    found: Mapping[str, Results],
    data: Retrieval,
    metrics: Sequence[str],
    *,
    language: str | None = None,
    passage_language: str | None = None,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """Measure rankings.

    Args:
        name: of the set.
        found: system -> query id -> passage id -> score.
        data: the judgements.
        metrics: of `retrieval.measure`; the first decides.
        language: of the queries.
        passage_language: of the passages, where that is told apart.
        notes: what a reader should know.

    Returns:
        The outcome, without plots; see `plotted`.
    """
    rows = {system: by_query(one, data.qrels, metrics) for system, one in found.items()}
    return Outcome(
        name=name,
        kind="retrieval",
        main=metrics[0],
        values={
            system: {key: statistics.fmean(each.values()) for key, each in row.items()}
            for system, row in rows.items()
        },
        items={system: row[metrics[0]] for system, row in rows.items()},
        counts={"queries": len(data.qrels), "passages": len(data.corpus)},
        notes=notes,
        language=language,
        passage_language=passage_language,
    )


def plotted(made: Outcome, found: Mapping[str, Results], data: Retrieval) -> Outcome:
    """Add recall curves, and histograms of the scores of what was found.

    Args:
        made: of `outcome`.
        found: system -> query id -> passage id -> score.
        data: the judgements.
    """
    deepest = max(len(row) for one in found.values() for row in one.values())
    cuts = [k for k in _CURVE if k <= max(deepest, 1)]
    curves, histograms = {}, {}
    for system, one in found.items():
        recall = measure(one, data.qrels, [f"recall@{k}" for k in cuts])
        curves[system] = dict(zip(cuts, recall.values(), strict=True))
        if (histogram := _histogram(one, data)) is not None:
            histograms[system] = histogram
    return dataclasses.replace(made, curves=curves, histograms=histograms)


def rerank(
    before: Outcome,
    reranker: Reranker,
    found: Results,
    data: Retrieval,
    settings: Settings,
    *,
    first: str,
    candidates: int = 100,
) -> tuple[Outcome, Results]:
    """Let a reranker order what a first stage found.

    Args:
        before: of the first stage.
        reranker: the model.
        found: ranking of the first stage.
        data: the texts and judgements.
        settings: see `Settings`.
        first: what the first stage is called.
        candidates: how many of each query are ordered.

    Returns:
        The outcome of the candidates as they came and of the reranker, and its order.
    """
    best = {
        query: dict(sorted(row.items(), key=lambda one: -one[1])[:candidates])
        for query, row in found.items()
    }
    ordered = reranking.rerank(
        reranker.module,
        reranker.params,
        reranker.tokenizer,
        data,
        best,
        max_length=reranker.max_length,
        task=settings.task,
        mesh=reranker.mesh,
        batch_tokens=settings.batch_tokens,
        progress=settings.progress,
    )
    both = {f"{first}, its best {candidates}": best, "reranked": ordered}
    made = outcome(
        before.name,
        both,
        data,
        settings.metrics,
        language=before.language,
        passage_language=before.passage_language,
    )
    made = dataclasses.replace(made, kind="reranking")
    return plotted(made, both, data), ordered


def _histogram(found: Results, data: Retrieval) -> Histogram | None:
    """Scores of relevant passages and of others, among the best of each query."""
    relevant, other = [], []
    for query, row in found.items():
        grades = data.qrels.get(query, {})
        for passage, score in list(row.items())[:_DRAWN]:
            (relevant if grades.get(passage, 0) > 0 else other).append(score)
    both = [*relevant, *other]
    if len(both) < 2 or min(both) == max(both):
        return None
    return Histogram.of(relevant, other)
