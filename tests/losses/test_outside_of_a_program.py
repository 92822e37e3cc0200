"""Losses and scores that are called outside of `jax.jit` compile once."""

import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from m3jax import losses
from m3jax.core.types import Multivec, Sparse
from m3jax.ops import scores

QUERY, PASSAGE = jnp.eye(7), jnp.ones((7, 2, 7))
SPARSE = Sparse(jnp.ones((7, 2), jnp.int32), jnp.ones((7, 2)))
MULTIVEC = Multivec(PASSAGE, jnp.ones((7, 2), bool))
LABELS = jnp.ones((7, 2), jnp.int32)

CASES: dict[str, Callable[[Any], Any]] = {
    "info_nce": lambda x: losses.info_nce(x, PASSAGE, temperature=1, tile=3),
    "late": lambda x: losses.info_nce(
        x, PASSAGE, temperature=1, tile=3, gradient="late"
    ),
    "masked_lm": lambda x: losses.masked_lm(PASSAGE, x, LABELS, tile=3),
    "dense": lambda x: scores.dense(x, PASSAGE[:, 0], tile=3),
    "dense_pairs": lambda x: scores.dense_pairs(x, PASSAGE[:, 0], tile=3),
    "sparse": lambda x: scores.sparse(Sparse(LABELS, x[:, :2]), SPARSE, tile=3),
    "multivec": lambda x: scores.multivec(
        Multivec(x[:, None], LABELS[:, :1] > 0), MULTIVEC, tile=3
    ),
}


QUICK = ("info_nce", "sparse", "dense_pairs")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in CASES],
)
def test_the_second_call_compiles_nothing(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def both() -> None:
        jax.block_until_ready(CASES[name](QUERY))
        jax.block_until_ready(jax.grad(lambda x: CASES[name](x).sum())(QUERY))

    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        both()
        assert "Compiling" in caplog.text
        caplog.clear()
        both()
    assert "Compiling" not in caplog.text
