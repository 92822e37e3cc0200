"""Whole words hidden at random, on the device."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from m3jax.core.errors import InputError
from m3jax.core.types import Leaf, Tokens
from m3jax.data.words import Words
from m3jax.nn.encoder import EncoderConfig
from m3jax.nn.qwen import QwenConfig

# Of a hidden token: how often the mask token takes its place, and some token at random.
_MASK, _RANDOM = 0.8, 0.1
# Masks that the decoder of RetroMAE chooses from, for each text.
POOL = 128
_LAST = 0xFFFFFFFF


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Masked:
    """Texts of which some tokens are to be predicted.

    Attributes:
        tokens: the texts, with other ids where a token is hidden.
        labels: int32 `[b l]`, the tokens that are hidden, -1 elsewhere.
    """

    tokens: Tokens
    labels: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecoderMasks:
    """What each position of RetroMAE's decoder does not see.

    Attributes:
        pool: bool `[b n l]`, masks of a text, True = hidden.
        choice: int32 `[b l]`, which of them holds for a position.
    """

    pool: Leaf
    choice: Leaf


def check_words(encoder: EncoderConfig, words: Words) -> None:
    """Refuse a model that cannot learn from masked words.

    Raises:
        InputError: it is causal, or the words are of another vocabulary.

    Example:
        >>> import numpy as np
        >>> words = Words(np.ones(9, bool), np.ones(9, bool), 8, (0, 8), 9)
        >>> check_words(QwenConfig(), words)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: model.encoder: expected a model whose tokens \
