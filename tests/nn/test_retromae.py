"""RetroMAE's decoder against a loop, whole and in blocks."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Params, Tokens
from m3jax.nn import masked_lm, retromae
from m3jax.nn.bert import Bert, BertConfig
from m3jax.ops import attention

CONFIG = BertConfig(32, 8, 0, 2, 16, max_positions=16, dropout=0.0, first_position=2)
RNG = np.random.default_rng(0)
B, L, N = 2, 7, 3


@functools.cache
def params() -> Params:
    """Parameters far from 0."""

    def make() -> Params:
        tokens = Tokens(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
        drawn = retromae.init(CONFIG, jax.random.key(0))
        encoder = Bert(CONFIG).init(jax.random.key(0), tokens)["params"]
        return {
            **drawn,
            **masked_lm.init(CONFIG, jax.random.key(0)),
            "encoder": encoder,
        }

    return jax.tree.map(
        lambda x: jnp.asarray(RNG.standard_normal(x.shape), jnp.float32),
        jax.eval_shape(make),
    )


def inputs() -> tuple[jax.Array, Tokens, jax.Array, jax.Array]:
    mask = np.arange(L)[None] < np.array([[L], [4]])
    ids = jnp.asarray(RNG.integers(0, 32, (B, L)), jnp.int32)
    tokens = Tokens(ids, jnp.asarray(mask))
    state = jnp.asarray(RNG.standard_normal((B, 8)), jnp.float32)
    pool = jnp.asarray(RNG.random((B, N, L)) < 0.5).at[0, 0].set(True)
    return state, tokens, pool, jnp.asarray(RNG.integers(0, N, (B, L)))


def norm(x: np.ndarray, of: Params) -> np.ndarray:
    x = x - x.mean(-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * of["scale"] + of["bias"]
    )


def dense(x: np.ndarray, of: Params) -> np.ndarray:
    return x @ of["kernel"] + of["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def by_a_loop(state, tokens, pool, choice) -> np.ndarray:
    """One position after the other, as the paper writes it."""
    every = jax.tree.map(lambda x: np.asarray(x, np.float64), params())
    encoder, own = every["encoder"], every["decoder"]
    found = np.zeros((B, L, 8))
    for row in range(B):
        length = int(tokens.mask[row].sum())
        place = encoder["position"]["embedding"][2 : 2 + length]
        place = place + encoder["token_type"]["embedding"][0]
        text = encoder["word"]["embedding"][np.asarray(tokens.ids[row, :length])]
        keys = norm(text + place, encoder["norm"])
        keys[0] = state[row]
        queries = norm(np.asarray(state[row], np.float64) + place, encoder["norm"])
        for at in range(length):
            hidden = pool[row, choice[row, at]]
            seen = [0] + [j for j in range(1, length) if j != at and not hidden[j]]
            query, key, value = (
                dense(x, own[name]).reshape(-1, 2, 4)
                for name, x in (
                    ("query", queries[at]),
                    ("key", keys[seen]),
                    ("value", keys[seen]),
                )
            )
            weights = np.exp(np.einsum("hc,jhc->hj", query[0], key) / 2)
            weights /= weights.sum(-1, keepdims=True)
            attended = np.einsum("hj,jhc->hc", weights, value).reshape(8)
            x = norm(queries[at] + dense(attended, own["output"]), own["norm"])
            inner = dense(gelu(dense(x, own["mlp"]["up"])), own["mlp"]["down"])
            found[row, at] = norm(x + inner, own["mlp"]["norm"])
    return found


@pytest.mark.parametrize("block", [pytest.param(L, marks=pytest.mark.slow), 2])
def test_decoder_is_its_definition(
    block: int, monkeypatch: pytest.MonkeyPatch, untraced: None
) -> None:
    monkeypatch.setattr(attention, "SCORE_BUDGET", 4 * B * 2 * L * block)
    given = inputs()
    assert attention.queries_at_once(B, L, 2) == block
    found = retromae.decode(CONFIG, params(), *given)
    real = np.asarray(given[1].mask)
    np.testing.assert_allclose(found[real], by_a_loop(*given)[real], atol=2e-4)
    assert np.isfinite(found).all()


def test_block_is_that_of_the_encoder() -> None:
    """The same tables, added and normalised: a BERT without layers is nothing else."""
    _, tokens, *_ = inputs()
    encoder = params()["encoder"]
    words = jnp.take(encoder["word"]["embedding"], tokens.ids, axis=0)
    found = retromae.embedding_block(CONFIG, encoder, words, tokens)
    expected: Any = Bert(CONFIG).apply({"params": encoder}, tokens)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_and_masks_of_all_positions_never_exist() -> None:
    length = 509
    config = BertConfig(32, 8, 1, 2, 16, max_positions=512)
    made = jax.eval_shape(lambda: retromae.init(config, jax.random.key(0)))
    encoder = jax.tree.map(lambda x: x, params()["encoder"])
    encoder = {**encoder, "position": {"embedding": jnp.zeros((512, 8))}}

    def loss(own: Params, state: jax.Array, tokens: Tokens, pool, choice) -> jax.Array:
        every = {**own, "encoder": encoder}
        return retromae.decode(config, every, state, tokens, pool, choice).sum()

    def shape(kind: type, *dims: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((4, *dims), kind)

    ids, mask = shape(jnp.int32, length), shape(jnp.bool_, length)
    given = shape(jnp.float32, 8), Tokens(ids, mask), shape(jnp.bool_, 128, length), ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "SCORE_BUDGET", 4 * 4 * 2 * length * 64)
        text = jax.jit(jax.grad(loss)).lower(made, *given).as_text()
    assert f"x64x{length}x" in text, "blocks of 64 queries"
    assert not re.findall(rf"x{length}x{length}x", text)


def test_head_is_its_definition() -> None:
    hidden = jnp.asarray(RNG.standard_normal((B, L, 8)), jnp.float32)
    found = masked_lm.transform(CONFIG, params(), hidden)
    own = jax.tree.map(lambda x: np.asarray(x, np.float64), params()["mlm"])
    expected = norm(gelu(dense(np.asarray(hidden), own["dense"])), own["norm"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    table, bias = masked_lm.table(CONFIG, params())
    np.testing.assert_array_equal(table, params()["encoder"]["word"]["embedding"])
    np.testing.assert_array_equal(bias, params()["mlm"]["bias"])
