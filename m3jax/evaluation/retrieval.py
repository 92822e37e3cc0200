"""How well queries find their passages: nDCG@10, MRR@10 and recall@100."""

import statistics
from collections.abc import Mapping

import numpy as np
import pytrec_eval

from m3jax.core.errors import InputError

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


def _best(row: Mapping[str, float], k: int) -> dict[str, float]:
    """The k best passages, in trec_eval's own order."""
    order = sorted(row, key=lambda name: (np.float32(row[name]), name), reverse=True)
    return {name: row[name] for name in order[:k]}
