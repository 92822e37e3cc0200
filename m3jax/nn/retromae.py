"""RetroMAE's decoder: one weak layer that rebuilds a text from its embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from m3jax.core.mesh import split_rows
from m3jax.core.types import Params, Tokens
from m3jax.nn.bert import BertConfig, Mlp
from m3jax.nn.layers import Dense, Embed, RowDropout, positions
from m3jax.ops import attention

# Under this name its parameters stand beside those of the encoder.
NAME = "decoder"

# As in an encoder, whose layers are stacked and have one dimension more.
SHARDING = {
    rf"(^|\.){NAME}\.(.*\.)?(query|key|value|up)\.kernel$": P("fsdp", "tensor"),
    rf"(^|\.){NAME}\.(.*\.)?(query|key|value|up)\.bias$": P("tensor"),
    rf"(^|\.){NAME}\.(.*\.)?(output|down)\.kernel$": P("tensor", "fsdp"),
}


class Decoder(nn.Module):
    """A post-norm layer whose queries know nothing but position and embedding.

    Keys and values are the text's state, and from its second token on the text itself,
    not masked. The residual adds the query.
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b l d"],
        text: Float[Array, "b l d"],
        state: Float[Array, "b d"],
        mask: Bool[Array, "b l"],
        pool: Bool[Array, "b n l"],
        choice: Int[Array, "b l"],
        rows: Int[Array, " b"] | None,
    ) -> Float[Array, "b l d"]:
        """Norm(x + attention(x, [state; text])), then the MLP."""
        config, dtype, shape = self.config, jnp.dtype(self.config.dtype), x.shape
        x = split_rows(RowDropout(config.dropout, name="query_dropout")(x, rows))
        text = RowDropout(config.dropout, name="text_dropout")(text, rows)
        first = mask & (jnp.cumsum(mask, axis=-1) == 1)
        text = jnp.where(first[..., None], state.astype(dtype)[:, None], text)
        text = split_rows(text)
        heads = (*shape[:2], config.heads, config.hidden // config.heads)
        query, key, value = (
            Dense(config.hidden, dtype, name=name)(of).reshape(heads)
            for name, of in (("query", x), ("key", text), ("value", text))
        )
        attended = attend(query, key, value, mask, first, pool, choice)
        attended = Dense(config.hidden, dtype, name="output")(attended.reshape(shape))
        attended = RowDropout(config.dropout)(attended, rows)
        x = nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype, name="norm")(
            x + attended
        )
        return split_rows(Mlp(config, name="mlp")(x, rows))


def embedding_block(
    config: BertConfig, encoder: Params, x: Float[Array, "b l d"], tokens: Tokens
) -> Float[Array, "b l d"]:
    """Norm(x + position + type), with the tables of the encoder, as `Bert` begins.

    Args:
        config: of the encoder.
        encoder: its parameters.
        x: word vectors, or what stands in their place.
        tokens: ids and mask `[b l]`.

    Returns:
        States before the first layer, without dropout.
    """
    dtype = jnp.dtype(config.dtype)
    types = jnp.zeros_like(tokens.ids) if tokens.types is None else tokens.types

    def look_up(name: str, rows: int, ids: jax.Array) -> jax.Array:
        table = Embed(rows, config.hidden, dtype)
        found = table.apply({"params": encoder[name]}, ids)
        assert isinstance(found, jax.Array)  # no mutable state comes with it
        return found

    position = config.first_position + positions(tokens)
    x = x + look_up("position", config.max_positions, position)
    x = x + look_up("token_type", config.type_vocab, types)
    norm = nn.LayerNorm(epsilon=config.norm_eps, dtype=dtype)
    normed = norm.apply({"params": encoder["norm"]}, x)
    assert isinstance(normed, jax.Array)  # nor here
    return normed


def init(config: BertConfig, rng: jax.Array) -> Params:
    """Random parameters of the decoder, under its name.

    Example:
        >>> params = init(BertConfig(8, 4, 1, 1, 8, 4), jax.random.key(0))
        >>> sorted(params["decoder"])
        ['key', 'mlp', 'norm', 'output', 'query', 'value']
    """
    x, state = jnp.zeros((1, 1, config.hidden)), jnp.zeros((1, config.hidden))
    mask, choice = jnp.ones((1, 1), bool), jnp.zeros((1, 1), jnp.int32)
    given = x, x, state, mask, mask[None], choice, None
    return {NAME: Decoder(config).init(rng, *given)["params"]}


