"""Embedding models and rerankers, as mteb takes them."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.data.prompts import TASK, Prompts
from m3jax.evaluation.mteb.meta import UNNAMED, model_meta
from m3jax.evaluation.mteb.tasks import Wording, instruction, part, texts
from m3jax.hub.kind import kind
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker
from m3jax.nn.layers import Dtype


@final
class Encoder:
    """Dense embeddings for every task of mteb: its encoder protocol.

    Symmetric tasks (STS, classification, clustering, bitext) take the query prompt on
    both sides, as E5 and Qwen3-Embedding do. A model that takes an instruction is told
    mteb's own of the task, before queries only.

    Args:
        embedder: the model.
        name: owner/name, for mteb's results.
        revision: commit on the hub; None = a fingerprint of the weights.
        prompts: whole prompts in place of the model's; see `Wording`. KaLM, say, has no
            instruction for {"STS": "", "PairClassification": "", "Summarization": ""}.
        tasks: task of mteb -> what it is for, in place of mteb's own sentence; for
            models that take an instruction.
        dim: numbers kept of each embedding (Matryoshka); None = all.
        batch_tokens: tokens in a batch. mteb's batch_size, a number of texts, is not
            looked at.

    Attributes:
        mteb_model_meta: what mteb writes into its results.

    Raises:
        InputError: mteb is not installed, the name is not owner/name, or tasks are told
            to a model that takes none.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        name: str = UNNAMED,
        revision: str | None = None,
        prompts: Mapping[str, str] | None = None,
        tasks: Mapping[str, str] | None = None,
        dim: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.embedder, self.dim, self.batch_tokens = embedder, dim, batch_tokens
        self.wording = Wording(embedder.prompts, prompts or {}, tasks or {})
        self.mteb_model_meta = model_meta(
            embedder,
            name,
            revision,
            "dense",
            width=embedder.module.config.encoder.hidden if dim is None else dim,
            instructions=self.wording.used,
            options={"embed_dim": dim, "prompts": self.wording.digest()},
        )

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed texts of a task.

        Args:
            inputs: mteb's data loader.
            task_metadata: of the task.
            hf_split: not looked at.
            hf_subset: not looked at.
            prompt_type: query, document, or None in a symmetric task.
            kwargs: mteb's encode_kwargs, of which show_progress_bar counts.

        Returns:
            float32 `[n e]`.

        Raises:
            InputError: the task has no texts, `dim` is no width of the model, or
                another precision than float32 is asked for.
        """
        if kwargs.get("precision") not in (None, "float32"):
            precision = repr(kwargs["precision"])
            raise InputError("float32", precision, where="encode_kwargs: precision")
        dense = self.embedder.encode_query(
            texts(inputs, where=task_metadata.name),
            prompt=self.wording.before(task_metadata, prompt_type),
            outputs=("dense",),
            dim=self.dim,
            batch_tokens=self.batch_tokens,
            progress=bool(kwargs.get("show_progress_bar", True)),
        ).dense
        assert dense is not None  # it is what was asked for
        return dense

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of all pairs `[n m]`, by mteb."""
        return part("similarity_functions").cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines of the pairs of equal rows `[n]`, by mteb."""
        return part("similarity_functions").pairwise_cos_sim(embeddings1, embeddings2)


@final
class CrossEncoder:
    """A reranker for mteb's reranking tasks: its cross-encoder protocol.

    Args:
        reranker: the model.
        name: owner/name, for mteb's results.
        revision: commit on the hub; None = a fingerprint of the weights.
        tasks: task of mteb -> what it is for, in place of mteb's own sentence; for
            models that take an instruction.
        batch_tokens: tokens in a batch.

    Attributes:
        mteb_model_meta: what mteb writes into its results.

    Raises:
        InputError: mteb is not installed, the name is not owner/name, or tasks are told
            to a model that takes none.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        name: str = UNNAMED,
        revision: str | None = None,
        tasks: Mapping[str, str] | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.reranker, self.batch_tokens = reranker, batch_tokens
        reads_task = reranker.module.config.head == "yes_no"
        own = Prompts(task=TASK) if reads_task else Prompts()
        self.wording = Wording(own, {}, tasks or {})
        self.mteb_model_meta = model_meta(
            reranker,
            name,
            revision,
            "cross-encoder",
            width=None,
            instructions=reads_task,
            options={"tasks": self.wording.digest()},
        )

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Score pairs of a query and a passage.

        Args:
            inputs1: mteb's data loader of the queries.
            inputs2: of the passages, as many.
            task_metadata: of the task.
            hf_split: not looked at.
            hf_subset: not looked at.
            prompt_type: not looked at.
            kwargs: mteb's encode_kwargs, of which show_progress_bar counts.

        Returns:
            Logits, float32 `[n]`; as probabilities in float32, the best would be equal.

        Raises:
            InputError: the task has no texts.
        """
        where = task_metadata.name
        told = ""
        if self.wording.own.task:
            told = instruction(task_metadata, self.wording.tasks)
        queries, passages = texts(inputs1, where=where), texts(inputs2, where=where)
        return self.reranker.logits(
            zip(queries, passages, strict=True),
            task=told or None,
            batch_tokens=self.batch_tokens,
            progress=bool(kwargs.get("show_progress_bar", True)),
        )


def load(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    revision: str | None = None,
    dtype: Dtype = "float32",
    max_length: int | None = None,
    mesh: Mesh | None = None,
    batch_tokens: int | None = None,
) -> Encoder | CrossEncoder:
    """Open a model of the hub, a model folder or a finished run for mteb.

    Args:
        path: of an embedding model or a reranker, as `Embedder.load` and
            `Reranker.load` take it.
        name: owner/name, for mteb's results; None = the hub id, or m3jax/FOLDER.
        revision: of a hub id.
        dtype: of parameters and computation.
        max_length: tokens kept of a text or a pair; None = as the model says.
        mesh: devices that share the texts.
        batch_tokens: tokens in a batch.

    Returns:
        A model that `mteb.evaluate` takes.

    Raises:
        InputError: mteb is not installed, or there is no such model.
    """
    part("types")  # before a model is fetched
    if name is None:
        local = Path(path).exists()
        name = f"m3jax/{Path(path).resolve().name}" if local else os.fspath(path)
    options: dict[str, Any] = {
        "name": name,
        "revision": revision,
        "batch_tokens": batch_tokens,
    }
    reranks = kind(os.fspath(path), revision=revision) == "reranker"
    opener = Reranker if reranks else Embedder
    model = opener.load(path, dtype=dtype, revision=revision, mesh=mesh)
    if max_length is not None:
        model = dataclasses.replace(model, max_length=max_length)
    if isinstance(model, Reranker):
        return CrossEncoder(model, **options)
    return Encoder(model, **options)
