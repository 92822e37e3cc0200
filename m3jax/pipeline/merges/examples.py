"""Weights of models by a few examples of a task (LM-Cocktail)."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.data.config import Dataset
from m3jax.data.records import Pairs
from m3jax.data.sources.open import open_source
from m3jax.hub.model_files import place_all
from m3jax.inference.encode import encode
from m3jax.merging import cocktail_weights
from m3jax.nn.embedding import EmbeddingModule
from m3jax.pipeline.merges.parents import Parent

_MOST = 256  # rows that are read
_NEGATIVES = 7
_TEMPERATURE = 0.05  # of the cosines


def read_examples(path: str) -> list[Pairs]:
    """Read rows of a query, its answer and perhaps negatives.

    Args:
        path: as `Dataset.path`.

    Returns:
        The first 256 rows.

    Raises:
        InputError: a row is something else, or there are fewer than two.
    """
    found: list[Pairs] = []
    source = open_source(Dataset(path))
    for number in itertools.islice(range(len(source)), _MOST):
        row = source[number]
        if not isinstance(row, Pairs):
            expected = "rows of query, pos and perhaps neg"
            raise InputError(expected, type(row).__name__, where=path)
        found.append(row)
    if len(found) < 2:
        raise InputError("two examples or more", f"{len(found)}", where=path)
    return found


def example_weights(
    parents: Sequence[Parent],
    examples: Sequence[Pairs],
    *,
    temperature: float,
    max_length: int,
    mesh: Mesh | None = None,
) -> tuple[list[float], list[float]]:
    """Weigh models by their loss on examples; one after the other is in memory.

    The loss is InfoNCE of the dense embeddings at temperature 0.05: each query's first
    answer against up to 7 negatives of its own and the passages of the others.

    Args:
        parents: embedding models.
        examples: the rows.
        temperature: of the weights; see `merging.cocktail_weights`.
        max_length: tokens kept of each text.
        mesh: devices that share the rows.

    Returns:
        Losses and weights, one a model.

    Raises:
        InputError: a reranker, which has no embedding.

    Source: Xiao et al. 2023 (LM-Cocktail, arXiv:2311.13534).
    """
    found = []
    for one in parents:
        if one.kind == "reranker":
            raise InputError("an embedding model", "a reranker", where=one.name)
        found.append(_loss(one, examples, max_length=max_length, mesh=mesh))
    return found, cocktail_weights(found, temperature=temperature).tolist()


def _loss(
    parent: Parent, examples: Sequence[Pairs], *, max_length: int, mesh: Mesh | None
) -> float:
    model = parent.model
    params = place_all(parent.parts, mesh or "device", dtype="float32")
    groups = [(row.pos[0], *row.neg[:_NEGATIVES]) for row in examples]
    size = max(map(len, groups))
    # A missing passage is an empty text that counts nowhere.
    passages = [text for row in groups for text in (*row, *[""] * (size - len(row)))]
    where = np.array([[n < len(row) for n in range(size)] for row in groups])
    query, passage = (
        encode(
            EmbeddingModule(model.config),
            params,
            model.tokenizer,
            [prompt + text for text in texts],
            max_length=min(max_length, model.max_length),
            mesh=mesh,
        ).dense
        for prompt, texts in (
            (model.prompts.query, [row.query for row in examples]),
            (model.prompts.passage, passages),
        )
    )
    assert query is not None and passage is not None  # what encode does by default
    loss = losses.info_nce(
        jnp.asarray(query),
        jnp.asarray(passage).reshape(len(groups), size, -1),
        temperature=_TEMPERATURE,
        where=jnp.asarray(where),
    )
    return float(loss.mean())
