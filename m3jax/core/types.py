"""The values that pass between levels, and the letters that name their dimensions.

One key for jaxtyping, einsum and einops:

    b  queries in the batch          g  passages of a query, the positive first
    q  queries being scored          p  passages being scored
    l  tokens                        i  j  token vectors of a query, of a passage
    d  hidden width                  e  embedding width
    h  k  heads, key-value heads     c  head width
    f  mlp width                     v  vocabulary
    y  layers                        n  chunks or sub-batches
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax

# What a model is given of a row: query and passages each alone, passages only, or the
# query together with each passage.
Reads = Literal["apart", "passages", "together"]
# A leaf may be an array, a tracer, a shape or a sharding, as in every jax tree.
Leaf = Any
Params = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Tokens:
    """Token ids of padded texts.

    Attributes:
        ids: int32 `[... l]`.
        mask: bool `[... l]`, True where a token is real.
        segments: int32 `[... l]`, which text of a packed row a token belongs to; None
            where every row is one text.
        types: int32 `[... l]`, 0 and 1 for the two texts of a pair; None = all 0.
    """

    ids: Leaf
    mask: Leaf
    segments: Leaf = None
    types: Leaf = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sparse:
    """Weights of the tokens of texts; a token's weight in a text is its largest one.

    Attributes:
        ids: int32 `[... l]`.
        weights: float32 `[... l]`, 0 for padding and special tokens, never negative.
    """

    ids: Leaf
    weights: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Multivec:
    """A vector for every token of texts.

    Attributes:
        vectors: float32 `[... l e]`, of length 1; zeros where the mask is False.
        mask: bool `[... l]`, False for padding and for the first token, CLS.
    """

    vectors: Leaf
    mask: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Embeddings:
    """What a model says about texts; a head that was not asked for is None.

    Attributes:
        dense: float32 `[... e]`, of length 1.
        sparse: weights of the tokens.
        multivec: vectors of the tokens.
    """

    dense: Leaf = None
    sparse: Sparse | None = None
    multivec: Multivec | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One training batch; `b` is sharded over the mesh axes data and fsdp.

    Attributes:
        query: tokens `[b l]`; None where it is not read alone.
        passage: tokens `[b g l]`, the positive first; None likewise.
        where: bool `[b g]`, False where a query has no such passage.
        query_ids: uint32 `[b 2]`, content hash of each query.
        passage_ids: uint32 `[b g 2]`, content hash of each passage.
        in_batch: bool `[b]`, False where only the own passages are negatives.
        row: int32 `[b]`, row of the data set.
        dataset: int32 `[b]`, which data set.
        teacher_scores: float32 `[b g]`; None where no teacher was asked.
        label: float32 `[b]`, how alike query and passage are; None but for such data.
        pair: tokens `[b g l]` of query and passage together, for a reranker; None where
            there is none.
    """

    query: Leaf
    passage: Leaf
    where: Leaf
    query_ids: Leaf
    passage_ids: Leaf
    in_batch: Leaf
    row: Leaf
    dataset: Leaf
    teacher_scores: Leaf = None
    label: Leaf = None
    pair: Leaf = None

    @property
    def texts(self) -> tuple[Tokens, ...]:
        """All tokens that are read."""
        found = (self.query, self.passage, self.pair)
        return tuple(tokens for tokens in found if tokens is not None)
