"""From the config of a stage to its objective."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards
from m3jax.core.types import Batch, Reads
from m3jax.data.words import Words
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.reranker import RerankerModule
from m3jax.training.abstract import abstract_batch, lengths_read
from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.contrastive import ContrastiveConfig, contrastive
from m3jax.training.objectives.masked_lm import (
    MaskedLMConfig,
    masked_lm,
    with_masked_lm,
)
from m3jax.training.objectives.momentum import MomentumConfig, momentum
from m3jax.training.objectives.reranking import RerankingConfig, reranking
from m3jax.training.objectives.retromae import RetroMAEConfig, retromae
from m3jax.training.objectives.texts import WHOLE, SubBatches
from m3jax.training.objectives.unified import UnifiedConfig, unified
from m3jax.training.state import Start

ObjectiveConfig = (
    ContrastiveConfig
    | UnifiedConfig
    | MomentumConfig
    | RerankingConfig
    | RetroMAEConfig
    | MaskedLMConfig
)


def make_objective(
    config: ObjectiveConfig,
    module: EmbeddingModule | RerankerModule,
    mesh: Mesh,
    sub_batches: SubBatches = WHOLE,
    *,
    words: Words | None = None,
) -> Objective:
    """Make the objective that a config asks for.

    Args:
        config: which, and its numbers.
        module: the model that is trained.
        mesh: the devices.
        sub_batches: parts in which a batch is encoded.
        words: of the tokenizer, where `masks_words` says that words are masked.

    Returns:
        The objective.

    Raises:
        InputError: the model is of the other kind, or lacks a head; words are to be
            masked and none are given, or what the objective itself refuses.

    Example:
        >>> from m3jax.core.mesh import MeshConfig, make_mesh
        >>> from m3jax.testing import tiny_config
        >>> module, mesh = EmbeddingModule(tiny_config()), make_mesh(MeshConfig())
        >>> make_objective(RerankingConfig(), module, mesh)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: objective: expected a reranker to train with \
RerankingConfig, found an embedding model. In the config, model=RerankerConfig(), or \
another objective.
    """
    kinds = {EmbeddingModule: "an embedding model", RerankerModule: "a reranker"}
    wanted = RerankerModule if isinstance(config, RerankingConfig) else EmbeddingModule
    if not isinstance(module, wanted):
        raise InputError(
            f"{kinds[wanted]} to train with {type(config).__name__}",
            kinds[type(module)],
            where="objective",
            do=f"In the config, model={wanted.__name__[:-6]}Config(), or another "
            "objective.",
        )
    if isinstance(module, RerankerModule):
        assert isinstance(config, RerankingConfig)
        return reranking(module, mesh, config, sub_batches)
    assert not isinstance(config, RerankingConfig)
    heads, present = trained_heads(config), module.config.outputs
    lacking = [name for name in heads if name not in present]
    if lacking:
        raise InputError(
            f"a model with the heads {', '.join(heads)}",
            f"none for {', '.join(lacking)}",
            where="objective.heads",
            do="--model.sparse and --model.multivec 1024 add them.",
        )
    if isinstance(config, UnifiedConfig):
        return unified(module, mesh, config, sub_batches)
    if isinstance(config, MomentumConfig):
        return momentum(module, mesh, config, sub_batches)
    if not masks_words(config):
        assert isinstance(config, ContrastiveConfig)
        return contrastive(module, mesh, config, sub_batches)
    if words is None:
        expected = f"the words of a tokenizer, which {type(config).__name__} masks"
        raise InputError(expected, "none", where="objective")
    if isinstance(config, RetroMAEConfig):
        return retromae(module, mesh, config, words, sub_batches)
    if isinstance(config, MaskedLMConfig):
        return masked_lm(module, mesh, config, words, sub_batches)
    return with_masked_lm(
        contrastive(module, mesh, config, sub_batches),
        module,
        mesh,
        words,
        sub_batches,
        weight=config.mlm_weight,
        ratio=config.mlm_ratio,
    )


def reads_of(config: ObjectiveConfig) -> Reads:
    """What of a row an objective is given, as its `Objective.reads` says.

    Example:
        >>> reads_of(RetroMAEConfig())
        'passages'
    """
    if isinstance(config, RerankingConfig):
        return "together"
    return (
        "passages" if isinstance(config, RetroMAEConfig | MaskedLMConfig) else "apart"
    )


def masks_words(config: ObjectiveConfig) -> bool:
    """Whether an objective masks words, and has to be told where they begin.

    Example:
        >>> masks_words(ContrastiveConfig()), masks_words(RetroMAEConfig())
        (False, True)
    """
    if isinstance(config, ContrastiveConfig):
        return config.mlm_weight != 0
    return isinstance(config, RetroMAEConfig | MaskedLMConfig)


def check_objective(
    objective: Objective, start: Start, mesh: Mesh, sub_batches: SubBatches = WHOLE
) -> None:
    """Trace the loss on a small batch, so that what does not fit shows at once.

    Args:
        objective: the objective.
        start: makes the parameters.
        mesh: the devices.
        sub_batches: parts that the batch has to have.

    Raises:
        InputError: what the loss refuses, told to be of the objective.
    """
    rows = batch_shards(mesh) * sub_batches.count
    batch = abstract_batch(mesh, rows, 2, **lengths_read(objective.reads, 4, 4))

    def run(batch: Batch) -> Terms:
        rng = jax.random.key(0)
        params = start(rng, None)
        step = jnp.zeros((), jnp.int32)
        return objective.loss(params, objective.init(params, rng), batch, step, rng)

    try:
        jax.eval_shape(run, batch)
    except InputError as error:
        where = f"objective.{error.where}"
        raise InputError(
            error.expected, error.found, where=where, do=error.do
        ) from None


def trained_heads(config: ObjectiveConfig) -> tuple[str, ...]:
    """Heads of an embedding model that an objective trains.

    Example:
        >>> trained_heads(ContrastiveConfig())
        ('dense',)
    """
    return config.heads if isinstance(config, UnifiedConfig) else ("dense",)
