"""Losses as pure functions on arrays; nothing is imported but jax and jaxtyping.

Shapes have one letter an axis: b queries, g passages of a query with the positive
first, e numbers of an embedding, d of its prefix or of a hidden state, n candidates or
pairs, l, i and j tokens, v a vocabulary, w words of an id. A loss is float32 and has a
number for each query, pair or token, so that weights and the mean are yours; `cosent`
and `retromae` give one number in all.

>>> import jax.numpy as jnp
>>> from m3jax import losses
>>> losses.info_nce(jnp.eye(2), jnp.eye(2)[:, None], temperature=0.02).shape
(2,)
"""

from m3jax.core.types import Embeddings, Multivec, Sparse
from m3jax.losses.bge_m3 import M3Loss, m3
from m3jax.losses.classification import softmax_cross_entropy
from m3jax.losses.contrastive import Contrast, contrast, info_nce
from m3jax.losses.distillation import distill_kl, m3_kd
from m3jax.losses.graded import cosent
from m3jax.losses.language import masked_lm, retromae
from m3jax.losses.nested import matryoshka
from m3jax.losses.reranking import rerank_listwise, rerank_pointwise

__all__ = [
    "Contrast",
    "Embeddings",
    "M3Loss",
    "Multivec",
    "Sparse",
    "contrast",
    "cosent",
    "distill_kl",
    "info_nce",
    "m3",
    "m3_kd",
    "masked_lm",
    "matryoshka",
    "rerank_listwise",
    "rerank_pointwise",
    "retromae",
    "softmax_cross_entropy",
]
