"""Whether BM25 and the measures are those of bm25s and pytrec_eval, on every set.

    python -m benchmarks.retrieval --only metrics --data FOLDER

BM25: `m3jax.evaluation.bm25` and bm25s' own `retrieve` search with the same words.
`retrieve` also returns passages that share no word with the query, with a score of 0;
these are left out. Measures: `m3jax.evaluation.retrieval.measure` on the passages that
BM25 has found, and pytrec_eval called with the whole ranking; a first answer after rank
10 counts 0 in MRR@10.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pytrec_eval

from benchmarks.table import Row
from m3jax.data.records import Retrieval
from m3jax.data.retrieval import read_beir
from m3jax.evaluation import bm25
from m3jax.evaluation.retrieval import Results, measure

K = 100
# Ours -> pytrec_eval's, which has no cutoff of MRR.
NAMES = {
    "ndcg@10": "ndcg_cut_10",
    "ndcg@100": "ndcg_cut_100",
    "mrr@10": "recip_rank",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "precision@10": "P_10",
    "map@100": "map_cut_100",
    "map": "map",
}


def rows(data: Path) -> Iterator[Row]:
    """Compare on every folder in BEIR's layout.

    Args:
        data: has them, at any depth.
    """
    apart: dict[str, float] = {}
    for folder in sorted(path.parents[1] for path in data.rglob("qrels/test.tsv")):
        task, name = read_beir(folder), str(folder.relative_to(data))
        ours, theirs = bm25.search(task, K), retrieve(task, K)
        own = measure(ours, task.qrels, list(NAMES))
        other = trec_eval(theirs, task.qrels)
        again = trec_eval(ours, task.qrels)
        apart[name] = max(abs(own[key] - again[key]) for key in own)
        yield Row(
            f"BM25, {name}, bm25s: nDCG@10",
            f"{own['ndcg@10']:.4f}",
            f"{other['ndcg@10']:.4f}",
            f"{abs(own['ndcg@10'] - other['ndcg@10']):.0e} apart, scores "
            f"{_scores_apart(ours, theirs):.0e}",
            "1e-9, scores 1e-5",
        )
    yield Row(
        f"{', '.join(NAMES)} of the {len(apart)} sets, pytrec_eval",
        f"{max(apart.values()):.0e} apart at most",
        target="the same",
    )


def retrieve(data: Retrieval, k: int) -> Results:
    """Search as a user of bm25s does, with our words."""
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    model = bm25s.BM25(k1=bm25.K1, b=bm25.B, method="lucene", backend="numpy")
    passages = list(data.corpus)
    corpus = [bm25.words(text) for text in data.corpus.values()]
    model.index(corpus, show_progress=False)
    words = {query: bm25.words(text) for query, text in data.queries.items()}
    words = {query: found for query, found in words.items() if found}
    # Its type says more than what comes back without `return_as`.
    found: Any = model.retrieve(
        list(words.values()),
        k=min(k, len(passages)),
        show_progress=False,
        backend_selection="numpy",
    )
    results: Results = {query: {} for query in data.queries}
    for query, at, scores in zip(words, found.documents, found.scores, strict=True):
        pairs = zip(at.tolist(), scores.tolist(), strict=True)
        results[query] = {passages[i]: x for i, x in pairs if x > 0}
    return results


def trec_eval(results: Results, qrels: dict[str, dict[str, int]]) -> dict[str, float]:
    """Measure with pytrec_eval alone."""
    found = pytrec_eval.RelevanceEvaluator(qrels, set(NAMES.values())).evaluate(results)
    assert len(found) == len(qrels)
    rows = {
        name: np.array([row[theirs] for row in found.values()])
        for name, theirs in NAMES.items()
    }
    rows["mrr@10"] = np.where(rows["mrr@10"] >= 1 / 10, rows["mrr@10"], 0)
    return {name: float(row.mean()) for name, row in rows.items()}


def _scores_apart(ours: Results, theirs: Results) -> float:
    """The largest difference of two scores at one place."""
    apart = 0.0
    for query, row in ours.items():
        pairs = zip(row.values(), theirs[query].values(), strict=True)
        apart = max(apart, *(abs(own - other) for own, other in pairs), 0.0)
    return apart
