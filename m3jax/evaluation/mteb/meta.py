"""What mteb writes into its results about a model."""

from collections.abc import Mapping
from typing import Any, Literal

import jax

from m3jax.core.errors import InputError
from m3jax.evaluation.mteb.tasks import part
from m3jax.inference.embedder import Embedder
from m3jax.inference.fingerprint import fingerprint
from m3jax.inference.reranker import Reranker

UNNAMED = "m3jax/unnamed"
Kind = Literal["dense", "sparse", "late-interaction", "hybrid", "cross-encoder"]
_SIMILARITY = {
    "dense": "COSINE",
    "sparse": "DOT_PRODUCT",
    "late-interaction": "MAX_SIM",
    "hybrid": "CUSTOM",
    "cross-encoder": None,
}


def model_meta(
    model: Embedder | Reranker,
    name: str,
    revision: str | None,
    kind: Kind,
    *,
    width: int | None,
    instructions: bool,
    options: Mapping[str, Any],
) -> Any:
    """Describe a model for mteb.

    mteb keeps results by name, revision and options. A model without a revision takes
    the fingerprint of its weights for one, so that another model under the same name
    does not get its results.

    Args:
        model: the model.
        name: owner/name.
        revision: commit on the hub; None = the fingerprint.
        kind: mteb's word for it.
        width: numbers of an embedding.
        instructions: whether something stands before its texts.
        options: what changes its scores beside weights and prompts; None is left out.

    Returns:
        A `mteb.models.ModelMeta`.

    Raises:
        InputError: the name is not of this form, or mteb is not there.
    """
    models = part("models.model_meta")
    owner, _, rest = name.partition("/")
    if not owner or not rest or "/" in rest:
        raise InputError("owner/name", repr(name), where="name of the model")
    encoder, leaves = model.module.config.encoder, jax.tree.leaves(model.params)
    similarity = _SIMILARITY[kind]
    said = {key: value for key, value in options.items() if value is not None}
    return models.ModelMeta.create_empty(
        {
            "name": name,
            "revision": own_revision(model) if revision is None else revision,
            "framework": ["JAX"],
            "model_type": [kind],
            "n_parameters": sum(leaf.size for leaf in leaves),
            "n_embedding_parameters": encoder.vocab_size * encoder.hidden,
            "memory_usage_mb": sum(leaf.nbytes for leaf in leaves) / 2**20,
            "max_tokens": model.max_length,
            "embed_dim": width,
            "open_weights": True,
            "similarity_fn_name": similarity and models.ScoringFunction[similarity],
            "use_instructions": instructions,
            "experiment_kwargs": said or None,
        }
    )


def own_revision(model: Any) -> str:
    """Fingerprint of an embedder or a reranker, its prompts and its length.

    Args:
        model: of either kind: the fields that are hashed have the same names.

    Returns:
        16 hex digits.
    """
    rest = [str(model.max_length)]
    if isinstance(model, Embedder):
        own = model.prompts
        rest += [own.query, own.passage, own.task]
    return fingerprint(model, *rest)
