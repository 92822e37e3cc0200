from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Tokens
from m3jax.hub import folder
from m3jax.nn import heads
from m3jax.nn.embedding import EmbeddingModule, embed

GOLDEN = Path(__file__).parent.parent / "golden"
# As in XLM-R: CLS 0, padding 1, EOS 2, unknown 3; the highest id is <mask>.
SPECIAL, MASK = (0, 1, 2, 3), 40
LENGTHS = (8, 12, 2, 5, 1)


def tokens(*, left: bool = False) -> Tokens:
    """Texts with repeats: CLS, words, perhaps <mask> and unknown, EOS."""
    rng = np.random.default_rng(3)
    place = np.arange(12)
    ids = np.full((len(LENGTHS), 12), 6)  # what padding holds must not matter
    mask = np.zeros(ids.shape, bool)
    for row, length in enumerate(LENGTHS):
        text = np.array([0, *rng.integers(3, 8, max(length - 2, 0)), 2][:length])
        text[2:-1:4] = MASK
        mask[row] = place >= 12 - length if left else place < length
        ids[row, mask[row]] = text
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def placed(values: np.ndarray, where: Any) -> jax.Array:
    """Put the values of padding-right rows where the tokens are; noise elsewhere."""
    placed = random(*values.shape, seed=9)
    right = np.asarray(tokens().mask)
    placed[np.asarray(where)] = values[right]
    return jnp.asarray(placed)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_sparse_is_the_largest_weight_of_every_term(left: bool) -> None:
    batch, right = tokens(left=left), tokens()
    projected = random(*right.ids.shape, 1)
    found = heads.sparse(placed(projected, batch.mask), batch, SPECIAL)
    np.testing.assert_array_equal(found.ids, batch.ids)
    assert (np.asarray(found.weights)[~np.asarray(batch.mask)] == 0).all()
    weights = np.asarray(heads.strongest(found.ids, found.weights))
    repeats = 0
    for row, length in enumerate(LENGTHS):
        expected: dict[int, float] = {}
        for at in range(length):
            term, weight = int(right.ids[row, at]), max(projected[row, at, 0], 0)
            repeats += term in expected
            if term not in SPECIAL:
                expected[term] = max(expected.get(term, 0), weight)
        expected = {term: weight for term, weight in expected.items() if weight > 0}
        (there,) = np.nonzero(weights[row])
        ids = np.asarray(found.ids)[row, there]
        assert dict(zip(ids.tolist(), weights[row, there], strict=True)) == expected
        assert len(set(ids.tolist())) == len(ids)
    assert repeats > 3  # else this showed nothing
    assert (weights[np.asarray(batch.ids) == MASK] > 0).any()


def test_of_equal_weights_the_first_is_kept() -> None:
    ids = jnp.array([[5, 4, 5, 4, 5, 6]])
    weights = jnp.array([[2.0, 1.0, 2.0, 3.0, 2.0, 0.0]])
    found = heads.strongest(ids, weights)
    np.testing.assert_array_equal(found, [[2, 0, 0, 3, 0, 0]])

    def total(weights: jax.Array) -> jax.Array:
        return heads.strongest(ids, weights).sum()

    # So the gradient reaches the strongest and no other.
    np.testing.assert_array_equal(
        np.asarray(jax.jit(jax.grad(total))(weights))[0, :5], [1, 0, 0, 1, 0]
    )


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_multivec_drops_the_first_token_and_scales_the_others(left: bool) -> None:
    batch, right = tokens(left=left), tokens()
    projected = random(*right.ids.shape, 6)
    found = heads.multivec(placed(projected, batch.mask), batch.mask)
    vectors, mask = np.asarray(found.vectors), np.asarray(found.mask)
    for row, length in enumerate(LENGTHS):
        kept = projected[row, 1:length]
        expected = kept / np.linalg.norm(kept, axis=-1, keepdims=True)
        assert mask[row].sum() == length - 1
        np.testing.assert_allclose(vectors[row, mask[row]], expected, atol=1e-6)
    assert (vectors[~mask] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[mask], axis=-1), 1, atol=1e-6)


def test_rows_of_zeros_have_a_finite_gradient() -> None:
    batch = tokens()
    zeros = jnp.zeros((*batch.ids.shape, 4))
    empty = jnp.zeros_like(batch.mask)

    def total(hidden: jax.Array) -> jax.Array:
        found = heads.multivec(hidden, batch.mask).vectors.sum()
        found += heads.multivec(hidden, empty).vectors.sum()
        for mask in (batch.mask, empty):
            some = Tokens(batch.ids, mask)
            found += heads.dense(heads.pooled(hidden, some, "mcls")).sum()
        weights = heads.sparse(hidden[..., :1], batch, SPECIAL).weights
        return found + heads.strongest(batch.ids, weights).sum()

    value, slope = jax.jit(jax.value_and_grad(total))(zeros)
    assert value == 0
    assert (np.asarray(slope) == 0).all()


