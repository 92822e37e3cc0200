"""Scores between queries and passages, on device arrays, for all three heads.

`dense`, `sparse` and `multivec` score every query with every passage, `[q p]`;
`dense_pairs`, `sparse_pairs` and `multivec_pairs` score the i-th query with the i-th
passage, `[n]`. None of them holds more than a tile of what is larger than its result.
"""

from m3jax.ops.scores.dense import dense, dense_pairs
from m3jax.ops.scores.multivec import multivec, multivec_pairs
from m3jax.ops.scores.sparse import sparse, sparse_pairs

__all__ = [
    "dense",
    "dense_pairs",
    "multivec",
    "multivec_pairs",
    "sparse",
    "sparse_pairs",
]
