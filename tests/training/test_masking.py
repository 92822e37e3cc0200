"""Masks of whole words: against a loop, and the same wherever a row is."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Tokens
from m3jax.data.words import Words
from m3jax.training.masking import check_ratio, decoder_masks, mask_words

V, ROWS, LENGTH = 512, 256, 40
RNG = np.random.default_rng(0)
# Ids below 5 are special; odd ones go on with a word, 7 ends one.
STARTS, ENDS = np.arange(V) % 2 == 0, np.isin(np.arange(V), [0, 1, 2, 3, 4, 7])
STARTS[:5] = True
WORDS = Words(STARTS, ENDS, 4, (0, 1, 2, 3, 4), V)


@functools.cache
def texts() -> Tokens:
    ids = RNG.integers(5, V, (ROWS, LENGTH))
    place, length = np.arange(LENGTH), RNG.integers(3, LENGTH + 1, (ROWS, 1))
    mask = place < length
    ids = np.where(place == 0, 2, np.where(place == length - 1, 3, ids))
    ids[RNG.random(ids.shape) < 0.03] = 1  # unknown ones in the middle
    ids = np.where(mask, ids, 6)  # what padding holds must not matter
    ids[5, 1:] = np.where(mask[5, 1:], 3, 6)  # nothing to hide
    ids[6, :4], mask[6] = [2, 8, 3, 6], place < 3  # one word
    return Tokens(jnp.asarray(ids, jnp.int32), jnp.asarray(mask))


def words_of(ids: np.ndarray, mask: np.ndarray) -> list[list[int]]:
    """Places of the tokens of each word, by a loop."""
    found, inside = [], False
    for at, (number, real) in enumerate(zip(ids, mask, strict=True)):
        if not real or number < 5:
            inside = False
            continue
        if inside and not STARTS[number]:
            found[-1].append(at)
        else:
            found.append([at])
        inside = not ENDS[number]
    return found


def check(hidden: np.ndarray, ratio: float) -> None:
    """Whole words, nothing else, and as many tokens as the ratio asks for."""
    ids, mask = np.asarray(texts().ids), np.asarray(texts().mask)
    total = share = 0
    for row in range(ROWS):
        words = words_of(ids[row], mask[row])
        among = [at for word in words for at in word]
        assert not np.delete(hidden[row], among).any(), "padding or special"
        assert all(len({*hidden[row][word]}) == 1 for word in words), "part of a word"
        longest = max(map(len, words), default=0)
        # Less than the word away that crosses the limit.
        off = hidden[row].sum() - max(ratio * len(among), 1)
        assert not words or abs(off) < longest + 1e-4
        total, share = total + len(among), share + hidden[row].sum()
    assert share / total == pytest.approx(ratio, abs=0.02)


@functools.partial(jax.jit, static_argnames="ratio")
def masked(texts: Tokens, step: jax.Array, rows: jax.Array, ratio: float = 0.3):
    rng = jax.random.fold_in(jax.random.key(0), step)
    return mask_words(WORDS, texts, rows != 9, rng, rows, ratio=ratio)


@pytest.mark.parametrize("ratio", [0.15, 0.3])
def test_hidden_are_whole_words(ratio: float) -> None:
    found = masked(texts(), 0, jnp.arange(ROWS), ratio)
    ids, labels = np.asarray(texts().ids), np.asarray(found.labels)
    assert (labels[9] == -1).all(), "a text that is not there"
    hidden = labels >= 0
    hidden[9] = (
        np.asarray(masked(texts(), 0, jnp.arange(ROWS) + ROWS, ratio).labels)[9] >= 0
    )
    check(hidden, ratio)
    hidden = labels >= 0
    assert (labels[hidden] == ids[hidden]).all()
    new = np.asarray(found.tokens.ids)
    others = ~hidden
    others[9] = False
    assert (new[others] == ids[others]).all()
    assert (new < V).all() and (new >= 0).all()
    assert hidden[6].tolist() == [False, True] + [False] * (LENGTH - 2)
    as_mask, kept = (new == 4)[hidden].mean(), (new == ids)[hidden].mean()
    assert as_mask == pytest.approx(0.8, abs=0.05)
    assert kept == pytest.approx(0.1, abs=0.04)


def test_masks_belong_to_row_and_step() -> None:
    rows = jnp.arange(ROWS)
    one = np.asarray(masked(texts(), 0, rows).labels)
    assert (np.asarray(masked(texts(), 0, rows).labels) == one).all()
    assert (np.asarray(masked(texts(), 1, rows).labels) != one).any(1).mean() > 0.8
    long = int(texts().mask.sum(1).argmax())
    same = jax.tree.map(lambda x: jnp.tile(x[long], (ROWS, 1)), texts())
    of_one = np.asarray(masked(same, 0, rows).labels)
    assert len(np.unique(of_one, axis=0)) > 0.9 * ROWS
    # In another place of the batch, with the same number, it is the same.
    order = np.random.default_rng(1).permutation(ROWS)
    moved = jax.tree.map(lambda x: x[order], texts())
    found = masked(moved, 0, jnp.asarray(order)).labels
    np.testing.assert_array_equal(found, one[order])


def test_masks_are_the_same_on_every_mesh() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices())
    rows = jnp.arange(ROWS)
    divided = jax.device_put((texts(), rows), batch_sharding(mesh))
    compiled = masked.lower(divided[0], 0, divided[1]).compile()
    found = compiled(divided[0], 0, divided[1])
    jax.tree.map(np.testing.assert_array_equal, found, masked(texts(), 0, rows))
    crossing = r"(all-gather|all-to-all|all-reduce|collective-permute)\("
    assert not re.findall(crossing, compiled.as_text())


def test_decoder_positions_have_masks_of_their_own() -> None:
    draw = jax.jit(functools.partial(decoder_masks, WORDS, ratio=0.5))
    found = draw(texts(), jax.random.key(1), jnp.arange(ROWS))
    pool, choice = np.asarray(found.pool), np.asarray(found.choice)
    assert pool.shape == (ROWS, LENGTH, LENGTH) and choice.shape == (ROWS, LENGTH)
    for one in (0, LENGTH - 1):
        check(pool[:, one], 0.5)
    long = np.asarray(texts().mask).sum(1) > LENGTH - 8
    assert min(len(np.unique(x, axis=0)) for x in pool[long]) > LENGTH / 2
    assert len(np.unique(choice)) == LENGTH
    assert (choice[0] != choice[1]).any()
    wide = jax.tree.map(lambda x: jnp.tile(x[:2], 5), texts())
    shape = jax.eval_shape(draw, wide, jax.random.key(1), jnp.arange(2)).pool.shape
    assert shape == (2, 128, 5 * LENGTH)


@pytest.mark.parametrize("ratio", [0, 1, 1.5])
def test_ratios_that_hide_nothing_or_all(ratio: float) -> None:
    with pytest.raises(InputError, match="share between 0 and 1"):
        check_ratio("ratio", ratio)
