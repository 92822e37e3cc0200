"""How well queries find their passages: nDCG@10, MRR@10 and recall@100."""

import statistics
from collections.abc import Mapping

import numpy as np
import pytrec_eval
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.inference.encode import encode
from m3jax.inference.index import top_k
from m3jax.nn.embedding import EmbeddingModule

METRICS = ("ndcg@10", "mrr@10", "recall@100")
# Query id -> passage id -> score.
Results = dict[str, dict[str, float]]


def measure(
    results: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Score a ranking with trec_eval: the mean over the judged queries.

    nDCG@10 sums grade / log2(rank + 1), as BEIR does; for MRR@10 and recall@100 a
    passage with a grade above 0 is relevant. trec_eval compares scores in float32, and
    of equal ones puts the id that is last in the alphabet first. A judged query
    without results counts 0; a query without judgements does not count.

    Args:
        results: query id -> passage id -> score, at least the 100 best of each.
        qrels: query id -> passage id -> grade.

    Returns:
        ndcg@10, mrr@10 and recall@100, from 0 to 1.

    Raises:
        InputError: no query is judged.

    Source: Järvelin and Kekäläinen 2002; https://github.com/usnistgov/trec_eval.

    Example:
        >>> measure({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}})["mrr@10"]
        0.5
    """
    if not qrels:
        raise InputError("at least one judged query", "none", where="qrels")
    ranked = {query: dict(results.get(query, {})) for query in qrels}
    judged = {query: dict(grades) for query, grades in qrels.items()}
    whole = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.100"})
    found = whole.evaluate(ranked)
    # recip_rank has no cutoff of its own.
    top = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"})
    first = top.evaluate({query: _best(row, 10) for query, row in ranked.items()})
    return {
        "ndcg@10": statistics.fmean(row["ndcg_cut_10"] for row in found.values()),
        "mrr@10": statistics.fmean(row["recip_rank"] for row in first.values()),
        "recall@100": statistics.fmean(row["recall_100"] for row in found.values()),
    }


def dense(
    module: EmbeddingModule,
    params: Params,
    tokenizer: Tokenizer,
    data: Retrieval,
    prompts: Prompts,
    *,
    query_length: int,
    passage_length: int,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    k: int = 100,
    progress: bool = False,
) -> Results:
    """Search a corpus with the dense embeddings of a model.

    Args:
        module: the model.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        data: queries and corpus; queries without judgements are passed over.
        prompts: before queries and passages.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        mesh: devices that share the rows.
        batch_tokens: tokens in a batch; see `inference.encode`.
        k: passages kept of each query.
        progress: show a bar on a terminal.

    Returns:
        For each query its k best passages.

    Raises:
        InputError: a length or k does not fit the model.
    """

    def embed(texts: list[str], max_length: int, what: str) -> np.ndarray:
        encoded = encode(
            module,
            params,
            tokenizer,
            texts,
            max_length=max_length,
            batch_tokens=batch_tokens,
            mesh=mesh,
            progress=progress,
            description=what,
        )
        assert encoded.dense is not None  # it is what encode computes by default
        return encoded.dense

    queries = [name for name in data.queries if name in data.qrels]
    passages = list(data.corpus)
    scores, at = top_k(
        embed(
            [prompts.query + data.queries[i] for i in queries], query_length, "queries"
        ),
        embed(
            [prompts.passage + text for text in data.corpus.values()],
            passage_length,
            "passages",
        ),
        k,
    )
    return {
        query: {passages[i]: score for i, score in zip(*row, strict=True)}
        for query, row in zip(
            queries, zip(at.tolist(), scores.tolist(), strict=True), strict=True
        )
    }


def _best(row: Mapping[str, float], k: int) -> dict[str, float]:
    """The k best passages, in trec_eval's own order."""
    order = sorted(row, key=lambda name: (np.float32(row[name]), name), reverse=True)
    return {name: row[name] for name in order[:k]}
