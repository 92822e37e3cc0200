"""How well queries find their passages: nDCG, MRR, recall, MAP, by trec_eval."""

import difflib
import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
import pytrec_eval

from m3jax.core.errors import InputError

METRICS = ("ndcg@10", "mrr@10", "recall@100")
# Query id -> passage id -> score.
Results = dict[str, dict[str, float]]
# Ours -> trec_eval's; recip_rank has no cutoff of its own.
_MEASURES = {"ndcg": "ndcg_cut", "recall": "recall", "map": "map_cut", "precision": "P"}
_WORDS = "ndcg", "recall", "map", "precision", "mrr"
_NAME = re.compile(rf"({'|'.join(_WORDS)})@([1-9]\d{{0,5}})|map")


def measure(
    results: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = METRICS,
) -> dict[str, float]:
    """Score a ranking with trec_eval: the mean over the judged queries.

    nDCG sums grade / log2(rank + 1), as BEIR does; for the others a passage with a
    grade above 0 is relevant. trec_eval compares scores in float32, and of equal ones
    puts the id that is last in the alphabet first. A judged query without results
    counts 0; a query without judgements does not count.

    Args:
        results: query id -> passage id -> score, as many as the deepest metric needs.
        qrels: query id -> passage id -> grade.
        metrics: ndcg@k, mrr@k, recall@k, map@k, precision@k or map, for any k.

    Returns:
        Metric -> value from 0 to 1.

    Raises:
        InputError: no query is judged, or a metric is unknown.

    Source: Järvelin and Kekäläinen 2002; https://github.com/usnistgov/trec_eval.

    Example:
        >>> measure({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}})["mrr@10"]
        0.5
    """
    rows = by_query(results, qrels, metrics)
    return {name: statistics.fmean(row.values()) for name, row in rows.items()}


def by_query(
    results: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = METRICS,
) -> dict[str, dict[str, float]]:
    """Score a ranking query by query; see `measure`.

    Args:
        results: query id -> passage id -> score.
        qrels: query id -> passage id -> grade.
        metrics: see `measure`.

    Returns:
        Metric -> query id -> value.

    Raises:
        InputError: no query is judged, a metric is unknown, or a score is not finite.

    Example:
        >>> by_query({"q": {"a": 1.0}}, {"q": {"a": 1}, "r": {"a": 1}}, ["ndcg@1"])
        {'ndcg@1': {'q': 1.0, 'r': 0.0}}
    """
    if not qrels:
        raise InputError("at least one judged query", "none", where="qrels")
    check_metrics(metrics)
    rows = {query: dict(results.get(query, {})) for query in qrels}
    judged = {query: dict(grades) for query, grades in qrels.items()}
    wanted = {name: _measure(name) for name in metrics if not name.startswith("mrr@")}
    whole = pytrec_eval.RelevanceEvaluator(judged, set(wanted.values()))
    found = whole.evaluate(rows) if wanted else {}
    values = {
        name: {query: row[key.replace(".", "_")] for query, row in found.items()}
        for name, key in wanted.items()
    }
    for name in metrics:
        if name not in wanted:
            cut = int(name.partition("@")[2])
            top = {
                query: {passage: row[passage] for passage, _ in ranked(row)[:cut]}
                for query, row in rows.items()
            }
            rank = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(top)
            values[name] = {query: row["recip_rank"] for query, row in rank.items()}
    return {name: values[name] for name in metrics}


def check_metrics(metrics: Sequence[str]) -> None:
    """Refuse metrics that are not known.

    Raises:
        InputError: names the first, or says that there is none.

    Example:
        >>> check_metrics(["ndgc@10"])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: metrics: expected ndcg@k, mrr@k, recall@k, \
map@k, precision@k or map, found 'ndgc@10'. Did you mean ndcg@10?
    """
    unknown = [name for name in metrics if not _NAME.fullmatch(name)]
    if unknown or not metrics:
        expected = "ndcg@k, mrr@k, recall@k, map@k, precision@k or map"
        found = repr(unknown[0]) if unknown else "none"
        do = _meant(unknown[0]) if unknown else ""
        raise InputError(expected, found, where="metrics", do=do)


def _meant(name: str) -> str:
    """The nearest name that there is, with the same cutoff."""
    word, at, cutoff = name.lower().partition("@")
    near = difflib.get_close_matches(word, _WORDS, n=1)
    return f"Did you mean {near[0]}{at}{cutoff}?" if near else ""


def ranked(row: Mapping[str, float]) -> list[tuple[str, np.float32]]:
    """Put the passages of a query into trec_eval's order.

    Scores are compared in float32, and of equal ones the id that is last in the
    alphabet comes first.

    Args:
        row: passage id -> score.

    Returns:
        Passages and their scores, the best first.

    Raises:
        InputError: a score is not finite in float32.

    Example:
        >>> [name for name, _ in ranked({"a": 1, "b": 1 + 1e-9, "c": 2})]
        ['c', 'b', 'a']
    """
    with np.errstate(over="ignore"):  # told below
        scores = np.fromiter(row.values(), np.float64, len(row)).astype(np.float32)
    if not np.isfinite(scores).all():
        at = int(np.flatnonzero(~np.isfinite(scores))[0])
        name, score = list(row.items())[at]
        where = f"passage {name!r}"
        raise InputError("a score that float32 can hold", f"{score}", where=where)
    order = sorted(
        zip(scores.tolist(), row, range(len(row)), strict=True), reverse=True
    )
    return [(name, scores[at]) for _, name, at in order]


def deepest(metrics: Sequence[str]) -> int:
    """Say how many passages of a query the metrics look at.

    Args:
        metrics: with or without a cutoff.

    Returns:
        The deepest cutoff; 0 where there is none.

    Example:
        >>> deepest(["ndcg@10", "answer_recall@100", "map"])
        100
    """
    return max((int(name.partition("@")[2] or 0) for name in metrics), default=0)


def _measure(name: str) -> str:
    kind, _, cut = name.partition("@")
    return f"{_MEASURES[kind]}.{cut}" if cut else kind
