"""What one test set of a benchmark is, and how its numbers are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from m3jax.data.records import Retrieval
from m3jax.evaluation.retrieval import Results

Weights = tuple[float, float, float]


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
        weights: of dense, sparse and multivec, in "dense+sparse" and in "all".
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        candidates: "dense+sparse" orders the best of dense and of sparse, so many each.
        rescored: multivec and "all" order so many of the best of dense.
        identical: what becomes of a found passage that has the id of the query; see
            `without_identical`.
        answers: query id -> strings of which one must be in a passage; then data has no
            judgements, only an empty row for each query. See `answers.answer_recall`.
    """

    name: str
    language: str
    data: Retrieval
    metrics: tuple[str, ...]
    weights: Mapping[str, Weights]
    query_length: int
    passage_length: int
    candidates: int = 1_000
    rescored: int = 200
    identical: Literal["kept", "left out"] = "kept"
    answers: Mapping[str, tuple[str, ...]] | None = None


# Chen et al. 2024 (BGE-M3, arXiv:2402.03216v4), for MIRACL and MKQA.
GENERAL: Mapping[str, Weights] = {
    "dense+sparse": (1.0, 0.3, 0.0),
    "all": (1.0, 0.3, 1.0),
}
# And for MLDR.
LONG: Mapping[str, Weights] = {
    "dense+sparse": (0.2, 0.8, 0.0),
    "all": (0.15, 0.5, 0.35),
}


def without_identical(results: Results) -> Results:
    """Leave out a found passage that has the id of its query.

    In ArguAna and Quora the queries are passages of the corpus, and a query would find
    itself; BEIR leaves such passages out in all its sets. In MIRACL ids are alike by
    chance, and leaving out costs up to two points of nDCG. Search for one passage more.

    Args:
        results: query id -> passage id -> score.

    Returns:
        The same without them.

    Source: `ignore_identical_ids` of beir-cellar/beir; FlagOpen/FlagEmbedding#929.

    Example:
        >>> without_identical({"a": {"a": 1.0, "b": 0.5}})
        {'a': {'b': 0.5}}
    """
    return {
        query: {passage: score for passage, score in row.items() if passage != query}
        for query, row in results.items()
    }
