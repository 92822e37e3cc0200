"""Queries and passages of a batch to embeddings, a part at a time where memory asks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import einops
import jax
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards
from m3jax.core.types import Batch, Embeddings, Params, Tokens
from m3jax.nn.embedding import EmbeddingModule, embed

# BGE-M3: texts that a device encodes at once, by the least length in tokens; its
# training code's `split-batch`.
_BGE_M3 = (
    (6_000, 1),
    (5_000, 2),
    (4_000, 3),
    (3_000, 3),
    (2_000, 5),
    (1_000, 9),
    (512, 16),
    (0, 32),
)


@dataclass(frozen=True)
class SubBatches:
    """Parts in which a batch is encoded, to save memory; the result is the same."""

    count: int = 1
    """Parts of every batch, of queries and of passages."""
    tokens: int = 0
    """Tokens, padding included, that a device encodes at once, in place of a count: of
    long texts a part holds fewer."""
    preset: Literal["", "bge_m3"] = ""
    """Texts that a device encodes at once, by their length, as published."""


WHOLE = SubBatches()


def parts(config: SubBatches, rows: int, length: int, shards: int) -> int:
    """Into how many parts some texts are divided before they are encoded.

    Args:
        config: count, tokens or preset.
        rows: texts, over all devices.
        length: tokens that each is padded to.
        shards: into how many shares the devices divide the rows.

    Returns:
        The count as it is, or the smallest number that divides the texts of a device
        and leaves no more of them to a part than tokens or preset allow.

    Source: Gao et al. 2021 (arXiv:2101.06983); BGE-M3 (arXiv:2402.03216), appendix B.

    Example:
        >>> parts(SubBatches(tokens=1_024), rows=64, length=256, shards=2)
        8
        >>> parts(SubBatches(preset="bge_m3"), rows=48, length=1_000, shards=1)
        6
    """
    most = 0
    if config.preset:
        most = next(texts for least, texts in _BGE_M3 if length >= least)
    elif config.tokens:
        most = max(1, config.tokens // length)
    if not most:
        return config.count
    here = rows // shards
    return next(n for n in range(1, here + 1) if here % n == 0 and here // n <= most)


def encode_texts(
    module: EmbeddingModule,
    params: Params,
    tokens: Tokens,
    rng: jax.Array | None,
    *,
    mesh: Mesh,
    sub_batches: SubBatches,
    outputs: Sequence[str],
) -> Embeddings:
    """Embed `[b l]` texts in parts; see `nn.embedding.embed`."""
    rows, length = tokens.ids.shape
    count = parts(sub_batches, rows, length, batch_shards(mesh))
    return embed(module, params, tokens, rng=rng, outputs=outputs, sub_batches=count)


def encode_batch(
    module: EmbeddingModule,
    params: Params,
    batch: Batch,
    rng: jax.Array,
    *,
    mesh: Mesh,
    sub_batches: SubBatches,
    outputs: Sequence[str],
) -> tuple[Embeddings, Embeddings]:
    """Embed the queries and the passages of a batch, each side with its own dropout.

    Args:
        module: the model.
        params: its parameters.
        batch: tokens of queries `[b l]` and of passages `[b g l]`.
        rng: key for dropout.
        mesh: over which the batch is divided.
        sub_batches: parts, to save memory.
        outputs: heads to compute.

    Returns:
        Embeddings `[b ...]` of queries and `[b g ...]` of passages.
    """
    query_rng, passage_rng = jax.random.split(rng)
    options = {"mesh": mesh, "sub_batches": sub_batches, "outputs": outputs}
    flat = jax.tree.map(
        lambda x: einops.rearrange(x, "b g l -> (b g) l"), batch.passage
    )
    query = encode_texts(module, params, batch.query, query_rng, **options)
    passage = encode_texts(module, params, flat, passage_rng, **options)
    g = batch.where.shape[1]
    return query, jax.tree.map(
        lambda x: einops.rearrange(x, "(b g) ... -> b g ...", g=g), passage
    )


def passages(batch: Batch) -> tuple[Tokens, jax.Array]:
    """The passages of a batch in one row of texts, `[(b g) l]`, and which are there.

    Raises:
        InputError: it has none.
    """
    if batch.passage is None:
        raise InputError("passages", "none", where="batch")
    flat = jax.tree.map(
        lambda x: einops.rearrange(x, "b g l -> (b g) l"), batch.passage
    )
    return flat, batch.where.reshape(-1)
