"""Merging of models on parameter trees: pure functions that need jax and numpy only."""

from m3jax.merging.spherical import multi_slerp, slerp
from m3jax.merging.trimmed import ties
from m3jax.merging.weighted import cocktail_weights, linear, task_arithmetic

__all__ = [
    "cocktail_weights",
    "linear",
    "multi_slerp",
    "slerp",
    "task_arithmetic",
    "ties",
]
