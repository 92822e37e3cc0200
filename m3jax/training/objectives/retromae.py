"""RetroMAE: an encoder that has to put a text into one vector."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.core.mesh import BATCH_AXES, batch_shards, split_rows
from m3jax.core.types import Batch, Params
from m3jax.data.words import Words
from m3jax.losses.language import retromae_sides
from m3jax.nn import masked_lm as head
from m3jax.nn import retromae as decoder
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import hidden_states
from m3jax.nn.parts import in_parts
from m3jax.ops.pooling import pool
from m3jax.training.masking import (
    check_ratio,
    check_words,
    decoder_masks,
    mask_words,
    ordinary,
)
from m3jax.training.objectives.base import Objective, Terms, for_all
from m3jax.training.objectives.masked_lm import words_at_once
from m3jax.training.objectives.texts import WHOLE, SubBatches, parts, passages


@dataclass(frozen=True)
class RetroMAEConfig:
    """Pre-training before contrastive training; reads passages only."""

    encoder_ratio: float = 0.3
    """Share of the tokens that the encoder does not see, whole words at a time."""
    decoder_ratio: float = 0.5
    """Share that a position of the decoder does not see."""


def retromae(
    module: EmbeddingModule,
    mesh: Mesh,
    config: RetroMAEConfig,
    words: Words,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """Masked words by the encoder, and the whole text by a weak decoder.

    mean_t l_t of the words that the encoder does not see + mean_t l_t of all tokens but
    the first and special ones, which one decoder layer rebuilds from the encoder's
    state of the first token and from half of the text. Both means are over the batch
    of all devices; head and word table are shared.

    Args:
        module: a BERT with pooling "cls".
        mesh: over which the batch is divided.
        config: how much is hidden.
        words: of the tokenizer.
        sub_batches: parts in which the passages are read.

    Returns:
        The objective; decoder and head are trained beside the model.

    Raises:
        InputError: a model of another kind or with another pooling, other words than
            the model's, or a ratio that hides nothing or all.

    Source: RetroMAE (arXiv:2205.12035); BGE-M3 (arXiv:2402.03216).
    """
    encoder = module.config.encoder
    if not isinstance(encoder, BertConfig):
        raise InputError(
            "a BERT or an XLM-R to train with RetroMAE",
            type(encoder).__name__.removesuffix("Config"),
            where="model.encoder",
        )
    if module.config.pooling != "cls":
        raise InputError(
            "cls, the state that RetroMAE trains",
            module.config.pooling,
            where="model.pooling",
            do="--model.pooling cls sets it.",
        )
    check_words(encoder, words)
    check_ratio("objective.encoder_ratio", config.encoder_ratio)
    check_ratio("objective.decoder_ratio", config.decoder_ratio)

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra, step
        tokens, where = passages(batch)
        size, length = tokens.ids.shape
        keys = jax.random.split(rng, 4)

        def apply(params: Params, texts: tuple) -> tuple[tuple, tuple]:
            tokens, where, rows = texts
            masked = mask_words(
                words, tokens, where, keys[0], rows, ratio=config.encoder_ratio
            )
            seen = hidden_states(encoder, params, masked.tokens, rng=keys[1], rows=rows)
            masks = decoder_masks(
                words, tokens, keys[2], rows, ratio=config.decoder_ratio
            )
            rebuilt = decoder.decode(
                encoder,
                params,
                pool(seen, tokens.mask, "cls"),
                tokens,
                masks.pool,
                masks.choice,
                rng=keys[3],
                rows=rows,
            )
            states = tuple(head.transform(encoder, params, x) for x in (seen, rebuilt))
            first = tokens.mask & (jnp.cumsum(tokens.mask, axis=-1) == 1)
            told = ordinary(words, tokens) & ~first & where[:, None]
            return states, (masked.labels, jnp.where(told, tokens.ids, -1))

        count = parts(sub_batches, size, length, batch_shards(mesh))
        texts = tokens, where, split_rows(jnp.arange(size))
        states, labels = in_parts(apply, params, texts, count)

        def local(states: tuple, labels: tuple, shared: tuple) -> tuple:
            table, bias = shared
            (seen, rebuilt), (hidden, told) = states, labels
            return retromae_sides(
                seen,
                rebuilt,
                table,
                hidden,
                told,
                bias=bias,
                tile=words_at_once(mesh, len(table)),
                axis_name=BATCH_AXES,
            )

        rows = P(BATCH_AXES)
        of_encoder, of_decoder = jax.shard_map(
            local, mesh=mesh, in_specs=(rows, rows, P()), out_specs=P()
        )(states, labels, head.table(encoder, params))
        hidden, all_tokens = (jnp.sum(x >= 0) for x in labels)
        return for_all(
            of_encoder + of_decoder,
            len(batch.where),
            {
                "encoder_loss": of_encoder,
                "decoder_loss": of_decoder,
                "hidden_share": hidden / jnp.maximum(all_tokens, 1),
            },
        )

    def auxiliary(rng: jax.Array) -> Params:
        one, two = jax.random.split(rng)
        return {**head.init(encoder, one), **decoder.init(encoder, two)}

    return Objective(loss, reads="passages", auxiliary=auxiliary)
