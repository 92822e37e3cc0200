import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Params, Tokens
from m3jax.hub import folder
from m3jax.nn import heads
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.embedding import EmbeddingModule, embed
from m3jax.nn.qwen import Qwen, QwenConfig, rotate

GOLDEN = Path(__file__).parent.parent / "golden"
QWEN3 = QwenConfig(
    vocab_size=64,
    hidden=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    mlp=32,
    max_positions=12,
    remat="none",
)
QWEN2 = dataclasses.replace(QWEN3, head_dim=4, qkv_bias=True, qk_norm=False)
BERT = BertConfig(64, 16, 2, 2, 32, max_positions=14, first_position=2, remat="none")


def random_params(config: QwenConfig | BertConfig, seed: int = 0) -> Params:
    """Parameters far from 0, without the cost of compiling `init`."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        start = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(start + 0.3 * rng.standard_normal(leaf.shape), jnp.float32)

    ids = jnp.zeros((1, 1), jnp.int32)
    module = encoder(config)
    init = functools.partial(module.init, jax.random.key(0))
    shapes = jax.eval_shape(init, Tokens(ids, ids == 0))["params"]
    return jax.tree_util.tree_map_with_path(fill, shapes)


def encoder(config: QwenConfig | BertConfig) -> Qwen | Bert:
    return Bert(config) if isinstance(config, BertConfig) else Qwen(config)


def apply(config: QwenConfig | BertConfig, params: Params, tokens: Tokens) -> Any:
    return encoder(config).apply({"params": params}, tokens)


_apply = jax.jit(apply, static_argnums=0)


def states(
    config: QwenConfig | BertConfig, params: Params, tokens: Tokens
) -> np.ndarray:
    return np.asarray(_apply(config, params, tokens))


def tokens(lengths: tuple[int, ...] = (7, 12, 3, 5), *, left: bool = False) -> Tokens:
    rng = np.random.default_rng(1)
    place = np.arange(12)
    rows = [place >= 12 - n if left else place < n for n in lengths]
    ids = np.full((len(lengths), 12), 63)  # what padding holds must not matter
    for row, where in enumerate(rows):
        ids[row, where] = rng.integers(0, 64, lengths[row])
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(np.stack(rows)))


@functools.cache
def golden(name: str, attention: str) -> tuple[Any, dict, Params, EmbeddingModule]:
    model = folder.load(GOLDEN / name)
    fields: Any = {"attention": attention, "remat": "none"}
    config = dataclasses.replace(model.config.encoder, **fields)
    module = EmbeddingModule(dataclasses.replace(model.config, encoder=config))
    expected = dict(np.load(GOLDEN / name / "expected.npz"))
    return config, expected, model.params, module


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_states_and_embeddings_are_those_of_the_reference(
    name: str, attention: str
) -> None:
    config, expected, params, module = golden(name, attention)
    ids, mask = expected["ids"], expected["mask"]
    left = name == "qwen3"
    assert not mask[:, 0 if left else -1].all()  # there it is padded

    @jax.jit
    def both(tokens: Tokens) -> tuple[jax.Array, jax.Array]:
        hidden = apply(config, params["encoder"], tokens)
        pooled = heads.pooled(hidden, tokens, module.config.pooling)
        return hidden, heads.dense(pooled)

    suffix = "" if attention == "causal" else "_bidirectional"
    # The same batch, and padded on the other side.
    same = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    turn = np.stack([np.roll(np.arange(80), n if left else -n) for n in mask.sum(1)])
    for order in (same, turn):
        there = np.take_along_axis(mask, order, 1)
        batch = Tokens(np.take_along_axis(ids, order, 1), there)
        found, dense = map(np.asarray, both(batch))
        for key in ["hidden" + suffix] + (["hidden_alone"] if not suffix else []):
            np.testing.assert_allclose(found[there], expected[key][mask], atol=1e-5)
        np.testing.assert_allclose(dense, expected["document" + suffix], atol=2e-6)


def test_bfloat16_is_close() -> None:
    config, expected, params, module = golden("qwen3", "causal")
    low = dataclasses.replace(config, dtype="bfloat16")
    module = EmbeddingModule(dataclasses.replace(module.config, encoder=low))
    batch = Tokens(jnp.asarray(expected["ids"]), jnp.asarray(expected["mask"]))
    found = jax.jit(lambda: embed(module, params, batch).dense)()
    assert found.dtype == jnp.float32
    cosine = (np.asarray(found) * expected["document"]).sum(-1)
    assert cosine.min() > 0.999
    assert cosine.min() < 1 - 1e-6  # bfloat16 it was
    hidden = jax.eval_shape(lambda: apply(low, params["encoder"], batch))
    assert hidden.dtype == jnp.bfloat16


def test_what_padding_holds_and_where_it_is_changes_nothing() -> None:
    params = random_params(QWEN2)
    right, left = tokens(), tokens(left=True)
    other = Tokens(jnp.where(right.mask, right.ids, 5), right.mask)
    plain = states(QWEN2, params, right)[right.mask]
    for same in (left, other):
        found = states(QWEN2, params, same)[same.mask]
        np.testing.assert_allclose(found, plain, atol=1e-5)
    assert np.abs(np.diff(plain, axis=0)).max(-1).min() > 0.1


@pytest.mark.parametrize(
    ("config", "sees"),
    [
        (QWEN3, "causal"),
        (dataclasses.replace(QWEN3, attention="bidirectional"), "all"),
    ],
    ids=["causal", "bidirectional"],
)
def test_what_a_token_sees(config: QwenConfig, sees: str) -> None:
    """d h_i / d x_j, by a word table in which every token has a row of its own."""
    params, length = random_params(config), 6
    ids = np.arange(12, dtype=np.int32)[None]
    batch = Tokens(jnp.asarray(ids), jnp.asarray(ids < length))

    @jax.jit
    def slope(table: jax.Array, change: jax.Array) -> jax.Array:
        def found(table: jax.Array) -> jax.Array:
            return apply(config, {**params, "word": {"embedding": table}}, batch)

        return jax.jvp(found, (table,), (change,))[1][0]

    table = params["word"]["embedding"]
    changes = np.zeros((8, *table.shape), np.float32)
    changes[np.arange(8), np.arange(8)] = np.random.default_rng(0).standard_normal(16)
    found = np.stack([slope(table, change) for change in changes], axis=1)
    found = np.abs(found[:length]).max(-1)
    expected = np.ones((length, 8), bool)
    expected[:, length:] = False  # padding is seen by nobody
    if sees == "causal":
        expected = np.tril(expected)
    assert (found[~expected] == 0).all()
    assert found[expected].min() > 1e-3


def test_grouped_heads_are_repeated_heads() -> None:
    config, params = QWEN2, random_params(QWEN2)
    attention = dict(params["layers"]["attention"])
    for name in ("key", "value"):
        attention[name] = {
            kind: jnp.repeat(
                leaf.reshape(*leaf.shape[:-1], config.kv_heads, config.head_dim),
                config.heads // config.kv_heads,
                axis=-2,
            ).reshape(*leaf.shape[:-1], -1)
            for kind, leaf in attention[name].items()
        }
    repeated = {**params, "layers": {**params["layers"], "attention": attention}}
    full = dataclasses.replace(config, kv_heads=config.heads)
    np.testing.assert_allclose(
        states(full, repeated, tokens())[tokens().mask],
        states(config, params, tokens())[tokens().mask],
        atol=1e-5,
    )


@pytest.mark.parametrize("config", [BERT, QWEN2], ids=["bert", "qwen"])
def test_packed_rows_are_separate_rows(config: QwenConfig | BertConfig) -> None:
    """Also in a row that is longer than the longest text."""
    params, apart = random_params(config), tokens()
    expected = states(config, params, apart)
    texts = [np.asarray(apart.ids[i, :n]) for i, n in enumerate((7, 12, 3, 5))]
    gap = np.full(2, 63)
    # Row 0: padding between and after texts; row 1: a text after padding.
    rows = [
        [texts[0], gap, texts[2], texts[3], gap],
        [gap, gap[:1], texts[1], gap, gap],
    ]
    ids = np.stack([np.concatenate(row) for row in rows]).astype(np.int32)
    segments = np.array(
        [
            [0] * 7 + [9, 9] + [1] * 3 + [2] * 5 + [9] * 2,
            # The padding behind carries on the segment of a text of full length.
            [9] * 3 + [0] * 12 + [0] * 4,
        ],
        np.int32,
    )
    mask = segments < 9
    mask[1, 15:] = False
    found = states(config, params, Tokens(ids, mask, segments))
    for row, start, text, length in (
        (0, 0, 0, 7),
        (0, 9, 2, 3),
        (0, 12, 3, 5),
        (1, 3, 1, 12),
    ):
        np.testing.assert_allclose(
            found[row, start : start + length], expected[text, :length], atol=1e-5
        )


def test_remat_changes_the_memory_only() -> None:
    params, batch = random_params(QWEN3), tokens()
    found, products = {}, {}
    for remat in ("none", "dots", "full"):
        config = dataclasses.replace(QWEN3, remat=remat)

        def loss(params: Params, config: QwenConfig = config) -> jax.Array:
            kept = apply(config, params, batch) * batch.mask[..., None]
            return jnp.sum(kept**3)

        traced = jax.jit(jax.value_and_grad(loss)).trace(params)
        products[remat] = str(traced.jaxpr).count(" dot_general")
        if remat != "dots":  # its numbers are in test_bert, and compiling takes long
            found[remat] = jax.device_get(traced.lower().compile()(params))
    np.testing.assert_allclose(found["full"][0], found["none"][0], rtol=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max()),
        found["full"][1],
        found["none"][1],
    )
    assert products["none"] == products["dots"] < products["full"]


def test_rotation_depends_on_distances_only() -> None:
    query, key = np.random.default_rng(0).standard_normal((2, 1, 3, 1, 8))

    def scores(start: int) -> np.ndarray:
        position = start + jnp.arange(3)[None]
        turned = (rotate(jnp.asarray(x), position, 1e4) for x in (query, key))
        return np.einsum("blhc,bmhc->blm", *turned)

    np.testing.assert_allclose(scores(0), scores(40), atol=1e-4)
    # One turn by hand: the pair (i, i + c / 2) by position * theta^(-2i/c).
    at = np.asarray(rotate(jnp.asarray(query), jnp.array([[0, 1, 2]]), 1e4))[0, 2, 0]
    angle = 2 * 1e4 ** (-np.arange(0, 8, 2) / 8)
    x = query[0, 2, 0]
    turned = (x[:4] + 1j * x[4:]) * np.exp(1j * angle)
    np.testing.assert_allclose(at, [*turned.real, *turned.imag], atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "length", "message"),
    [
        ({"kv_heads": 3}, 4, "kv_heads that divide heads=4, found 3"),
        ({"head_dim": 5}, 4, "an even head_dim, found 5"),
        ({}, 13, "at most 12 tokens, found 13"),
    ],
)
def test_what_does_not_fit_is_said(fields: Any, length: int, message: str) -> None:
    module = Qwen(dataclasses.replace(QWEN3, **fields))
    ids = jnp.zeros((1, length), jnp.int32)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), Tokens(ids, ids == 0))
