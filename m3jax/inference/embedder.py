"""The model as a user holds it: texts in, embeddings out."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from jax.sharding import Mesh

from m3jax.core.cache import keep_compiled
from m3jax.core.errors import InputError
from m3jax.core.progress import Show
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts, query_prompt
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import folder as hub
from m3jax.hub.model_files import Where
from m3jax.hub.positions import PositionInit
from m3jax.inference.encode import as_texts, encode
from m3jax.inference.encoded import Encoded
from m3jax.inference.scores import hybrid
from m3jax.nn.embedding import OUTPUTS, EmbeddingModule
from m3jax.nn.heads import Pooling
from m3jax.nn.layers import Dtype


@final
@dataclass(frozen=True, eq=False)
class Embedder:
    """A model with its tokenizer and prompts.

    Attributes:
        module: the Linen module; `module.config` says what it is.
        params: its parameters.
        tokenizer: texts to ids.
        prompts: what stands before queries and passages.
        max_length: tokens kept of a text, special ones counted, unless a call says.
        mesh: devices that share the texts; None = where the parameters are.
        name: what messages call it; "" = nothing.
    """

    module: EmbeddingModule
    params: Params = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    prompts: Prompts
    max_length: int
    mesh: Mesh | None = None
    name: str = ""

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: Dtype = "float32",
        pooling: Pooling | None = None,
        like: str | None = None,
        revision: str | None = None,
        max_positions: int | None = None,
        position_init: PositionInit | None = None,
        mesh: Mesh | None = None,
    ) -> "Embedder":
        """Open a model of the hub, a model folder or a finished run.

        Weights go straight to where they belong, one after the other.

        Args:
            path: hub id, or a folder of `save`, sentence-transformers, FlagEmbedding or
                Hugging Face, or a run.
            dtype: of parameters and computation.
            pooling: another one than the model says: cls, mean, last, or mcls for long
                texts and a model with cls.
            like: hub id of a model in `m3jax.nn.zoo` that a local folder has the
                pooling, the prompts and the final token of.
            revision: of a hub id: branch, tag or commit.
            max_positions: rows of a longer position table, e.g. 8,194 for an XLM-R.
            position_init: where its new rows come from, "tile" or "interpolate".
            mesh: devices over which the parameters are divided and that share the
                texts.

        Returns:
            The model.

        Raises:
            InputError: a file is missing or damaged, the model is of another kind, or
                it is neither here nor in the cache and there is no network.

        Example:
            >>> Embedder.load("nowhere")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: nowhere: expected a local folder, or a hub \
