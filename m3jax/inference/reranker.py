"""A reranker as a user holds it: pairs in, probabilities out."""

import functools
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

import jax
import numpy as np
from jax.sharding import Mesh

from m3jax.core.cache import keep_compiled
from m3jax.core.errors import InputError
from m3jax.core.mesh import replicated
from m3jax.core.progress import Show, bar
from m3jax.core.types import Params, Tokens
from m3jax.data.pairs import encode_pairs
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import reranker as hub
from m3jax.hub.model_files import Where
from m3jax.inference import batches as batching
from m3jax.inference.batches import EncodeBatch
from m3jax.inference.encode import CutWarning, as_texts
from m3jax.nn.layers import Dtype
from m3jax.nn.reranker import RerankerModule, score


@final
@dataclass(frozen=True, eq=False)
class Reranker:
    """A model that reads a query and a passage together.

    Attributes:
        module: the Linen module; `module.config` says what it is.
        params: its parameters.
        tokenizer: texts to ids.
        max_length: tokens kept of a pair, special ones counted, unless a call says.
        mesh: devices that share the pairs; None = where the parameters are.
    """

    module: RerankerModule
    params: Params = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    max_length: int
    mesh: Mesh | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: Dtype = "float32",
        revision: str | None = None,
        mesh: Mesh | None = None,
    ) -> "Reranker":
        """Open a reranker.

        Args:
            path: hub id or local folder: bge-reranker-v2-m3 and other BERT or XLM-R
                cross-encoders with one logit, Qwen3-Reranker.
            dtype: of parameters and computation.
            revision: of a hub id.
            mesh: devices over which the parameters are divided.

        Returns:
            The model.

        Raises:
            InputError: a file is missing or damaged, or the model is of another kind.

        Example:
            >>> Reranker.load("nowhere")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub \
id like BAAI/bge-m3, found neither
        """
        keep_compiled()
        to: Where = "device" if mesh is None else mesh
        model = hub.load(os.fspath(path), to=to, dtype=dtype, revision=revision)
        module = RerankerModule(model.config)
        return cls(module, model.params, model.tokenizer, model.max_length, mesh)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `load` and transformers open.

        Args:
            folder: a new folder, an empty one, or an earlier export.

        Raises:
            InputError: the folder holds other files.
            OSError: the folder cannot be written to, or the disk is full.
        """
        config = self.module.config
        model = hub.Model(config, self.params, self.tokenizer, self.max_length)
        hub.save(model, os.fspath(folder))

    def score(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        task: str | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: Show = False,
    ) -> np.ndarray:
        """Say how probably each passage answers its query: the sigmoid of `logits`.

        Args:
            pairs: (query, passage), a list or a generator.
            task: what the search is for; models with an instruction only.
            batch_tokens: tokens in a batch; None takes what is fast.
            max_length: tokens kept of each pair; None keeps `self.max_length`.
            progress: show a bar on a terminal; or a function that is told how many
                pairs were just scored.

        Returns:
            float32 `[n]` between 0 and 1, in the order of the pairs.

        Raises:
            InputError: an item is no pair of texts, a task was told to a model
                without instruction, or a number does not fit the model.
        """
        logits = self.logits(
            pairs,
            task=task,
            batch_tokens=batch_tokens,
            max_length=max_length,
            progress=progress,
        )
        # Of -|x|, so that neither side overflows.
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, small) / (1 + small)

    def logits(
        self,
        pairs: Iterable[tuple[str, str]],
        *,
        task: str | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: Show = False,
    ) -> np.ndarray:
        """Score pairs as `score` does, before the sigmoid: float32 `[n]`."""
        most = self.module.config.encoder.max_length
        max_length = self.max_length if max_length is None else max_length
        if not 1 <= max_length <= most:
            raise InputError(
                f"1 to {most} tokens, as the model takes",
                f"{max_length}",
                where="max_length",
            )
        ids, types, cut = encode_pairs(
            self.tokenizer,
            as_pairs(pairs),
            hub.pair_format(self.module.config, task),
            max_length,
        )
        if not ids:
            return np.empty(0, np.float32)
        if cut:
            message = (
                f"{cut:,} of {len(ids):,} pairs are longer than {max_length:,} tokens "
                "and were cut"
            )
            warnings.warn(CutWarning(message, cut), stacklevel=3)
        planned = batching.plan(
            np.array([len(row) for row in ids]),
            max_length=max_length,
            batch_tokens=(
                batching.default_tokens(self.mesh)
                if batch_tokens is None
                else batch_tokens
            ),
            shards=batching.shards(self.mesh),
        )

        def start(batch: EncodeBatch) -> jax.Array:
            tokens = batching.tokens(
                batch, ids, self.tokenizer.pad_id, self.mesh, types
            )
            with batching.ambient(self.mesh):
                return _score(self.params, tokens, module=self.module, mesh=self.mesh)

        found = np.empty(len(ids), np.float32)
        with bar("rerank", len(ids), "pairs", show=progress) as advance:
            for batch, logits in batching.results(start, planned):
                found[batch.members] = np.asarray(logits)[: len(batch.members)]
                advance(len(batch.members))
        return found


def as_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Check that every item is two texts.

    Raises:
        InputError: with the position of the item and what it is.

    Example:
        >>> as_pairs([("query", "passage"), ("query",)])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: pairs[1]: expected a query and a passage, \
found a tuple of 1
    """
    if isinstance(pairs, str | bytes):
        raise InputError("a list of pairs", "one text", where="pairs")
    pairs = list(pairs)
    for i, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            kind = type(pair).__name__
            size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
            raise InputError(
                "a query and a passage", f"a {kind}{size}", where=f"pairs[{i}]"
            )
    queries = as_texts((pair[0] for pair in pairs), where="queries")
    passages = as_texts((pair[1] for pair in pairs), where="passages")
    return list(zip(queries, passages, strict=True))


@functools.partial(jax.jit, static_argnames=("module", "mesh"))
def _score(
    params: Params, tokens: Tokens, *, module: RerankerModule, mesh: Mesh | None
) -> jax.Array:
    logits = score(module, params, tokens)
    if mesh is None:
        return logits
    return jax.lax.with_sharding_constraint(logits, replicated(mesh))