def with_cls(tokens: Tokens) -> Tokens:
    """A second CLS in the first two texts, and many in the padding, which are none."""
    ids = np.where(tokens.mask, tokens.ids, 0)
    ids[np.arange(2), np.asarray(tokens.mask)[:2].argmax(1) + 4] = 0
    return Tokens(jnp.asarray(ids), tokens.mask)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "mcls"])
def test_pooling(pooling: Any, left: bool) -> None:
    batch, right = with_cls(tokens(left=left)), with_cls(tokens())
    hidden = random(*right.ids.shape, 4)
    states = placed(hidden, batch.mask)
    # The second CLS stands behind three tokens; the others are padding.
    found = heads.pooled(states, batch, pooling, mcls_every=3)
    for row, length in enumerate(LENGTHS):
        real = hidden[row, :length]
        first = np.asarray(right.ids)[row, :length] == 0
        assert first.sum() == (2 if row < 2 else 1)
        expected = {
            "cls": real[0],
            "mean": real.mean(0),
            "last": real[-1],
            "mcls": real[first].mean(0),
        }
        np.testing.assert_allclose(found[row], expected[pooling], atol=1e-6)


def test_bfloat16_states_give_float32_outputs() -> None:
    batch = tokens()
    hidden = jnp.asarray(random(*batch.ids.shape, 4)).astype(jnp.bfloat16)
    found = (
        heads.sparse(hidden[..., :1], batch, SPECIAL).weights,
        heads.multivec(hidden, batch.mask).vectors,
        heads.dense(heads.pooled(hidden, batch, "cls")),
    )
    assert {x.dtype for x in found} == {jnp.dtype("float32")}
    np.testing.assert_allclose(jnp.linalg.norm(found[2], axis=-1), 1, atol=1e-6)


def test_all_three_are_those_of_flagembedding() -> None:
    model = folder.load(GOLDEN / "m3")
    expected = np.load(GOLDEN / "m3" / "expected.npz")
    batch = Tokens(jnp.asarray(expected["ids_16"]), jnp.asarray(expected["mask_16"]))
    module = EmbeddingModule(model.config)
    found = jax.jit(
        lambda: embed(module, model.params, batch, outputs=model.config.outputs)
    )()
    assert found.sparse is not None and found.multivec is not None
    np.testing.assert_allclose(found.dense, expected["dense_16"], atol=1e-5)
    mask = np.asarray(found.multivec.mask)
    np.testing.assert_array_equal(
        np.cumsum([0, *mask.sum(1)]), expected["colbert_16_offsets"]
    )
    vectors = np.asarray(found.multivec.vectors)[mask]
    np.testing.assert_allclose(vectors, expected["colbert_16"], atol=1e-5)
    weights = np.asarray(heads.strongest(found.sparse.ids, found.sparse.weights))
    text, at = np.nonzero(weights)
    rows = sorted(
        zip(text, expected["ids_16"][text, at], weights[text, at], strict=True)
    )
    assert [row[:2] for row in rows] == list(
        zip(expected["sparse_16_text"], expected["sparse_16_id"], strict=True)
    )
    np.testing.assert_allclose(
        [row[2] for row in rows], expected["sparse_16_weight"], atol=1e-5
    )


def test_mcls_counts_no_cls_that_the_text_spells() -> None:
    hidden = jnp.arange(1.0, 8.0)[None, :, None]
    ids = jnp.array([[7, 3, 7, 7, 5, 7, 2]])  # the third, the first of n = 2, is a word
    batch = Tokens(ids, jnp.ones((1, 7), bool))
    found = heads.pooled(hidden, batch, "mcls", mcls_every=2)
    np.testing.assert_allclose(found, [[(1 + 4) / 2]])
    # Padding on the left moves all places alike.
    left = Tokens(
        jnp.concatenate([jnp.array([[7, 7]]), ids], axis=1),
        jnp.arange(9)[None] >= 2,
    )
    hidden = jnp.concatenate([jnp.full((1, 2, 1), 99.0), hidden], axis=1)
    np.testing.assert_allclose(
        heads.pooled(hidden, left, "mcls", mcls_every=2), [[2.5]]
    )
