import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Tokens
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init
from m3jax.testing import tiny_config


def build(
    seed: int = 0, pooling: Any = "mean", **fields: Any
) -> tuple[EmbeddingModule, dict]:
    config = EmbeddingConfig(tiny_config(**fields).encoder, pooling)
    module = EmbeddingModule(config)
    params = init(module, jax.random.key(seed))
    # Tables far from 0, so that every part of the model matters.
    return module, jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(7), x.shape), params
    )


def tokens(rows: int = 8, length: int = 12, seed: int = 0) -> Tokens:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, rows)
    mask = np.arange(length)[None] < lengths[:, None]
    ids = np.where(mask, rng.integers(1, 64, (rows, length)), 0)
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def roll(tokens: Tokens, pooling: str) -> Tokens:
    """The same texts, padded on the left."""
    ids, mask = np.asarray(tokens.ids), np.asarray(tokens.mask)
    shift = mask.shape[1] - mask.sum(1)
    rows = range(len(ids))
    return Tokens(
        jnp.stack([jnp.roll(ids[i], shift[i]) for i in rows]),
        jnp.stack([jnp.roll(mask[i], shift[i]) for i in rows]),
    )


def whole(module: EmbeddingModule, params: dict, tokens: Tokens) -> Any:
    return embed(module, params, tokens)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_padding_changes_nothing(pooling) -> None:
    module, params = build(pooling=pooling)
    embed = jax.jit(functools.partial(whole, module))
    plain = embed(params, tokens()).dense
    wide = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 9))), tokens())
    garbage = Tokens(jnp.where(wide.mask, wide.ids, 5), wide.mask)
    for same in (wide, garbage, roll(tokens(), pooling)):
        np.testing.assert_allclose(embed(params, same).dense, plain, atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(plain, axis=-1), 1, rtol=1e-6)
    # And every row is its own: cut out of the batch, it is the same.
    alone = embed(params, jax.tree.map(lambda x: x[3:4], tokens())).dense
    np.testing.assert_allclose(alone[0], plain[3], atol=1e-6)
    assert np.abs(plain[3] - plain[4]).max() > 1e-2


def loss_and_gradient(module: EmbeddingModule, params: dict, sub_batches: int, rng):
    def loss(params: dict) -> jax.Array:
        dense = embed(module, params, tokens(), rng=rng, sub_batches=sub_batches).dense
        return jnp.sum((dense @ dense.T) ** 3)  # every pair of rows meets

    return jax.jit(jax.value_and_grad(loss))(params)


@functools.cache
def one_batch(dropout: bool):
    """Value and gradient without sub-batches and without rematerialisation."""
    module, params = build(remat="none", dropout=0.3)
    rng = jax.random.key(3) if dropout else None
    return params, rng, loss_and_gradient(module, params, 1, rng)


WAYS = [("none", 2), ("none", 8), ("full", 1), ("dots", 1), ("full", 4), ("dots", 2)]


@pytest.mark.parametrize(
    ("remat", "sub_batches", "dropout"),
    [
        ("none", 8, False),
        ("full", 4, True),
        *(
            pytest.param(*way, dropout, marks=pytest.mark.slow)
            for way in WAYS
            for dropout in (False, True)
        ),
    ],
)
def test_sub_batches_and_remat_change_nothing(
    remat: str, sub_batches: int, dropout: bool
) -> None:
    params, rng, expected = one_batch(dropout)
    module = build(remat=remat, dropout=0.3)[0]
    found = loss_and_gradient(module, params, sub_batches, rng)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected[1]))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * largest),
        found[1],
        expected[1],
    )


def test_sub_batches_save_memory() -> None:
    def temporary(sub_batches: int) -> int:
        module, params = build(remat="none", hidden=32, layers=4)

        def loss(params: dict, batch: Tokens) -> jax.Array:
            dense = embed(module, params, batch, sub_batches=sub_batches).dense
            return jnp.sum((dense @ dense.T) ** 3)

        compiled = jax.jit(jax.grad(loss)).lower(params, tokens(128, 64)).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporary(16) < temporary(1) / 4


def test_dropout_belongs_to_the_row() -> None:
    module, params = build(dropout=0.5)
    rng = jax.random.key(1)
    one = jax.tree.map(lambda x: x[:1], tokens())
    same = jax.tree.map(lambda x: jnp.repeat(x, 4, 0), one)
    dense = embed(module, params, same, rng=rng).dense
    # The same text in four rows: four masks.
    assert np.abs(np.diff(dense, axis=0)).max(axis=1).min() > 1e-2
    moved = embed(module, params, same, rng=rng, rows=jnp.array([3, 2, 1, 0])).dense
    np.testing.assert_allclose(moved, dense[::-1], atol=1e-6)
    other = embed(module, params, same, rng=jax.random.key(2)).dense
    assert np.abs(other - dense).max() > 1e-2
    # Without a key nothing is dropped.
    plain = embed(module, params, same).dense
    np.testing.assert_allclose(plain, jnp.repeat(plain[:1], 4, 0), atol=1e-6)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    from m3jax.nn.layers import RowDropout

    x = jnp.ones((64, 512))
    dropped = RowDropout(0.3).apply(
        {}, x, jnp.arange(64), rngs={"dropout": jax.random.key(0)}
    )
    assert isinstance(dropped, jax.Array)
    np.testing.assert_allclose((dropped == 0).mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(dropped.mean(), 1, atol=0.02)


def test_layers_drop_different_units() -> None:
    """`nn.scan` must split the key, or every layer would drop the same units."""
    from flax import linen as nn

    from m3jax.nn.layers import RowDropout

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, rows: jax.Array):
            dropped = RowDropout(0.5)(jnp.ones_like(x), rows)
            return x, dropped

    stack: Any = nn.scan(
        Step,
        split_rngs={"dropout": True},
        in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        length=2,
    )
    _, masks = stack().apply(
        {}, jnp.ones((2, 64)), jnp.arange(2), rngs={"dropout": jax.random.key(0)}
    )
    assert 0.2 < (masks[0] == masks[1]).mean() < 0.8


def test_bfloat16_is_close_and_parameters_stay_float32() -> None:
    module, params = build()
    low = build(dtype="bfloat16")[0]
    found = embed(low, params, tokens()).dense
    assert found.dtype == jnp.float32
    assert all(
        x.dtype == jnp.float32 for x in jax.tree.leaves(init(low, jax.random.key(0)))
    )
    cosine = jnp.sum(found * embed(module, params, tokens()).dense, axis=-1)
    assert cosine.min() > 0.999
    hidden = jax.make_jaxpr(lambda p: embed(low, p, tokens()).dense)(params)
    assert "bf16" in str(hidden)


def test_what_does_not_fit_is_said() -> None:
    module, params = build()
    with pytest.raises(InputError, match="at most 64 tokens, found 65"):
        embed(module, params, tokens(2, 65))
    with pytest.raises(
        InputError, match=r"sub_batches: .* divides the 8 texts, found 3"
    ):
        embed(module, params, tokens(), sub_batches=3)
    with pytest.raises(InputError, match="outputs: expected one or more of dense"):
        embed(module, params, tokens(), outputs=("dense", "sparce"))
    with pytest.raises(InputError, match="heads that divide hidden=16, found 3"):
        init(EmbeddingModule(tiny_config(heads=3)), jax.random.key(0))
