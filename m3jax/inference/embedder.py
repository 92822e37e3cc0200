"""The model as a user holds it: texts in, embeddings out."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import folder as hub
from m3jax.inference.encode import as_texts, encode, on_devices
from m3jax.inference.encoded import Encoded
from m3jax.nn.embedding import OUTPUTS, EmbeddingModule


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
    """

    module: EmbeddingModule
    params: Params = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    prompts: Prompts
    max_length: int

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Embedder":
        """Open a model folder or a finished run.

        Args:
            path: a folder of `save`, sentence-transformers or Hugging Face, or a run.

        Returns:
            The model, its parameters on the default device.

        Raises:
            InputError: a file is missing or damaged, or the model is of another kind.

        Example:
            >>> Embedder.load("nowhere")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: nowhere: expected a local folder, found \
none. Models of the Hugging Face hub have to be downloaded first.
        """
        model = hub.load(os.fspath(path))
        return cls(
            module=EmbeddingModule(model.config),
            params=on_devices(model.params),
            tokenizer=model.tokenizer,
            prompts=model.prompts,
            max_length=model.max_length,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `load`, sentence-transformers and transformers open.

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
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: bool = False,
    ) -> Encoded:
        """Embed queries: the query prompt goes before each.

        Args:
            texts: a list or a generator of texts; one text goes into a list, too.
            outputs: heads to compute.
            batch_tokens: tokens in a batch; more are faster on a large accelerator,
                fewer need less memory.
            max_length: tokens kept of each; None keeps `self.max_length`.
            progress: show a bar on a terminal.

        Returns:
            One row a text, in the order of the texts.

        Raises:
            InputError: an item is no text, an output is unknown, or a number does
                not fit the model.
        """
        return self._encode(
            self.prompts.query,
            texts,
            outputs=outputs,
            batch_tokens=batch_tokens,
            max_length=max_length,
            progress=progress,
        )

    def encode_passage(
        self,
        texts: Iterable[str],
        *,
        outputs: Sequence[str] = OUTPUTS,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        progress: bool = False,
    ) -> Encoded:
        """Embed passages: the passage prompt goes before each; else as `encode_query`.

        Args:
            texts: a list or a generator of texts; one text goes into a list, too.
            outputs: heads to compute.
            batch_tokens: tokens in a batch; more are faster on a large accelerator,
                fewer need less memory.
            max_length: tokens kept of each; None keeps `self.max_length`.
            progress: show a bar on a terminal.

        Returns:
            One row a text, in the order of the texts.

        Raises:
            InputError: an item is no text, an output is unknown, or a number does
                not fit the model.
        """
        return self._encode(
            self.prompts.passage,
            texts,
            outputs=outputs,
            batch_tokens=batch_tokens,
            max_length=max_length,
            progress=progress,
        )

    def _encode(
        self,
        prompt: str,
        texts: Iterable[str],
        *,
        max_length: int | None,
        **options: Any,
    ) -> Encoded:
        limit = self.module.config.encoder.max_positions
        max_length = self.max_length if max_length is None else max_length
        if max_length > limit:
            raise InputError(
                f"at most max_positions={limit} tokens",
                f"{max_length}",
                where="max_length",
            )
        return encode(
            self.module,
            self.params,
            self.tokenizer,
            [prompt + text for text in as_texts(texts)],
            max_length=max_length,
            **options,
        )
