"""What of a stage is trained: its module, and which of its parameters move."""

import dataclasses

from m3jax.nn import lora
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.lora import LoraConfig
from m3jax.nn.reranker import RerankerModule
from m3jax.pipeline.stage import Train
from m3jax.training.objectives.make import trained_heads
from m3jax.training.optimizer import OptimizerConfig, all_but

_WHOLE_HEADS = ("classifier", "mlp_head", "mlm", "decoder")


def module(stage: Train) -> EmbeddingModule | RerankerModule:
    """The Linen module of a stage.

    Example:
        >>> type(module(Train())).__name__
        'EmbeddingModule'
    """
    if isinstance(stage.model, EmbeddingConfig):
        return EmbeddingModule(stage.model)
    return RerankerModule(stage.model)


def pairs(stage: Train) -> LoraConfig | None:
    """The low-rank pairs of a stage; None = none."""
    return stage.lora if stage.lora.rank else None


def trainable(stage: Train) -> str:
    """What is trained: by the config, else pairs and heads, else what the loss sees."""
    if stage.optimizer.trainable:
        return stage.optimizer.trainable
    if stage.lora.rank:
        # Heads are small, and may be new; some are only for the objective.
        heads = (*trained_heads(stage.objective), *_WHOLE_HEADS)
        return rf"{lora.TRAINABLE}|^({'|'.join(heads)})\."
    if not isinstance(stage.model, EmbeddingConfig):
        return ""
    # Heads without a gradient would only decay.
    trained = trained_heads(stage.objective)
    return all_but([name for name in stage.model.outputs if name not in trained])


def optimizer(stage: Train) -> OptimizerConfig:
    """How the parameters of a stage move, with what is trained by default."""
    return dataclasses.replace(stage.optimizer, trainable=trainable(stage))