def decode(
    config: BertConfig,
    params: Params,
    state: Float[Array, "b d"],
    tokens: Tokens,
    pool: Bool[Array, "b n l"],
    choice: Int[Array, "b l"],
    *,
    rng: jax.Array | None = None,
    rows: Int[Array, " b"] | None = None,
) -> Float[Array, "b l d"]:
    """Rebuild texts from their embeddings.

    Queries are the encoder's embedding block with the state in place of every word,
    norm(state + position + type). A position sees the state, and of the text's other
    tokens those that its mask of the pool does not hide; never itself.

    Args:
        config: of the encoder.
        params: of encoder and decoder.
        state: of each text's first token, from the encoder, not normalised.
        tokens: ids and mask `[b l]`, nothing of them masked.
        pool: masks of each text, True = hidden.
        choice: which of them holds for a position.
        rng: key for dropout, another than the encoder's; None = no dropout.
        rows: one number a text that decides its dropout mask, given with `rng`.

    Returns:
        States in the computation dtype, for the head that the encoder uses too.

    Source: RetroMAE (arXiv:2205.12035), section 3.3; queries with the whole embedding
    block as in FlagEmbedding, where RetroMAE's own code adds positions only.

    Example:
        >>> from m3jax.nn import bert
        >>> config, rng = BertConfig(8, 4, 1, 1, 8, 4), jax.random.key(0)
        >>> ids = jnp.array([[1, 2, 3]])
        >>> tokens = Tokens(ids, ids > 0)
        >>> params = {"encoder": bert.Bert(config).init(rng, tokens)["params"]}
        >>> params |= init(config, rng)
        >>> pool = jnp.ones((1, 2, 3), bool)
        >>> decode(config, params, jnp.ones((1, 4)), tokens, pool, ids % 2).shape
        (1, 3, 4)
    """
    encoder, dtype = params["encoder"], jnp.dtype(config.dtype)
    words = Embed(config.vocab_size, config.hidden, dtype).apply(
        {"params": encoder["word"]}, tokens.ids
    )
    assert isinstance(words, jax.Array)  # no mutable state comes with it
    spread = jnp.broadcast_to(state.astype(dtype)[:, None], words.shape)
    decoded = Decoder(config).apply(
        {"params": params[NAME]},
        embedding_block(config, encoder, spread, tokens),
        embedding_block(config, encoder, words, tokens),
        state,
        tokens.mask,
        pool,
        choice,
        None if rng is None else rows,
        rngs=None if rng is None else {"dropout": rng},
    )
    assert isinstance(decoded, jax.Array)  # nor here
    return decoded


def attend(
    query: Float[Array, "b l h c"],
    key: Float[Array, "b l h c"],
    value: Float[Array, "b l h c"],
    mask: Bool[Array, "b l"],
    first: Bool[Array, "b l"],
    pool: Bool[Array, "b n l"],
    choice: Int[Array, "b l"],
) -> Float[Array, "b l h c"]:
    """Attention in which each query has a mask of its own.

    Queries go in blocks where the scores would pass `ops.attention.SCORE_BUDGET`, and
    the backward pass makes them again: neither scores nor masks are `[l l]` then.

    Args:
        query: queries.
        key: keys.
        value: values.
        mask: True where a token is real; other tokens are never seen.
        first: the token that every query sees.
        pool: masks, True = hidden.
        choice: which of them holds for a query.

    Returns:
        The attended values, in the dtype of `value`.
    """
    rows, length, heads, width = query.shape
    size = attention.queries_at_once(rows, length, heads)
    blocks = -(-length // size)
    dtypes = key.dtype, value.dtype
    # The gradients of all blocks are summed in the dtype that crosses into the loop.
    wide = key.astype(jnp.float32), value.astype(jnp.float32)

    @jax.checkpoint
    def one(block: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        query, choice, position = block
        key, value = (x.astype(dtype) for x, dtype in zip(wide, dtypes, strict=True))
        hidden = jax.vmap(lambda masks, at: masks[at])(pool, choice)
        hidden |= (position[:, None] == jnp.arange(length)[None])[None]
        seen = mask[:, None] & (first[:, None] | ~hidden)
        scores = jnp.einsum(
            "bihc,bjhc->bhij",
            query * width**-0.5,
            key,
            preferred_element_type=jnp.float32,
        )
        # The lowest finite number: a text without a token stays finite.
        lowest = jnp.finfo(jnp.float32).min
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, lowest), axis=-1)
        return jnp.einsum("bhij,bjhc->bihc", weights.astype(value.dtype), value)

    def split(x: jax.Array) -> jax.Array:  # [b l ...] -> [n b i ...]
        padding = ((0, 0), (0, blocks * size - length), *[(0, 0)] * (x.ndim - 2))
        x = jnp.pad(x, padding).reshape(rows, blocks, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    place = jnp.arange(blocks * size).reshape(blocks, size)
    parts = split(query), split(choice), place
    attended = jnp.moveaxis(jax.lax.map(one, parts), 0, 1)
    return attended.reshape(rows, -1, heads, width)[:, :length]