see both sides, to train on masked words, found a causal one
    """
    if isinstance(encoder, QwenConfig) and encoder.attention == "causal":
        raise InputError(
            "a model whose tokens see both sides, to train on masked words",
            "a causal one",
            where="model.encoder",
        )
    if words.vocab_size > encoder.vocab_size:
        raise InputError(
            f"words of the model's vocabulary of {encoder.vocab_size}",
            f"a tokenizer with {words.vocab_size}",
            where="words",
        )


def check_ratio(name: str, ratio: float) -> None:
    """Refuse a share of words that hides none or all.

    Raises:
        InputError: it is not between 0 and 1.

    Example:
        >>> check_ratio("encoder_ratio", 0.3)
    """
    if not 0 < ratio < 1:
        raise InputError("a share between 0 and 1", f"{ratio}", where=name)


def ordinary(words: Words, tokens: Tokens) -> jax.Array:
    """Tokens that are neither padding nor special: bool `[b l]`."""
    special = jnp.isin(tokens.ids, jnp.array(words.special_ids, jnp.int32))
    return tokens.mask & ~special


def number_words(words: Words, tokens: Tokens) -> jax.Array:
    """Number the words of each text from 0.

    Args:
        words: of the vocabulary.
        tokens: ids and mask `[b l]`.

    Returns:
        int32 `[b l]`, the same for all pieces of a word; what is not `ordinary` has a
        number of no use.
    """
    kept = ordinary(words, tokens)
    starts, ends = (
        jnp.take(jnp.asarray(table), tokens.ids, mode="clip")
        for table in (words.starts, words.ends)
    )
    # What stands before: a piece that ends its word, or nothing of any word.
    after = jnp.pad((ends | ~kept)[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    begins = kept & (starts | after)
    return jnp.maximum(jnp.cumsum(begins, axis=-1, dtype=jnp.int32) - 1, 0)


def mask_words(
    words: Words,
    tokens: Tokens,
    where: jax.Array,
    rng: jax.Array,
    rows: jax.Array,
    *,
    ratio: float,
) -> Masked:
    """Hide whole words of texts, for a model to predict them.

    Words in random order are hidden until their tokens are `ratio` of the text's, or
    one; the word that crosses this limit with the chance that makes the mean right, so
    that a text of one long word may stay whole. Special tokens and padding are neither
    counted nor hidden. Of the hidden tokens 80 % become the mask token, 10 % any token,
    10 % stay as they are. Everything is drawn for a row by its number, so that it is
    the same on every mesh and in every part of a batch.

    Args:
        words: of the vocabulary.
        tokens: ids and mask `[b l]`.
        where: bool `[b]`, False = there is nothing to predict in this text.
        rng: key of the step.
        rows: int `[b]`, the number of each text in the whole batch.
        ratio: share of the tokens.

    Returns:
        The texts and what is to be predicted.

    Source: Devlin et al. 2018 (arXiv:1810.04805), with whole words.

    Example:
        >>> import numpy as np
        >>> words = Words(np.ones(9, bool), np.ones(9, bool), 8, (0, 8), 9)
        >>> ids = jnp.array([[0, 5, 6, 7, 0]])
        >>> masked = mask_words(
        ...     words, Tokens(ids, ids >= 0), jnp.array([True]), jax.random.key(0),
        ...     jnp.array([3]), ratio=0.3,
        ... )
        >>> int((masked.labels >= 0).sum())
        1
    """
    keys = _keys(rng, rows, 3)
    kept, word = ordinary(words, tokens), number_words(words, tokens)
    hidden = jax.vmap(_choose, (0, 0, 0, None))(keys[:, 0], word, kept, ratio)
    length = tokens.ids.shape[1]

    def draw(key: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        drawn = jax.random.randint(other, (length,), 0, words.vocab_size)
        return jax.random.uniform(key, (length,)), drawn

    share, drawn = jax.vmap(draw)(keys[:, 1], keys[:, 2])
    instead = jnp.where(share < _MASK, words.mask_id, drawn)
    changed = hidden & (share < _MASK + _RANDOM)
    ids = jnp.where(changed, instead, tokens.ids)
    labels = jnp.where(hidden & where[:, None], tokens.ids, -1)
    return Masked(Tokens(ids, tokens.mask, tokens.segments, tokens.types), labels)


def decoder_masks(
    words: Words,
    tokens: Tokens,
    rng: jax.Array,
    rows: jax.Array,
    *,
    ratio: float,
) -> DecoderMasks:
    """Draw what each position of RetroMAE's decoder does not see.

    A text gets a pool of min(l, 128) masks of whole words, as `mask_words` chooses
    them, and each position takes one of them.

    Args:
        words: of the vocabulary.
        tokens: ids and mask `[b l]`.
        rng: key of the step.
        rows: int `[b]`, the number of each text in the whole batch.
        ratio: share of the tokens that a mask hides.

    Returns:
        The masks and which of them each position takes.

    Source: RetroMAE (arXiv:2205.12035); the pool as in FlagEmbedding.
    """
    keys = _keys(rng, rows, 2)
    kept, word = ordinary(words, tokens), number_words(words, tokens)
    length = tokens.ids.shape[1]
    count = min(length, POOL)

    def draw(
        keys: jax.Array, word: jax.Array, kept: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        each = jax.random.split(keys[0], count)
        pool = jax.vmap(_choose, (0, None, None, None))(each, word, kept, ratio)
        return pool, jax.random.randint(keys[1], (length,), 0, count)

    return DecoderMasks(*jax.vmap(draw)(keys, word, kept))


def _keys(rng: jax.Array, rows: jax.Array, count: int) -> jax.Array:
    """Keys `[b n]` that depend on the step and on a row's number alone."""
    of_row = jax.vmap(jax.random.fold_in, (None, 0))(rng, rows)
    return jax.vmap(lambda key: jax.random.split(key, count))(of_row)


def _choose(
    key: jax.Array, word: jax.Array, kept: jax.Array, ratio: float
) -> jax.Array:
    """Some of the words of one text, `ratio` of its tokens."""
    length = len(word)
    order, crossing = jax.random.split(key)
    drawn = jax.random.bits(order, (length,)) >> 1  # so that none is _LAST
    # The pieces of a word have one place in the order, and what is no word the last.
    place = jnp.where(kept, drawn[word], jnp.uint32(_LAST))
    most = jnp.maximum(ratio * kept.sum(), 1)
    at = jnp.minimum(most.astype(jnp.int32), length - 1)
    last = jnp.sort(place)[at]
    before, through = place < last, place <= last
    fewer, more = before.sum(), through.sum()
    hide = fewer + jax.random.uniform(crossing) * (more - fewer) <= most
    return kept & jnp.where(hide, through, before)
