"""Losses as pure functions on arrays; nothing is imported but jax and jaxtyping.

>>> import jax.numpy as jnp
>>> from m3jax import losses
>>> losses.info_nce(jnp.eye(2), jnp.eye(2)[:, None], temperature=0.02).shape
(2,)
"""

from m3jax.losses.bge_m3 import M3Loss, m3
from m3jax.losses.contrastive import Contrast, contrast, info_nce

__all__ = ["Contrast", "M3Loss", "contrast", "info_nce", "m3"]
