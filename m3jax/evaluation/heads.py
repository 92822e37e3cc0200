"""Searches with every head of a model, and with all of them together."""

import functools
import itertools
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
from m3jax.inference.ranking import MIXTURES, Fusion, Mixture, rank
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
    mixtures: Mapping[str, Mixture | Fusion] = MIXTURES,
    k: int = 100,
    rescored: int = 200,
    batch_tokens: int | None = None,
    block: int | None = None,
    progress: bool = False,
    warn: bool = False,
) -> dict[str, Results]:
    """Search a corpus with each head of a model, every text encoded once.

    dense and sparse are exact over the corpus. As in BGE-M3's evaluation, multivec
    orders anew the `rescored` best passages of dense, and hybrid those of dense and of
    sparse together, by s = sum_h w_h s_h / sum_h w_h over the heads that there are; see
    `inference.ranking` for other mixtures.

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
        mixtures: of the heads, by name; there are none of a single head.
        k: passages kept of each query, at most.
        rescored: passages of dense, and of sparse, that multivec and mixtures order.
        batch_tokens: tokens in a batch; see `inference.encode`.
        block: passages whose embeddings exist at once; None takes at most 16,384, and
            2 GiB of token vectors.
        progress: show a bar on a terminal.
        warn: say by warnings how many texts were cut.

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
        warn=warn,
    )
    queries = [name for name in data.queries if name in data.qrels]
    passages = list(data.corpus)
    query = to_vectors(
        [prompts.query + data.queries[name] for name in queries],
        max_length=query_length,
        progress=progress,
        description="queries",
    )
    if block is None:
        block = block_size(module.config, passage_length, names)

    def blocks() -> Iterator[Segment]:
        with bar("passages", len(passages), "texts", show=progress) as advance:
            left = iter(data.corpus.items())
            while rows := list(itertools.islice(left, block)):
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
        mixtures=mixtures,
        options={"mesh": None if mesh is None else local_mesh(mesh)},
    )
    return {name: named(one, queries, passages) for name, one in best.items()}


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


def named(best: Best, queries: Sequence[str], passages: Sequence[str]) -> Results:
    """Write ids for the numbers of what was found.

    Args:
        best: passages of each query, by number.
        queries: their ids.
        passages: ids of the corpus.

    Returns:
        Query id -> passage id -> score, in the order of `best`.

    Example:
        >>> import numpy as np
        >>> best = Best(np.array([[2.0, -np.inf]]), np.array([[1, -1]]))
        >>> named(best, ["q"], ["a", "b"])
        {'q': {'b': 2.0}}
    """
    found: list[list[int]] = best.at.tolist()
    rows = zip(queries, found, best.scores.tolist(), strict=True)
    return {
        query: {passages[i]: x for i, x in zip(at, row, strict=True) if i >= 0}
        for query, at, row in rows
    }


def block_size(config: EmbeddingConfig, length: int, outputs: Sequence[str]) -> int:
    """Say how many passages may be encoded at once.

    Args:
        config: of the model.
        length: tokens of a passage, at most.
        outputs: heads that are kept.

    Returns:
        At most 16,384, and as many as have 2 GiB of token vectors; at least 64.

    Example:
        >>> block_size(EmbeddingConfig(multivec=1024), 8_192, ("dense", "multivec"))
        64
    """
    if "multivec" not in outputs or config.multivec is None:
        return _BLOCK
    return min(max(_NUMBERS // (length * config.multivec), _FEWEST), _BLOCK)


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
