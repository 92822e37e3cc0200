"""Losses as pure functions on arrays; nothing is imported but jax and jaxtyping.

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
