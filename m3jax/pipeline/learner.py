"""What differs between training an embedding model and training a reranker."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from m3jax.core.types import Params
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.evaluation import retrieval
from m3jax.hub import folder as folders
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.reranker import RerankerModule
from m3jax.pipeline import report
from m3jax.pipeline.stage import Train

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Learner:
    """A model in training, seen from outside.

    Attributes:
        module: the Linen module.
        selects: name of the score that selects the best checkpoint.
        score: (params, set) -> scores.
        save: (params, folder, card): writes the model.
        histogram: (params, set) -> scores of right and of other pairs.
    """

    module: EmbeddingModule | RerankerModule
    selects: str
    score: Callable[[Params, Retrieval], dict[str, float]]
    save: Callable[[Params, Path, str], None]
    histogram: Callable[[Params, Retrieval], tuple[np.ndarray, np.ndarray]]


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
    assert isinstance(config, EmbeddingConfig)
    return _embedding(stage, config, tokenizer, mesh)


def _embedding(
    stage: Train, config: EmbeddingConfig, tokenizer: Tokenizer, mesh: Mesh
) -> Learner:
    module, data = EmbeddingModule(config), stage.data
    search = functools.partial(
        retrieval.dense,
        module,
        tokenizer=tokenizer,
        prompts=data.prompts,
        query_length=data.query_length,
        passage_length=data.passage_length,
        mesh=mesh,
    )

    def score(params: Params, one: Retrieval) -> dict[str, float]:
        return retrieval.measure(search(params, data=one), one.qrels)

    def model(params: Params) -> folders.Model:
        longest = max(data.query_length, data.passage_length)
        return folders.Model(config, params, tokenizer, longest, data.prompts)

    return Learner(
        module,
        "ndcg@10",
        score,
        save=lambda params, to, card: folders.save(model(params), to, card=card),
        histogram=lambda params, one: report.sample_scores(model(params), one, mesh),
    )