id like BAAI/bge-m3, found neither
        """
        keep_compiled()
        to: Where = "device" if mesh is None else mesh
        model = hub.load(
            os.fspath(path),
            to=to,
            dtype=dtype,
            pooling=pooling,
            like=like,
            revision=revision,
            max_positions=max_positions,
            position_init=position_init,
        )
        return cls(
            module=EmbeddingModule(model.config),
            params=model.params,
            tokenizer=model.tokenizer,
            prompts=model.prompts,
            max_length=model.max_length,
            mesh=mesh,
            name=_name(path),
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `load` and the usual clients open as it is.

        These are transformers, sentence-transformers and, for a model with sparse and
        multi-vector heads, FlagEmbedding.

        Args:
            folder: a new folder, an empty one, or an earlier export.

        Raises:
            InputError: the folder holds other files.
            OSError: the folder cannot be written to, or the disk is full.
        """
        model = hub.Model(
            config=self.module.config,
            params=self.params,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            prompts=self.prompts,
        )
        hub.save(model, os.fspath(folder))

    def encode_query(
        self,
        texts: Iterable[str],
        *,
        outputs: Sequence[str] = OUTPUTS,
        task: str | None = None,
        prompt: str | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: Show = False,
    ) -> Encoded:
        """Embed queries: the query prompt goes before each.

        Args:
            texts: a list or a generator of texts; one text goes into a list, too.
            outputs: heads to compute: dense, and sparse, multivec where the model has
                them; all come from one pass.
            task: what the search is for, in a sentence; for models that take an
                instruction, in place of their own.
            prompt: text before each query, in place of the model's prompt.
            dim: numbers kept of each dense vector (Matryoshka); None = all.
            batch_tokens: tokens in a batch; more are faster on a large accelerator,
                fewer need less memory.
            max_length: tokens kept of each; None keeps `self.max_length`.
            progress: show a bar on a terminal; or a function that is told how many
                texts were just encoded.

        Returns:
            One row a text, in the order of the texts.

        Raises:
            InputError: an item is no text, an output is unknown, the model takes no
                task, or a number does not fit the model.
        """
        if prompt is not None and task is not None:
            raise InputError("a task or a prompt", "both", where="encode_query")
        return self._encode(
            query_prompt(self.prompts, task) if prompt is None else prompt,
            texts,
            outputs=outputs,
            dim=dim,
            batch_tokens=batch_tokens,
            max_length=max_length,
            progress=progress,
        )

    def encode_passage(
        self,
        texts: Iterable[str],
        *,
        outputs: Sequence[str] = OUTPUTS,
        prompt: str | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: Show = False,
    ) -> Encoded:
        """Embed passages: the passage prompt goes before each; else as `encode_query`.

        Args:
            texts: a list or a generator of texts; one text goes into a list, too.
            outputs: heads to compute.
            prompt: text before each passage, in place of the model's prompt.
            dim: numbers kept of each dense vector (Matryoshka); None = all.
            batch_tokens: tokens in a batch; more are faster on a large accelerator,
                fewer need less memory.
            max_length: tokens kept of each; None keeps `self.max_length`.
            progress: show a bar on a terminal; or a function that is told how many
                texts were just encoded.

        Returns:
            One row a text, in the order of the texts.

        Raises:
            InputError: an item is no text, an output is unknown, or a number does
                not fit the model.
        """
        return self._encode(
            self.prompts.passage if prompt is None else prompt,
            texts,
            outputs=outputs,
            dim=dim,
            batch_tokens=batch_tokens,
            max_length=max_length,
            progress=progress,
        )

    def similarity(
        self,
        query: Encoded,
        passage: Encoded,
        *,
        weights: Sequence[float] = (1.0, 0.3, 1.0),
    ) -> np.ndarray:
        """Score all pairs by what both sides were encoded to.

        The weighted mean of the dense, sparse and multi-vector scores that both sides
        have; with dense embeddings alone these are cosines. `m3jax.scores` has each
        score for itself.

        Args:
            query: encoded queries.
            passage: encoded passages.
            weights: of dense, sparse and multivec; BGE-M3's for MIRACL by default.

        Returns:
            float32 `[q p]`.

        Raises:
            InputError: the sides have no output in common, or the weights do not fit.
        """
        names = ("dense", "sparse", "multivec")
        both = [
            getattr(query, name) is not None and getattr(passage, name) is not None
            for name in names
        ]
        if not any(both):
            expected = "an output that both sides have"
            raise InputError(expected, "none", where="similarity")
        # A wrong number of weights is for `hybrid` to refuse.
        if len(weights) == len(names):
            weights = [
                weight if there else 0.0
                for weight, there in zip(weights, both, strict=True)
            ]
        return hybrid(query, passage, weights=weights)

    def _encode(
        self,
        prompt: str,
        texts: Iterable[str],
        *,
        outputs: Sequence[str],
        dim: int | None,
        batch_tokens: int | None,
        max_length: int | None,
        progress: Show,
    ) -> Encoded:
        limit = self.module.config.encoder.max_length
        max_length = self.max_length if max_length is None else max_length
        if not isinstance(max_length, int) or max_length > limit:
            raise InputError(
                f"at most {limit} tokens, as the model takes",
                repr(max_length),
                where="max_length",
            )
        return encode(
            self.module,
            self.params,
            self.tokenizer,
            [prompt + text for text in as_texts(texts)],
            max_length=max_length,
            outputs=outputs,
            dim=dim,
            batch_tokens=batch_tokens,
            mesh=self.mesh,
            progress=progress,
            warn=True,
        )


def _name(path: str | os.PathLike[str]) -> str:
    """The id of a model of the hub, or the name of a folder or of a run."""
    if not os.path.isdir(path):
        return os.fspath(path)
    folder = Path(path).resolve()
    return (folder.parent if folder.name == "model" else folder).name
