"""Models that read a query and a passage together and say one number."""

from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from m3jax.core.types import Params, Tokens
from m3jax.nn.bert import BertConfig
from m3jax.nn.encoder import EncoderConfig, make_encoder
from m3jax.nn.layers import Dense, low_rank_pair
from m3jax.nn.parts import in_parts
from m3jax.ops.pooling import pool


@dataclass(frozen=True)
class RerankerConfig:
    """A reranker: encoder, and how a score comes from its states."""

    encoder: EncoderConfig = field(default_factory=BertConfig)
    head: Literal["classifier", "yes_no"] = "classifier"
    """Linear, tanh, linear on the first token (bge-reranker), or the logit of "yes"
    less that of "no" after the last token (Qwen3-Reranker)."""
    yes_no_ids: tuple[int, int] = (9_693, 2_152)
    """Ids of "yes" and "no"."""
    tied: bool = True
    """Whether logits come from the word table, or from a matrix of their own."""


class LmHead(nn.Module):
    """The matrix [d, v] of a language model, of which a few columns are used."""

    vocab_size: int

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b d"], ids: tuple[int, ...]
    ) -> Float[Array, "b n"]:
        """Logits of some tokens."""
        shape = (hidden.shape[-1], self.vocab_size)
        kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
        at = jnp.array(ids)
        rows = kernel[:, at].T
        if pair := low_rank_pair(self.variables["params"]):
            a, b, scale = pair
            rows = rows + (a @ b[:, at]).T * scale
        return _logits(hidden, rows)


class RerankerModule(nn.Module):
    """Encoder and score."""

    config: RerankerConfig

    @nn.compact
    def __call__(
        self, tokens: Tokens, rows: Int[Array, " b"] | None = None
    ) -> Float[Array, " b"]:
        """Score padded pairs; see `score`."""
        config = self.config
        hidden = make_encoder(config.encoder)(tokens, rows)
        if config.head == "classifier":
            first = pool(hidden, tokens.mask, "cls")
            return Classifier(config.encoder.hidden, name="classifier")(first)[:, 0]
        last = pool(hidden, tokens.mask, "last")
        if config.tied:
            word = self.variables["params"]["encoder"]["word"]
            logits = _logits(last, _rows_of(word, config.yes_no_ids))
        else:
            head = LmHead(config.encoder.vocab_size, name="lm_head")
            logits = head(last, config.yes_no_ids)
        return logits[:, 0] - logits[:, 1]


class Classifier(nn.Module):
    """out(tanh(dense(x))), in float32."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b 1"]:
        """One logit a row."""
        dtype = jnp.dtype("float32")
        return Dense(1, dtype, name="out")(
            jnp.tanh(Dense(self.hidden, dtype, name="dense")(x))
        )


def init(module: RerankerModule, rng: jax.Array) -> Params:
    """Random parameters, float32.

    Example:
        >>> config = RerankerConfig(BertConfig(8, 4, 1, 1, 8, 4))
        >>> sorted(init(RerankerModule(config), jax.random.key(0)))
        ['classifier', 'encoder']
    """
    ids = jnp.zeros((1, 1), jnp.int32)
    return module.init(rng, Tokens(ids, ids == 0))["params"]


def score(
    module: RerankerModule,
    params: Params,
    tokens: Tokens,
    *,
    rng: jax.Array | None = None,
    rows: Int[Array, " b"] | None = None,
    sub_batches: int = 1,
) -> Float[Array, " b"]:
    """Say how well passages answer queries, as logits.

    classifier: the one logit. yes_no: h (w_yes - w_no) at the last token, which is all
    that the softmax over both needs; no other logit is made. The sigmoid of either is
    the probability that the passage answers.

    Args:
        module: the model.
        params: its parameters.
        tokens: ids and mask `[b l]` of a query and a passage together.
        rng: key for dropout; None = no dropout.
        rows: one number a pair that decides its dropout mask; counted by default.
        sub_batches: parts in which the pairs are read, to save memory.

    Returns:
        float32 logits.

    Raises:
        InputError: `sub_batches` does not divide the pairs.

    Source: FlagEmbedding (classifier), model card of Qwen3-Reranker (yes_no).

    Example:
        >>> module = RerankerModule(RerankerConfig(BertConfig(8, 4, 1, 1, 8, 4)))
        >>> ids = jnp.array([[1, 2], [3, 0]])
        >>> params = init(module, jax.random.key(0))
        >>> score(module, params, Tokens(ids, ids > 0)).shape
        (2,)
    """
    if rng is not None and rows is None:
        rows = jnp.arange(tokens.ids.shape[0])

    def apply(params: Params, pairs: tuple[Tokens, jax.Array | None]) -> jax.Array:
        tokens, rows = pairs
        logits = module.apply(
            {"params": params},
            tokens,
            None if rng is None else rows,
            rngs=None if rng is None else {"dropout": rng},
        )
        assert isinstance(logits, jax.Array)  # no mutable state comes with it
        return logits

    return in_parts(apply, params, (tokens, rows), sub_batches)


def _rows_of(word: Params, ids: tuple[int, ...]) -> Float[Array, "n d"]:
    """Rows of the word table, with its low-rank pair where it has one."""
    at = jnp.array(ids)
    rows = word["embedding"][at]
    if pair := low_rank_pair(word):
        a, b, scale = pair
        rows = rows + a[at] @ b * scale
    return rows


def _logits(
    hidden: Float[Array, "b d"], rows: Float[Array, "n d"]
) -> Float[Array, "b n"]:
    return jnp.einsum(
        "bd,nd->bn",
        hidden,
        rows.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
