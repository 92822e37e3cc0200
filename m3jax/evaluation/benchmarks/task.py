"""What one test set of a benchmark is, and how its numbers are made."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Literal

from m3jax.data.records import Retrieval
from m3jax.evaluation.retrieval import Results
from m3jax.inference.ranking import Fusion, Mixture
from m3jax.nn.zoo import ZOO


@dataclass(frozen=True)
class Task:
    """A test set, with what is reported of it and how BGE-M3's paper searched it.

    Attributes:
        name: as `open_benchmark` takes it, e.g. miracl/ar.
        language: of the queries, as the benchmark calls it.
        data: queries, corpus and judgements. A judged passage may be missing from the
            corpus; it then counts as not found.
        metrics: what is reported, the first is the one of tables: names of
            `retrieval.measure`, or answer_recall@100.
        mixtures: "dense+sparse", and "hybrid" of all heads.
        query_length: tokens kept of a query, at most.
        passage_length: tokens kept of a passage, at most.
        rescored: multivec orders so many of the best of dense.
        identical: what becomes of a found passage that has the id of the query; see
            `without_identical`.
        answers: query id -> strings of which one must be in a passage; then data has no
            judgements, only an empty row for each query. See `answers.answer_recall`.
    """

    name: str
    language: str
    data: Retrieval
    metrics: tuple[str, ...]
    mixtures: Mapping[str, Mixture | Fusion]
    query_length: int
    passage_length: int
    rescored: int = 200
    identical: Literal["kept", "left out"] = "kept"
    answers: Mapping[str, tuple[str, ...]] | None = None


def _mixtures(use: str) -> Mapping[str, Mixture | Fusion]:
    """As BGE-M3's scripts: of lists of 1,000, and of the best 200 of dense."""
    weights = ZOO["BAAI/bge-m3"].weights
    return {
        "dense+sparse": Fusion(weights[f"{use}, dense and sparse"], depth=1_000),
        "hybrid": Mixture(weights[use], of=("dense",), depth=200),
    }


GENERAL, LONG = _mixtures("passages"), _mixtures("documents")


def without_identical(
    results: Results,
    k: int,
    *,
    queries: Container[str] | None = None,
) -> Results:
    """Leave out a found passage that has the id of its query.

    In ArguAna and Quora the queries are passages of the corpus, and a query would find
    itself; BEIR leaves such passages out in all its sets. In MIRACL ids are alike by
    chance, and leaving out costs up to two points of nDCG.

    Args:
        results: query id -> passage id -> score, the best k + 1 first.
        k: passages kept of each query.
        queries: ids of those that it concerns; None = all.

    Returns:
        The best k without them.

    Source: `ignore_identical_ids` of beir-cellar/beir; FlagOpen/FlagEmbedding#929.

    Example:
        >>> without_identical({"a": {"a": 1.0, "b": 0.5, "c": 0.2}}, 1)
        {'a': {'b': 0.5}}
    """
    left: Results = {}
    for query, row in results.items():
        alone = queries is not None and query not in queries
        passages = [name for name in row if alone or name != query]
        left[query] = {name: row[name] for name in passages[:k]}
    return left
