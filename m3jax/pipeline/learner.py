"""What differs between training an embedding model and training a reranker."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from m3jax.core.types import Params
from m3jax.data.pairs import Pairing
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.tokenize import Tokenizer
from m3jax.evaluation import bm25, heads, retrieval, similarity
from m3jax.evaluation import reranking as rerankings
from m3jax.hub import folder as folders
from m3jax.hub import reranker as rerankers
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.reranker import RerankerConfig, RerankerModule
from m3jax.pipeline import report
from m3jax.pipeline.stage import Train
from m3jax.training.objectives.make import ObjectiveConfig, trained_heads

# What a model is measured on.
Measured = Retrieval | Similarity


@dataclass(frozen=True)
class Learner:
    """A model in training, seen from outside.

    Attributes:
        module: the Linen module.
        score: (params, set) -> scores.
        save: (params, folder, card): writes the model.
        histogram: (params, set) -> scores of right and of other pairs; None where there
            is no such picture.
        pairing: how it reads query and passage together; None = it does not.
    """

    module: EmbeddingModule | RerankerModule
    score: Callable[[Params, Measured], dict[str, float]]
    save: Callable[[Params, Path, str], None]
    histogram: Callable[[Params, Measured], tuple[np.ndarray, np.ndarray] | None]
    pairing: Pairing | None = None


def selects(one: Measured, objective: ObjectiveConfig) -> str:
    """Name of the score that selects the best checkpoint.

    Of retrieval the nDCG@10 of the head that is trained, or of all where several are.

    Example:
        >>> from m3jax.training.objectives import ContrastiveConfig, UnifiedConfig
        >>> selects(Similarity(("a", "b"), ("c", "d"), (0.0, 1.0)), ContrastiveConfig())
        'spearman'
        >>> selects(Retrieval({}, {}, {}), UnifiedConfig())
        'hybrid/ndcg@10'
    """
    if isinstance(one, Similarity):
        return "spearman"
    heads = trained_heads(objective)
    name = heads[0] if len(heads) == 1 else "hybrid"
    return "ndcg@10" if name == "dense" else f"{name}/ndcg@10"


def make_learner(stage: Train, tokenizer: Tokenizer, mesh: Mesh) -> Learner:
    """Make what a stage needs around its model.

    Args:
        stage: the config, in the shape of its model.
        tokenizer: of the model.
        mesh: the devices.

    Returns:
        The learner.
    """
    config = stage.model
    if isinstance(config, RerankerConfig):
        return _reranker(stage, config, tokenizer, mesh)
    return _embedding(stage, config, tokenizer, mesh)


def _embedding(
    stage: Train, config: EmbeddingConfig, tokenizer: Tokenizer, mesh: Mesh
) -> Learner:
    module, data = EmbeddingModule(config), stage.data
    longest = max(data.query_length, data.passage_length)
    search = functools.partial(
        heads.search,
        module,
        tokenizer=tokenizer,
        prompts=data.prompts,
        query_length=data.query_length,
        passage_length=data.passage_length,
        mesh=mesh,
    )

    def score(params: Params, one: Measured) -> dict[str, float]:
        if isinstance(one, Retrieval):
            return heads.score(search(params, data=one), one.qrels)
        return similarity.score(
            module,
            params,
            tokenizer,
            one,
            data.prompts,
            max_length=longest,
            mesh=mesh,
        )

    def model(params: Params) -> folders.Model:
        return folders.Model(config, params, tokenizer, longest, data.prompts)

    def histogram(
        params: Params, one: Measured
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if isinstance(one, Retrieval):
            return report.sample_scores(model(params), one, mesh)
        return None

    return Learner(
        module,
        score,
        save=lambda params, to, card: folders.save(model(params), to, card=card),
        histogram=histogram,
    )


def _reranker(
    stage: Train, config: RerankerConfig, tokenizer: Tokenizer, mesh: Mesh
) -> Learner:
    module, data = RerankerModule(config), stage.data
    task = _task(stage, config)
    found: dict[int, retrieval.Results] = {}

    def score(params: Params, one: Measured) -> dict[str, float]:
        assert isinstance(one, Retrieval)  # `fit.check_data` refuses others
        if id(one) not in found:  # BM25 says the same at every evaluation
            found[id(one)] = rerankings.candidates(one)
        ranked = rerankings.rerank(
            module,
            params,
            tokenizer,
            one,
            found[id(one)],
            max_length=data.pair_length,
            task=task,
            mesh=mesh,
        )
        return rerankings.score(ranked, one.qrels)

    def save(params: Params, to: Path, card: str) -> None:
        model = rerankers.Model(config, params, tokenizer, data.pair_length)
        rerankers.save(model, to, card=card)

    return Learner(
        module,
        score,
        save,
        histogram=lambda params, one: None,
        pairing=pairing_of(stage, tokenizer),
    )


def _task(stage: Train, config: RerankerConfig) -> str | None:
    # What stands before a query is what it is asked for.
    return stage.data.prompts.query if config.head == "yes_no" else None


def pairing_of(stage: Train, tokenizer: Tokenizer) -> Pairing | None:
    """How the model of a stage reads query and passage together; None = it does not.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> pairing_of(Train(), tiny_tokenizer())
    """
    config = stage.model
    if not isinstance(config, RerankerConfig):
        return None
    format = rerankers.pair_format(config, _task(stage, config))
    return Pairing(tokenizer, format, stage.data.pair_length)


def baseline(one: Measured) -> dict[str, dict[str, float]]:
    """What BM25 does on the same set, where it can.

    Args:
        one: a set.

    Returns:
        Name -> scores.
    """
    if isinstance(one, Retrieval):
        return {"BM25": retrieval.measure(bm25.search(one), one.qrels)}
    return {}


def size(one: Measured) -> str:
    """How large a set is, in words.

    Example:
        >>> size(Similarity(("a", "b"), ("c", "d"), (0.0, 1.0)))
        '2 graded pairs'
    """
    if isinstance(one, Retrieval):
        return f"{len(one.queries):,} queries, {len(one.corpus):,} passages"
    return f"{len(one.scores):,} graded pairs"
