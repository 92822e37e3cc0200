"""What a training minimises; one config class for each way to train."""

from m3jax.training.objectives.base import Objective, Terms
from m3jax.training.objectives.contrastive import ContrastiveConfig, contrastive
from m3jax.training.objectives.momentum import MomentumConfig, momentum
from m3jax.training.objectives.reranking import RerankingConfig, reranking
from m3jax.training.objectives.texts import SubBatches
from m3jax.training.objectives.unified import UnifiedConfig, unified

__all__ = [
    "ContrastiveConfig",
    "MomentumConfig",
    "Objective",
    "RerankingConfig",
    "SubBatches",
    "Terms",
    "UnifiedConfig",
    "contrastive",
    "momentum",
    "reranking",
    "unified",
]
