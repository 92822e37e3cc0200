"""Searches with every head of a model, and with all of them together."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.evaluation.best import Best, best_places
from m3jax.evaluation.pool import Pool
from m3jax.evaluation.retrieval import Results, measure
from m3jax.inference import scores
from m3jax.inference.encode import encode
from m3jax.inference.encoded import Encoded
from m3jax.inference.index import top_k
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, check_outputs

_ROWS = 1_024  # queries whose sparse scores exist at once
_BLOCK = 16_384  # passages whose embeddings exist at once, at most and
_FEWEST = 64  # at least, and in between as many as have
_NUMBERS = 2**29  # so many numbers in their token vectors: 2 GiB


def search(
    module: EmbeddingModule,
    params: Params,
    tokenizer: Tokenizer,
    data: Retrieval,
    prompts: Prompts,
    *,
    query_length: int,
    passage_length: int,
    mesh: Mesh | None = None,
    outputs: Sequence[str] | None = None,
    weights: Sequence[float] = (1.0, 0.3, 1.0),
    k: int = 100,
    rescored: int = 200,
    batch_tokens: int | None = None,
    block: int | None = None,
    progress: bool = False,
) -> dict[str, Results]:
    """Search a corpus with each head of a model, every text encoded once.

    dense and sparse are exact over the corpus. As in BGE-M3's evaluation, multivec
    orders anew the `rescored` best passages of dense, and hybrid those of dense and of
    sparse together, by s = sum_h w_h s_h / sum_h w_h over the heads that there are.

    The corpus goes by in blocks: of each only the passages that are among the best so
    far are scored by all heads, and then its embeddings are let go. So token vectors
    of a whole corpus never exist, and the result is that of one block.

    Args:
        module: the model.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        data: queries and corpus; queries without judgements are passed over.
        prompts: before queries and passages.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        mesh: devices that share the rows.
        outputs: heads to search with; None = all that the model has.
        weights: of dense, sparse and multivec in hybrid.
        k: passages kept of each query, at most.
        rescored: passages of dense, and of sparse, that multivec and hybrid order.
        batch_tokens: tokens in a batch; see `inference.encode`.
        block: passages whose embeddings exist at once; None takes at most 16,384, and
            2 GiB of token vectors.
        progress: show a bar on a terminal.

    Returns:
        "dense", "sparse" and "multivec", as far as they are among the outputs, and
        "hybrid" where dense and another one are: query id -> passage id -> score, the
        best first and of equal scores the earlier passage. sparse leaves out passages
        that share no token with the query.

    Raises:
        InputError: a length, an output, the weights, k or rescored do not fit.

    Source: Chen et al. 2024 (BGE-M3), section 4.1 (arXiv:2402.03216).
    """
    names = _names(module.config, outputs)
    for name, number in (("k", k), ("rescored", rescored), ("block", block)):
        if number is not None and number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    share = _shares(weights, names)
    several = len(names) > 1
    to_vectors = functools.partial(
        encode,
        module,
        params,
        tokenizer,
        outputs=names,
        batch_tokens=batch_tokens,
        mesh=mesh,
    )
    queries = [name for name in data.queries if name in data.qrels]
    passages = list(data.corpus)
    query = to_vectors(
        [prompts.query + data.queries[name] for name in queries],
        max_length=query_length,
        progress=progress,
        description="queries",
    )
    kept = max(k, rescored) if several else k
    searches = {name: find for name, find in _SEARCH.items() if name in names}
    best = {name: Best.none(len(queries), kept) for name in searches}
    pool = Pool.none(names, len(passages))
    block = _block(module.config, passage_length, names) if block is None else block
    with bar("passages", len(passages), "texts", show=progress) as advance:
        for start in range(0, len(passages), block):
            passage = to_vectors(
                [
                    prompts.passage + data.corpus[name]
                    for name in passages[start : start + block]
                ],
                max_length=passage_length,
                progress=advance,
            )
            for name, find in searches.items():
                best[name] = best[name].merge(*find(query, passage, kept, start))
            if several:
                wanted = [one.keys(rescored, len(passages)) for one in best.values()]
                pool = pool.replace(np.concatenate(wanted), query, passage, start)
    if "multivec" in names:
        of_dense = best["dense"].keys(rescored, len(passages))
        best["multivec"] = pool.best({"multivec": 1.0}, len(queries), k, only=of_dense)
    if several:
        best["hybrid"] = pool.best(share, len(queries), k)
    return {name: _named(one, k, queries, passages) for name, one in best.items()}


def score(
    rankings: Mapping[str, Results], qrels: Mapping[str, Mapping[str, int]]
) -> dict[str, float]:
    """Measure every ranking of a search.

    Args:
        rankings: head -> query id -> passage id -> score, as `search` returns it.
        qrels: query id -> passage id -> grade.

    Returns:
        ndcg@10, mrr@10 and recall@100 of dense, then sparse/ndcg@10 and so on.

    Raises:
        InputError: no query is judged.

    Example:
        >>> found = {"q": {"a": 2.0, "b": 1.0}}
        >>> values = score({"dense": found, "sparse": found}, {"q": {"b": 1}})
        >>> values["mrr@10"], values["sparse/mrr@10"]
        (0.5, 0.5)
    """
    return {
        key if name == "dense" else f"{name}/{key}": value
        for name, results in rankings.items()
        for key, value in measure(results, qrels).items()
    }


def _names(config: EmbeddingConfig, outputs: Sequence[str] | None) -> tuple[str, ...]:
    if outputs is None:
        return config.outputs
    outputs = (outputs,) if isinstance(outputs, str) else outputs
    check_outputs(config, outputs)
    names = tuple(name for name in config.outputs if name in outputs)
    if (len(names) > 1 and "dense" not in names) or names == ("multivec",):
        raise InputError(
            "dense among the outputs, because its best passages are scored anew",
            ", ".join(names),
            where="outputs",
        )
    return names


def _shares(weights: Sequence[float], names: tuple[str, ...]) -> dict[str, float]:
    share = scores.shares(weights, where="search")
    there = {name: share[name] for name in names}
    total = sum(there.values())
    if len(names) > 1 and total == 0:
        expected = f"a weight above 0 for {' or '.join(names)}"
        raise InputError(expected, f"{weights}", where="search: weights")
    return {name: one / total for name, one in there.items()} if total else there


def _block(config: EmbeddingConfig, passage_length: int, names: tuple[str, ...]) -> int:
    if "multivec" not in names or config.multivec is None:
        return _BLOCK
    fitting = _NUMBERS // (passage_length * config.multivec)
    return min(max(fitting, _FEWEST), _BLOCK)


def _search_dense(
    query: Encoded, passage: Encoded, k: int, start: int
) -> tuple[np.ndarray, np.ndarray]:
    assert query.dense is not None and passage.dense is not None
    found, at = top_k(query.dense, passage.dense, k)
    return found, at + start


def _search_sparse(
    query: Encoded, passage: Encoded, k: int, start: int
) -> tuple[np.ndarray, np.ndarray]:
    best = Best.none(len(query), min(k, len(passage)))
    for first in range(0, len(query), _ROWS):
        rows = scores.sparse(query[first : first + _ROWS], passage)
        for number, row in enumerate(rows, first):
            places = best_places(row, k)
            best.scores[number, : len(places)] = row[places]
            best.at[number, : len(places)] = places + start
    return best.scores, best.at


_SEARCH = {"dense": _search_dense, "sparse": _search_sparse}


def _named(one: Best, k: int, queries: list[str], passages: list[str]) -> Results:
    """Ids for numbers."""
    rows = zip(one.at[:, :k].tolist(), one.scores[:, :k].tolist(), strict=True)
    return {
        query: {passages[i]: x for i, x in zip(at, row, strict=True) if i >= 0}
        for query, (at, row) in zip(queries, rows, strict=True)
    }
