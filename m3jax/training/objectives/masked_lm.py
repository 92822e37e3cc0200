"""Masked words as an objective, alone or beside a contrastive loss."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.mesh import BATCH_AXES, batch_shards, split_rows
from m3jax.core.types import Batch, Params, Tokens
from m3jax.data.words import Words
from m3jax.nn import masked_lm as head
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import EncoderConfig, hidden_states
from m3jax.nn.parts import in_parts
from m3jax.training.masking import check_ratio, check_words, mask_words, ordinary
from m3jax.training.objectives.base import Objective, Terms, for_all
from m3jax.training.objectives.texts import WHOLE, SubBatches, parts, passages

# FLOPs by bytes of v5p: 166, of v5e: 240; 6 FLOPs and some 40 bytes a weight and tile.
_AT_ONCE = 1_024
# Words of which the loss takes more by itself.
_SMALL = 32_768


@dataclass(frozen=True)
class MaskedLMConfig:
    """Training on masked words, as BERT; reads passages only."""

    ratio: float = 0.15
    """Share of the tokens that are hidden, whole words at a time."""


def masked_lm(
    module: EmbeddingModule,
    mesh: Mesh,
    config: MaskedLMConfig,
    words: Words,
    sub_batches: SubBatches = WHOLE,
) -> Objective:
    """Cross-entropy of hidden words, the mean over them in the batch of all devices.

    Args:
        module: the model.
        mesh: over which the batch is divided.
        config: how much is hidden.
        words: of the tokenizer.
        sub_batches: parts in which the passages are read.

    Returns:
        The objective; the head for masked words is trained beside the model.

    Raises:
        InputError: a causal model, other words than the model's, or a ratio that hides
            nothing or all.

    Source: Devlin et al. 2018 (arXiv:1810.04805), with whole words.
    """
    encoder = module.config.encoder
    check_words(encoder, words)
    check_ratio("objective.ratio", config.ratio)

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        del extra, step
        tokens, where = passages(batch)
        states = _states(
            encoder,
            params,
            tokens,
            where,
            rng,
            words=words,
            ratio=config.ratio,
            mesh=mesh,
            sub_batches=sub_batches,
        )
        mean = _mean_loss(encoder, params, *states, mesh=mesh)
        hidden = (states[1] >= 0).sum()
        share = hidden / jnp.maximum(
            (ordinary(words, tokens) & where[:, None]).sum(), 1
        )
        return for_all(mean, len(batch.where), {"hidden_share": share})

    return Objective(
        loss, reads="passages", auxiliary=lambda rng: head.init(encoder, rng)
    )


def words_at_once(mesh: Mesh, vocabulary: int) -> int | Literal["auto"]:
    """Tokens whose logits exist at once, on each device: the `tile` of a loss on words.

    Each tile reads the table of all words, and its gradient, from memory. Where a
    device multiplies hundreds of numbers while it reads one, 1,024 tokens take as long
    to multiply as the table takes to read: of a large vocabulary, as many are taken as
    that, at 4 KiB of logits a word. Else the loss's own measure holds, of 128 MiB.

    Args:
        mesh: the devices.
        vocabulary: words.

    Returns:
        How many.

    Example:
        >>> from m3jax.core.mesh import make_mesh
        >>> from m3jax.core.mesh_config import MeshConfig
        >>> words_at_once(make_mesh(MeshConfig(), jax.devices("cpu")[:1]), 250_002)
        'auto'
    """
    small = vocabulary <= _SMALL or mesh.devices.flat[0].platform == "cpu"
    return "auto" if small else _AT_ONCE


def with_masked_lm(
    objective: Objective,
    module: EmbeddingModule,
    mesh: Mesh,
    words: Words,
    sub_batches: SubBatches = WHOLE,
    *,
    weight: float = 0.1,
    ratio: float = 0.15,
) -> Objective:
    """Add a loss on masked words to an objective: l + weight l_mlm.

    All texts of a batch are read once more, masked, and l_mlm is the mean over their
    hidden tokens, queries and passages together. Whole words are hidden, where SimCSE's
    code hides single tokens.

    Args:
        objective: what it is added to.
        module: the model.
        mesh: over which the batch is divided.
        words: of the tokenizer.
        sub_batches: parts in which the masked texts are read.
        weight: of the loss that is added.
        ratio: share of the tokens that are hidden.

    Returns:
        The objective of both.

    Raises:
        InputError: as `masked_lm`.

    Source: SimCSE (arXiv:2104.08821), section 4.
    """
    encoder = module.config.encoder
    check_words(encoder, words)
    check_ratio("objective.mlm_ratio", ratio)

    def loss(
        params: Params, extra: object, batch: Batch, step: jax.Array, rng: jax.Array
    ) -> Terms:
        own, *others = jax.random.split(rng, 3)
        terms = objective.loss(params, extra, batch, step, own)
        sides = [passages(batch)]
        if batch.query is not None:
            sides.append((batch.query, batch.where[:, 0]))
        b = len(batch.where)
        read = []
        for (tokens, where), key in zip(sides, others, strict=False):
            found = _states(
                encoder,
                params,
                tokens,
                where,
                key,
                words=words,
                ratio=ratio,
                mesh=mesh,
                sub_batches=sub_batches,
            )
            # All texts of a row side by side, so that one walk makes the logits.
            read.append(
                jax.tree.map(
                    lambda x: einops.rearrange(x, "(b g) l ... -> b (g l) ...", b=b),
                    found,
                )
            )
        states = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *read)
        added = _mean_loss(encoder, params, *states, mesh=mesh)
        each = jnp.full(terms.loss.shape, added)
        metrics = {**terms.metrics, "mlm": jax.lax.stop_gradient(each)}
        return dataclasses.replace(
            terms, loss=terms.loss + weight * each, metrics=metrics
        )

    def auxiliary(rng: jax.Array) -> Params:
        own, other = jax.random.split(rng)
        return {**objective.auxiliary(own), **head.init(encoder, other)}

    return dataclasses.replace(objective, loss=loss, auxiliary=auxiliary)


def _states(
    encoder: EncoderConfig,
    params: Params,
    tokens: Tokens,
    where: jax.Array,
    rng: jax.Array,
    *,
    words: Words,
    ratio: float,
    mesh: Mesh,
    sub_batches: SubBatches,
) -> tuple[jax.Array, jax.Array]:
    """States `[b l d]` of masked texts behind the head, and labels `[b l]`."""
    size, length = tokens.ids.shape
    mask_rng, dropout_rng = jax.random.split(rng)

    def apply(params: Params, texts: tuple) -> tuple[jax.Array, jax.Array]:
        tokens, where, rows = texts
        masked = mask_words(words, tokens, where, mask_rng, rows, ratio=ratio)
        states = hidden_states(
            encoder, params, masked.tokens, rng=dropout_rng, rows=rows
        )
        return head.transform(encoder, params, states), masked.labels

    count = parts(sub_batches, size, length, batch_shards(mesh))
    texts = tokens, where, split_rows(jnp.arange(size))
    return in_parts(apply, params, texts, count)


def _mean_loss(
    encoder: EncoderConfig,
    params: Params,
    states: jax.Array,
    labels: jax.Array,
    *,
    mesh: Mesh,
) -> jax.Array:
    """Over the hidden tokens of all devices; 0 where there are none."""
    table, bias = head.table(encoder, params)

    tile = words_at_once(mesh, len(table))

    def local(
        states: jax.Array, labels: jax.Array, table: jax.Array, bias: jax.Array
    ) -> jax.Array:
        found = losses.masked_lm(states, table, labels, bias=bias, tile=tile).sum()
        number = (labels >= 0).sum()
        total, number = jax.lax.psum((found, number), BATCH_AXES)
        return total / jnp.maximum(number, 1)

    rows = P(BATCH_AXES)
    return jax.shard_map(
        local, mesh=mesh, in_specs=(rows, rows, P(), P()), out_specs=P()
    )(states, labels, table, bias)
