"""What a training minimises; one config class for each way to train."""

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
from m3jax.training.objectives.texts import SubBatches
from m3jax.training.objectives.unified import UnifiedConfig, unified

__all__ = [
    "ContrastiveConfig",
    "MaskedLMConfig",
    "MomentumConfig",
    "Objective",
    "RerankingConfig",
    "RetroMAEConfig",
    "SubBatches",
    "Terms",
    "UnifiedConfig",
    "contrastive",
    "masked_lm",
    "momentum",
    "reranking",
    "retromae",
    "unified",
    "with_masked_lm",
]
