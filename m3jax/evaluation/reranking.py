"""How well a reranker puts the passages that BM25 finds into order."""

from collections.abc import Mapping

from jax.sharding import Mesh

from m3jax.core.mesh import replicated
from m3jax.core.types import Params
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.evaluation import bm25
from m3jax.evaluation.retrieval import Results, measure
from m3jax.inference.encode import collect_cuts, on_devices
from m3jax.inference.reranker import Reranker
from m3jax.nn.reranker import RerankerModule

METRICS = ("ndcg@10", "mrr@10")


def candidates(data: Retrieval, k: int = 20) -> Results:
    """Find the passages that are put into order: BM25's best and nothing else.

    An answer that shares no word with its query is therefore missed by every reranker,
    and one measure of BM25 itself stands beside all of them.

    Args:
        data: queries and corpus; queries without judgements are passed over.
        k: passages of each query, at most.

    Returns:
        Query id -> passage id -> BM25's score, the best first.

    Raises:
        InputError: k is below 1.

    Example:
        >>> corpus = {"a": "a red fox", "b": "a grey wolf"}
        >>> list(candidates(Retrieval({"q": "Fox!"}, corpus, {"q": {"a": 1}}))["q"])
        ['a']
    """
    return bm25.search(data, k)


def rerank(
    module: RerankerModule,
    params: Params,
    tokenizer: Tokenizer,
    data: Retrieval,
    found: Results,
    *,
    max_length: int,
    task: str | None = None,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
    progress: bool = False,
) -> Results:
    """Order the candidates of each query by the logits of a reranker.

    Args:
        module: the reranker.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        data: the texts.
        found: the candidates of each query; see `candidates`.
        max_length: tokens kept of each pair.
        task: what the search is for; models with an instruction only.
        mesh: devices that share the pairs.
        batch_tokens: tokens in a batch; None takes what is fast.
        progress: show a bar on a terminal.

    Returns:
        Query id -> passage id -> logit, the best first and of equal ones the candidate
        that came first.

    Raises:
        InputError: the length or the task does not fit the model.
    """
    params = on_devices(params, None if mesh is None else replicated(mesh))
    model = Reranker(module, params, tokenizer, max_length, mesh)
    names = [(query, passage) for query, row in found.items() for passage in row]
    with collect_cuts():  # at every evaluation the same ones
        logits = model.logits(
            ((data.queries[query], data.corpus[passage]) for query, passage in names),
            task=task,
            batch_tokens=batch_tokens,
            progress=progress,
        )
    rows: Results = {query: {} for query in found}
    for (query, passage), logit in zip(names, logits.tolist(), strict=True):
        rows[query][passage] = logit
    return {
        query: dict(sorted(row.items(), key=lambda item: -item[1]))
        for query, row in rows.items()
    }


def score(results: Results, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Measure an order of the candidates, a reranker's or BM25's own.

    Args:
        results: of `rerank`, or of `candidates`.
        qrels: query id -> passage id -> grade.

    Returns:
        ndcg@10 and mrr@10; see `retrieval.measure`.

    Raises:
        InputError: no query is judged.

    Example:
        >>> score({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}})["mrr@10"]
        0.5
    """
    measured = measure(results, qrels)
    return {name: measured[name] for name in METRICS}
