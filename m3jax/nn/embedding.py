"""An encoder with its heads, and the one pure function that everything calls."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings, Params, Tokens
from m3jax.nn import heads
from m3jax.nn.bert import BertConfig
from m3jax.nn.encoder import EncoderConfig, make_encoder
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dense
from m3jax.nn.parts import in_parts

# What is computed unless more is asked for.
OUTPUTS = ("dense",)


@dataclass(frozen=True)
class EmbeddingConfig:
    """An embedding model: encoder and heads."""

    encoder: EncoderConfig = field(default_factory=BertConfig)
    pooling: Pooling = "mean"
    """How the dense vector comes from the states: first token, mean, last token, or
    mcls: the mean of a CLS put before every `mcls_every` tokens (BGE-M3, long texts;
    inference only)."""
    mlp_head: Literal["none", "training", "always"] = "none"
    """SimCSE's linear layer and tanh after the pooling: in training only
    (unsupervised) or always (supervised)."""
    sparse: bool = False
    """Whether there is a head for token weights."""
    multivec: int | None = None
    """Width of the token vectors; None = no head for them."""
    special_ids: tuple[int, ...] = ()
    """Tokens without a sparse weight: CLS, EOS, padding, unknown."""
    mcls_every: int = 256
    """Tokens from one CLS to the next, for pooling mcls."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model has heads for."""
        has = {"dense": True, "sparse": self.sparse, "multivec": bool(self.multivec)}
        return tuple(name for name, is_there in has.items() if is_there)


class EmbeddingModule(nn.Module):
    """Encoder and heads."""

    config: EmbeddingConfig

    @nn.compact
    def __call__(
        self,
        tokens: Tokens,
        *,
        outputs: Sequence[str] = OUTPUTS,
        rows: Int[Array, " b"] | None = None,
    ) -> Embeddings:
        """Embed padded texts; see `embed`."""
        config = self.config
        check_outputs(config, outputs)
        if tokens.segments is not None:
            raise InputError("one text a row", "packed rows", where="tokens.segments")
        hidden = make_encoder(config.encoder)(tokens, rows)
        dtype = jnp.dtype(config.encoder.dtype)
        found = Embeddings()
        if "dense" in outputs:
            vectors = heads.pooled(
                hidden, tokens, config.pooling, mcls_every=config.mcls_every
            )
            training = rows is not None or self.is_initializing()
            if config.mlp_head == "always" or (
                config.mlp_head == "training" and training
            ):
                width = config.encoder.hidden
                vectors = jnp.tanh(Dense(width, dtype, name="mlp_head")(vectors))
            found = Embeddings(heads.dense(vectors))
        if "sparse" in outputs:
            projected = Dense(1, dtype, name="sparse")(hidden)
            weights = heads.sparse(projected, tokens, config.special_ids)
            found = Embeddings(found.dense, weights)
        if "multivec" in outputs and config.multivec:
            projected = Dense(config.multivec, dtype, name="multivec")(hidden)
            vectors = heads.multivec(projected, tokens.mask)
            found = Embeddings(found.dense, found.sparse, vectors)
        return found


def check_outputs(config: EmbeddingConfig, outputs: Sequence[str]) -> None:
    """Refuse outputs that a model has no head for.

    Args:
        config: the model.
        outputs: what is asked for.

    Raises:
        InputError: none is asked for, or one is not there.

    Example:
        >>> check_outputs(EmbeddingConfig(), ["sparse"])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: outputs: expected one or more of dense, for \
which this model has heads, found sparse
    """
    unknown = [name for name in outputs if name not in config.outputs]
    if unknown or not outputs:
        known = ", ".join(config.outputs)
        raise InputError(
            f"one or more of {known}, for which this model has heads",
            ", ".join(map(str, unknown)) or "none",
            where="outputs",
        )


def init(module: EmbeddingModule, rng: jax.Array) -> Params:
    """Random parameters of encoder and all heads, float32.

    Example:
        >>> config = EmbeddingConfig(BertConfig(8, 4, 1, 1, 8, 4))
        >>> sorted(init(EmbeddingModule(config), jax.random.key(0)))
        ['encoder']
    """
    ids = jnp.zeros((1, 1), jnp.int32)
    tokens = Tokens(ids, ids == 0)
    return module.init(rng, tokens, outputs=module.config.outputs)["params"]


def embed(
    module: EmbeddingModule,
    params: Params,
    tokens: Tokens,
    *,
    outputs: Sequence[str] = OUTPUTS,
    rng: jax.Array | None = None,
    rows: Int[Array, " b"] | None = None,
    sub_batches: int = 1,
) -> Embeddings:
    """Texts to embeddings; the same function in training, evaluation and serving.

    With n sub-batches the texts are encoded one n-th at a time and only their
    embeddings are kept (`nn.parts.in_parts`): value and gradient are those of n = 1,
    whatever the loss does with the embeddings afterwards.

    Args:
        module: the model.
        params: its parameters.
        tokens: ids and mask `[b l]`.
        outputs: heads to compute.
        rng: key for dropout; None = no dropout.
        rows: one number a text that decides its dropout mask; counted by default.
        sub_batches: n; divides b, and b / n is divided by the batch's shards.

    Returns:
        Embeddings of each text, float32.

    Raises:
        InputError: an unknown output, or n that does not divide b.

    Source: Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> module = EmbeddingModule(EmbeddingConfig(BertConfig(8, 4, 1, 1, 8, 4)))
        >>> ids = jnp.array([[1, 2], [3, 0]])
        >>> params = init(module, jax.random.key(0))
        >>> embed(module, params, Tokens(ids, ids > 0)).dense.shape
        (2, 4)
    """
    if rows is None and rng is not None:
        rows = jnp.arange(tokens.ids.shape[0])
    rngs = None if rng is None else {"dropout": rng}

    def apply(params: Params, texts: tuple[Tokens, jax.Array | None]) -> Embeddings:
        tokens, rows = texts
        embeddings = module.apply(
            {"params": params},
            tokens,
            outputs=outputs,
            rows=None if rng is None else rows,
            rngs=rngs,
        )
        assert isinstance(embeddings, Embeddings)  # no mutable state comes with it
        return embeddings

    return in_parts(apply, params, (tokens, rows), sub_batches)
