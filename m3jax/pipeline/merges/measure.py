"""How good parameters in memory are, on the sets of a sweep."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
from jax.sharding import Mesh

from m3jax.core import tree
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
Measure = Callable[[Parent, Params], dict[str, float]]
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
    sets: Mapping[str, Measured],
    *,
    max_length: int,
    batch_tokens: int | None = None,
    mesh: Mesh | None = None,
) -> Measure:
    """Make the function that measures parameters of a model on all sets.

    Args:
        sets: title -> set.
        max_length: tokens kept of each text, at most as many as the model reads.
        batch_tokens: tokens in a batch.
        mesh: devices that share the rows.

    Returns:
        A model, which brings tokenizer, prompts and pooling, and parameters -> title ->
        what decides: nDCG@10, of all heads together where there are several; or
        Spearman of graded pairs. It raises InputError for a reranker and graded pairs.
    """
    candidates = functools.cache(lambda title: reranking.candidates(sets[title]))  # type: ignore[arg-type]

    def measure(parent: Parent, params: Params) -> dict[str, float]:
        model = parent.model
        alike = {"batch_tokens": batch_tokens, "mesh": mesh}
        length = min(max_length, model.max_length)
        found = {}
        for title, one in sets.items():
            if parent.kind == "reranker":
                if isinstance(one, Similarity):
                    expected = "queries and passages to put into order"
                    raise InputError(expected, "graded pairs", where=title)
                ranked = reranking.rerank(
                    RerankerModule(model.config),
                    params,
                    model.tokenizer,
                    one,
                    candidates(title),
                    max_length=length,
                    **alike,
                )
                scores = reranking.score(ranked, one.qrels)
            elif isinstance(one, Similarity):
                scores = similarity.score(
                    EmbeddingModule(model.config),
                    params,
                    model.tokenizer,
                    one,
                    model.prompts,
                    max_length=length,
                    **alike,
                )
            else:
                ranked = heads.search(
                    EmbeddingModule(model.config),
                    params,
                    model.tokenizer,
                    one,
                    model.prompts,
                    query_length=length,
                    passage_length=length,
                    **alike,
                )
                scores = heads.score(ranked, one.qrels)
            found[title] = next(scores[name] for name in _MAIN if name in scores)
        return found

    return measure


def require_finite(parent: Parent, params: Params) -> None:
    """Refuse a model that holds NaN or an infinity, before it is measured.

    Args:
        parent: the model.
        params: its parameters, in memory.

    Raises:
        InputError: names model and tensor.
    """
    for path, leaf in tree.paths(params).items():
        names = tree.published(path, leaf.shape)
        inner = tuple(range(tree.is_stacked(path), leaf.ndim))
        rows = jnp.isfinite(leaf).all(inner).reshape(-1)
        for name, finite in zip(names, rows.tolist(), strict=True):
            if not finite:
                raise InputError(
                    f"numbers in {name}",
                    "NaN or an infinity",
                    where=parent.name,
                    do="Take a checkpoint from before.",
                )
