"""How good parameters are that are in memory, on the sets of a sweep."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.builtin import Part
from m3jax.data.config import DataConfig
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.training_sets import evaluation_set
from m3jax.evaluation import heads, reranking, similarity
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.reranker import RerankerModule
from m3jax.pipeline.merges.parents import Parent

Measured = Retrieval | Similarity
# What decides, the first one that there is.
_MAIN = ("hybrid/ndcg@10", "ndcg@10", "spearman")


def open_sets(names: Sequence[str], part: Part) -> dict[str, Measured]:
    """Open sets to measure on.

    Args:
        names: folders in BEIR's layout, graded pairs, or "builtin".
        part: dev or test.

    Returns:
        Title -> set.

    Raises:
        InputError: there is no such set, or two have one title.

    Example:
        >>> list(open_sets(["builtin"], "dev"))
        ['builtin']
    """
    found: dict[str, Measured] = {}
    for name in names:
        title = Path(name).name.split(".")[0] or name
        if title in found:
            raise InputError("sets of different names", f"{title} twice", where=part)
        try:
            found[title] = evaluation_set(name, part, DataConfig())
        except InputError as error:
            where = error.where.removeprefix(f"data.{part}: ")
            told = InputError(error.expected, error.found, where=where, do=error.do)
            raise told from None
    return found


def scorer(
    parent: Parent,
    sets: Mapping[str, Measured],
    *,
    max_length: int,
    batch_tokens: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Params], dict[str, float]]:
    """Make the function that measures parameters of a model on all sets.

    Args:
        parent: a model of the same shape, with tokenizer and prompts.
        sets: title -> set.
        max_length: tokens kept of each text, at most as many as the model reads.
        batch_tokens: tokens in a batch.
        mesh: devices that share the rows.

    Returns:
        Parameters -> title -> what decides: nDCG@10, of all heads together where there
        are several; or Spearman of graded pairs.

    Raises:
        InputError: graded pairs, which a reranker does not order.
    """
    model = parent.model
    length = min(max_length, model.max_length)
    if parent.kind == "reranker":
        for title, one in sets.items():
            if isinstance(one, Similarity):
                expected = "queries and passages to put into order"
                raise InputError(expected, "graded pairs", where=title)
        candidates = functools.cache(lambda title: reranking.candidates(sets[title]))  # type: ignore[arg-type]
        module = RerankerModule(model.config)

        def order(params: Params) -> dict[str, float]:
            found = {}
            for title, one in sets.items():
                assert isinstance(one, Retrieval)
                ranked = reranking.rerank(
                    module,
                    params,
                    model.tokenizer,
                    one,
                    candidates(title),
                    max_length=length,
                    batch_tokens=batch_tokens,
                    mesh=mesh,
                )
                found[title] = reranking.score(ranked, one.qrels)["ndcg@10"]
            return found

        return order

    def embed(params: Params) -> dict[str, float]:
        module = EmbeddingModule(model.config)
        found = {}
        for title, one in sets.items():
            if isinstance(one, Similarity):
                scores = similarity.score(
                    module,
                    params,
                    model.tokenizer,
                    one,
                    model.prompts,
                    max_length=length,
                    batch_tokens=batch_tokens,
                    mesh=mesh,
                )
            else:
                ranked = heads.search(
                    module,
                    params,
                    model.tokenizer,
                    one,
                    model.prompts,
                    query_length=length,
                    passage_length=length,
                    batch_tokens=batch_tokens,
                    mesh=mesh,
                )
                scores = heads.score(ranked, one.qrels)
            found[title] = next(scores[name] for name in _MAIN if name in scores)
        return found

    return embed
