"""Scores of passages that somebody else chose, with every head of a model."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation.heads import block_size
from m3jax.evaluation.retrieval import Results
from m3jax.inference import scores
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import encode
from m3jax.inference.ranking import WEIGHTS, shares_of
from m3jax.nn.embedding import check_outputs

_SCORE = {"dense": scores.dense, "sparse": scores.sparse, "multivec": scores.multivec}


def rank(
    embedder: Embedder,
    data: Retrieval,
    given: Mapping[str, Sequence[str]],
    *,
    prompts: Prompts,
    outputs: Sequence[str] | None = None,
    weights: Sequence[float] = WEIGHTS,
    k: int = 1_000,
    batch_tokens: int | None = None,
    block: int | None = None,
    progress: bool = False,
) -> dict[str, Results]:
    """Order the given passages of each query by each head, every text encoded once.

    hybrid is s = sum_h w_h s_h / sum_h w_h over the heads that there are. Passages that
    are given to no query are not encoded.

    Args:
        embedder: the model.
        data: queries and corpus; judgements are not looked at.
        given: query id -> ids of its passages; a query that is not there has none.
        prompts: before queries and passages.
        outputs: heads to score with; None = all that the model has.
        weights: of dense, sparse and multivec in hybrid.
        k: passages kept of each query, at most.
        batch_tokens: tokens in a batch; see `inference.encode`.
        block: passages whose embeddings exist at once; None: see `heads.block_size`.
        progress: show a bar on a terminal.

    Returns:
        "dense", "sparse" and "multivec", as far as they are among the outputs, and
        "hybrid" where two of them are: query id -> passage id -> score, the best first
        and of equal scores the passage that was given first. A passage that shares no
        token with the query has the sparse score 0.

    Raises:
        InputError: a passage that is given is not in the corpus, or an output or the
            weights do not fit.
    """
    config = embedder.module.config
    names = config.outputs if outputs is None else tuple(outputs)
    check_outputs(config, names)
    for name, number in (("k", k), ("block", block)):
        if number is not None and number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    share = shares_of("hybrid", weights, names)
    pairs = [
        (query, passage)
        for query in data.queries
        for passage in dict.fromkeys(given.get(query, ()))
    ]
    _require_known({passage for _, passage in pairs}, data)
    found = _scores(
        embedder, data, pairs, prompts, names, batch_tokens, block, progress
    )
    if len(names) > 1:
        found["hybrid"] = sum(
            (np.float32(share[name]) * found[name] for name in names),
            start=np.zeros(len(pairs), np.float32),
        )
    return {
        name: _ranking(data.queries, pairs, row.tolist(), k)
        for name, row in found.items()
    }


def _scores(
    embedder: Embedder,
    data: Retrieval,
    pairs: list[tuple[str, str]],
    prompts: Prompts,
    names: tuple[str, ...],
    batch_tokens: int | None,
    block: int | None,
    progress: bool,
) -> dict[str, np.ndarray]:
    """Head -> score of each pair; the passages go by in blocks."""
    chosen = {passage for _, passage in pairs}
    passages = [name for name in data.corpus if name in chosen]
    queries = list(dict(pairs))
    numbers = {name: i for i, name in enumerate(queries)}
    row = np.array([numbers[query] for query, _ in pairs], np.int64)  # rising
    numbers = {name: i for i, name in enumerate(passages)}
    at = np.array([numbers[passage] for _, passage in pairs], np.int64)
    to_vectors = functools.partial(
        encode,
        embedder.module,
        embedder.params,
        embedder.tokenizer,
        max_length=embedder.max_length,
        outputs=names,
        batch_tokens=batch_tokens,
        mesh=embedder.mesh,
    )
    query = to_vectors([prompts.query + data.queries[name] for name in queries])
    found = {name: np.empty(len(pairs), np.float32) for name in names}
    config, length = embedder.module.config, embedder.max_length
    step = block_size(config, length, names) if block is None else block
    with bar("passages", len(passages), "texts", show=progress) as advance:
        for start in range(0, len(passages), step):
            passage = to_vectors(
                [
                    prompts.passage + data.corpus[name]
                    for name in passages[start : start + step]
                ],
                progress=advance,
            )
            here = np.flatnonzero((at >= start) & (at < start + step))
            edges = np.flatnonzero(np.diff(row[here])) + 1
            for some in np.split(here, edges):  # the pairs of one query
                one = query[row[some[:1]]], passage[at[some] - start]
                for name in names:
                    found[name][some] = _SCORE[name](*one)[0]
    return found


def _ranking(
    queries: Mapping[str, str],
    pairs: list[tuple[str, str]],
    values: list[float],
    k: int,
) -> Results:
    rows: Results = {query: {} for query in queries}
    for (query, passage), value in zip(pairs, values, strict=True):
        rows[query][passage] = value
    return {
        query: dict(sorted(row.items(), key=lambda item: -item[1])[:k])
        for query, row in rows.items()
    }


def _require_known(passages: set[str], data: Retrieval) -> None:
    unknown = sorted(passages - set(data.corpus))
    if unknown:
        raise InputError(
            "candidates that are in the corpus",
            f"{len(unknown):,} that are not, e.g. {unknown[0]!r}",
            where="given",
        )
