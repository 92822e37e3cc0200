import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Params, Tokens
from m3jax.hub import reranker as folders
from m3jax.nn.bert import BertConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig, RerankerModule, init, score

GOLDEN = Path(__file__).parent.parent / "golden"
VOCABULARY = 5_003
QWEN = QwenConfig(VOCABULARY, 16, 2, 4, 2, 8, 32, 16)
BERT = BertConfig(64, 16, 2, 2, 32, max_positions=16, dropout=0.5)
YES, NO = 4_001, 17


def random_params(config: RerankerConfig) -> Params:
    """Parameters far from 0, without the cost of compiling `init`."""
    rng = np.random.default_rng(0)
    module = RerankerModule(config)
    shapes = jax.eval_shape(lambda: init(module, jax.random.key(0)))
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), shapes
    )


def tokens(*, left: bool = False) -> Tokens:
    rng, place = np.random.default_rng(1), np.arange(9)
    ids, mask = np.zeros((3, 9), int), np.zeros((3, 9), bool)
    for row, length in enumerate((9, 4, 6)):
        mask[row] = place >= 9 - length if left else place < length
        ids[row, mask[row]] = rng.integers(20, 60, length)
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


@functools.partial(jax.jit, static_argnums=0)
def scores(module: RerankerModule, params: Params, tokens: Tokens) -> jax.Array:
    return score(module, params, tokens)


@functools.cache
def golden(name: str) -> tuple[RerankerModule, Params, Tokens, Any]:
    model = folders.load(GOLDEN / f"reranker_{name}")
    expected = np.load(GOLDEN / f"reranker_{name}" / "expected.npz")
    types = jnp.asarray(expected["types"]) if "types" in expected else None
    ids, mask = jnp.asarray(expected["ids"]), jnp.asarray(expected["mask"])
    batch = Tokens(ids, mask, None, types)
    return RerankerModule(model.config), model.params, batch, expected


@pytest.mark.parametrize("name", ["xlmr", "bert", "qwen3", "qwen3_untied"])
def test_scores_are_those_of_the_reference(name: str) -> None:
    module, params, batch, expected = golden(name)
    found = np.asarray(scores(module, params, batch))
    assert found.dtype == np.float32
    if "yes" in expected:
        np.testing.assert_allclose(found, expected["yes"] - expected["no"], atol=1e-5)
        ids = int(expected["yes_id"]), int(expected["no_id"])
        assert module.config.yes_no_ids == ids
        assert ("lm_head" in params) == (name == "qwen3_untied")
        found = 1 / (1 + np.exp(-found))
    np.testing.assert_allclose(found, expected["score"], atol=1e-5)
    assert np.ptp(found) > 0.01


def test_the_two_texts_of_a_pair_have_types() -> None:
    module, params, batch, expected = golden("bert")
    other = Tokens(batch.ids, batch.mask, None, jnp.zeros_like(batch.types))
    found = np.asarray(scores(module, params, other))
    assert np.abs(found - expected["score"]).min() > 1e-3


def wide(compiled: Any) -> set[str]:
    """Shapes in which the vocabulary occurs."""
    return set(re.findall(r"\w+\[[\d,]*\b5003\b[\d,]*\]", compiled.as_text() or ""))


def test_yes_and_no_are_the_only_logits() -> None:
    """No tensor is [b, v] or [b, l, v]; the tables and their gradients are not."""
    config = RerankerConfig(QWEN, "yes_no", (YES, NO))
    params = random_params(config)
    lowered = scores.lower(RerankerModule(config), params, tokens())
    assert wide(lowered.compile()) == {"f32[5003,16]"}

    config = dataclasses.replace(config, tied=False)
    module, params = RerankerModule(config), random_params(config)

    @jax.jit
    @jax.grad
    def slope(head: Params, encoder: Params, batch: Tokens) -> jax.Array:
        params = {"encoder": encoder, "lm_head": head}
        return score(module, params, batch).sum()

    inputs = params["lm_head"], params["encoder"], tokens()
    compiled = slope.lower(*inputs).compile()
    assert wide(compiled) == {"f32[5003,16]", "f32[16,5003]"}
    # Only two columns of the head are trained, and in opposite directions.
    found = np.asarray(compiled(*inputs)["kernel"])
    assert set(np.nonzero(found.any(axis=0))[0]) == {YES, NO}
    np.testing.assert_allclose(found[:, YES], -found[:, NO])


@pytest.mark.parametrize("name", ["xlmr", "qwen3"])
def test_padding_changes_nothing(name: str) -> None:
    module, params, batch, expected = golden(name)
    ids, mask = np.array(batch.ids), np.array(batch.mask)
    ids[~mask] = 7  # what padding holds must not matter
    shift = mask.sum(1) * (1 if name == "qwen3" else -1)
    ids, mask = (
        jnp.asarray(
            np.stack([np.roll(row, n) for row, n in zip(x, shift, strict=True)])
        )
        for x in (ids, mask)
    )
    assert (
        np.asarray(mask)[:, 0] != expected["mask"][:, 0]
    ).any()  # padding is on the other side now
    found = scores(module, params, Tokens(ids, mask))
    np.testing.assert_allclose(found, scores(module, params, batch), atol=1e-5)


def test_dropout_belongs_to_the_pair() -> None:
    config = RerankerConfig(BERT)
    module, params = RerankerModule(config), random_params(config)

    @jax.jit
    def train(rows: jax.Array, batch: Tokens) -> jax.Array:
        return score(module, params, batch, rng=jax.random.key(0), rows=rows)

    order = np.array([2, 0, 1])
    first = np.asarray(train(jnp.arange(3), tokens()))
    moved = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[order]), tokens())
    found = np.asarray(train(jnp.asarray(order), moved))
    np.testing.assert_allclose(found, first[order], atol=1e-5)
    other = np.asarray(train(jnp.arange(3, 6), tokens()))
    assert np.abs(other - first).min() > 1e-3
