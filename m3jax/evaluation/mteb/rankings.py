"""Rankings of several modes from one encoding, as long as the task is the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from hashlib import blake2b
from typing import Any, Literal, final, get_args

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation import given, heads
from m3jax.evaluation.retrieval import Results
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import WEIGHTS, Mixture
from m3jax.nn.embedding import EmbeddingConfig

Mode = Literal["dense", "sparse", "multivec", "hybrid"]


def modes_of(config: EmbeddingConfig) -> tuple[Mode, ...]:
    """The modes that a model can search in.

    Args:
        config: of the model.

    Returns:
        Its heads, and hybrid where there are two of them.

    Example:
        >>> modes_of(EmbeddingConfig(sparse=True))
        ('dense', 'sparse', 'hybrid')
    """
    there = {*config.outputs, *(("hybrid",) if len(config.outputs) > 1 else ())}
    return tuple(mode for mode in get_args(Mode) if mode in there)


@final
class Rankings:
    """What searches found in every mode, until each mode or another task has asked.

    Args:
        embedder: the model.
        modes: that will ask.
        weights: of dense, sparse and multivec in hybrid.
        rescored: see `heads.search`.
        batch_tokens: tokens in a batch.

    Raises:
        InputError: the model lacks the head of a mode.
    """

    def __init__(
        self,
        embedder: Embedder,
        modes: Sequence[Mode],
        *,
        weights: Sequence[float] = WEIGHTS,
        rescored: int = 200,
        batch_tokens: int | None = None,
    ) -> None:
        self.embedder, self.modes = embedder, tuple(modes)
        self.outputs = _outputs(embedder.module.config, self.modes)
        self.weights, self.rescored = tuple(weights), rescored
        self.batch_tokens = batch_tokens
        self.waiting: dict[bytes, dict[str, Results]] = {}
        self.task = ""

    def take(
        self,
        mode: Mode,
        task: str,
        data: Retrieval,
        prompts: Prompts,
        k: int,
        candidates: Mapping[str, Sequence[str]] | None,
        progress: bool,
    ) -> Results:
        """The ranking of one mode; it is then no longer kept.

        Args:
            mode: which.
            task: name of the task; those of another one are let go, whoever has not
                asked for them. A task may have many subsets.
            data: queries and corpus.
            prompts: before queries and passages.
            k: passages of each query, at most.
            candidates: query id -> passages to order; None searches the corpus.
            progress: show a bar on a terminal.

        Returns:
            Query id -> passage id -> score.
        """
        if task != self.task:
            self.waiting.clear()
            self.task = task
        key = _digest(data.queries, data.corpus, astuple(prompts), k, candidates)
        if mode not in self.waiting.get(key, {}):
            found = self._search(data, prompts, k, candidates, progress)
            self.waiting[key] = {name: found[name] for name in self.modes}
        ranking = self.waiting[key].pop(mode)
        if not self.waiting[key]:
            del self.waiting[key]
        return ranking

    def _search(
        self,
        data: Retrieval,
        prompts: Prompts,
        k: int,
        candidates: Mapping[str, Sequence[str]] | None,
        progress: bool,
    ) -> dict[str, Results]:
        model = self.embedder
        options: dict[str, Any] = {
            "outputs": self.outputs,
            "k": k,
            "batch_tokens": self.batch_tokens,
            "progress": progress,
        }
        if candidates is not None:
            return given.rank(
                model,
                data,
                candidates,
                prompts=prompts,
                weights=self.weights,
                **options,
            )
        return heads.search(
            model.module,
            model.params,
            model.tokenizer,
            data,
            prompts,
            query_length=model.max_length,
            passage_length=model.max_length,
            mesh=model.mesh,
            mixtures={"hybrid": Mixture(self.weights)},
            rescored=self.rescored,
            **options,
        )


def _outputs(config: EmbeddingConfig, modes: Sequence[Mode]) -> tuple[str, ...]:
    """Heads that some modes need."""
    known = modes_of(config)
    unknown = [mode for mode in modes if mode not in known]
    if unknown or not modes:
        expected = f"one or more of {', '.join(known)}, for this model"
        raise InputError(expected, ", ".join(unknown) or "none", where="modes")
    needed = {*modes}
    if "multivec" in modes:
        needed.add("dense")  # which finds what multivec orders
    if "hybrid" in modes:
        needed.update(config.outputs)
    return tuple(name for name in config.outputs if name in needed)


def _digest(*parts: Any) -> bytes:
    """Of everything that a ranking depends on but the model."""
    found = blake2b()
    for one in parts:
        for item in one.items() if isinstance(one, Mapping) else [one]:
            found.update(json.dumps(item).encode() + b"\n")
        found.update(b"\n")
    return found.digest()
