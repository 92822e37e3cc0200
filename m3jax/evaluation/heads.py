"""Searches with every head of a model, and with all of them together."""

import functools
from collections.abc import Iterator, Mapping, Sequence

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import local_mesh
from m3jax.core.progress import bar
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.evaluation.retrieval import Results, measure
from m3jax.inference.best import Best
from m3jax.inference.encode import encode
from m3jax.inference.ranking import rank
from m3jax.inference.segment import Segment
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, check_outputs

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
    mixtures: Mapping[str, Sequence[float]] = {},
    rrf: bool = False,
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
        mixtures: weights of further mixtures, by name.
        rrf: whether to add reciprocal-rank fusion; see `inference.ranking`.
        k: passages kept of each query, at most.
        rescored: passages of dense, and of sparse, that multivec and hybrid order.
        batch_tokens: tokens in a batch; see `inference.encode`.
        block: passages whose embeddings exist at once; None takes at most 16,384, and
            2 GiB of token vectors.
        progress: show a bar on a terminal.

    Returns:
        "dense", "sparse" and "multivec", as far as they are among the outputs, and
        "hybrid" and the other mixtures where dense and another one are: query id ->
        passage id -> score, the best first and of equal scores the earlier passage.
        sparse leaves out passages that share no token with the query.

    Raises:
        InputError: a length, an output, the weights, k or rescored do not fit.

    Source: Chen et al. 2024 (BGE-M3), section 4.1 (arXiv:2402.03216).
    """
    names = _names(module.config, outputs)
    if block is not None and block < 1:
        raise InputError("a positive number", f"{block}", where="block")
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
    block = _block(module.config, passage_length, names) if block is None else block

    def blocks() -> Iterator[Segment]:
        with bar("passages", len(passages), "texts", show=progress) as advance:
            for start in range(0, len(passages), block):
                rows = [(name, data.corpus[name]) for name in passages[start:][:block]]
                passage = to_vectors(
                    [prompts.passage + text for _, text in rows],
                    max_length=passage_length,
                    progress=advance,
                )
                yield Segment.of(rows, passage)

    best = rank(
        query,
        blocks(),
        names,
        len(passages),
        k=k,
        rescored=rescored,
        mixtures={"hybrid": weights, **mixtures},
        rrf=rrf,
        options={"mesh": None if mesh is None else local_mesh(mesh)},
    )
    return {name: _named(one, queries, passages) for name, one in best.items()}


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


def _block(config: EmbeddingConfig, passage_length: int, names: tuple[str, ...]) -> int:
    if "multivec" not in names or config.multivec is None:
        return _BLOCK
    fitting = _NUMBERS // (passage_length * config.multivec)
    return min(max(fitting, _FEWEST), _BLOCK)


def _named(one: Best, queries: list[str], passages: list[str]) -> Results:
    """Ids for numbers."""
    rows = zip(one.at.tolist(), one.scores.tolist(), strict=True)
    return {
        query: {passages[i]: x for i, x in zip(at, row, strict=True) if i >= 0}
        for query, (at, row) in zip(queries, rows, strict=True)
    }
