"""Merging of models on parameter trees: pure functions that need jax and numpy only."""

from m3jax.merging.linear import cocktail_weights, linear, task_arithmetic
from m3jax.merging.spherical import multi_slerp, slerp
from m3jax.merging.ties import ties

__all__ = [
    "cocktail_weights",
    "linear",
    "multi_slerp",
    "slerp",
    "task_arithmetic",
    "ties",
]
