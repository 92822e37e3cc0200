"""What the embeddings of an index depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder
from m3jax.inference.fingerprint import fingerprint
from m3jax.inference.ranking import HEADS
from m3jax.inference.vectors import Storage, check_storage
from m3jax.nn.embedding import check_outputs


def describe(
    embedder: Embedder,
    *,
    outputs: Sequence[str] | None = None,
    dim: int | None = None,
    max_length: int | None = None,
    storage: Storage = "float32",
) -> dict[str, Any]:
    """What the embeddings of an index depend on; see `Index.build`.

    Args:
        embedder: the model: weights, config, tokenizer and passage prompt.
        outputs: heads to keep; None = all that the model has.
        dim: numbers kept of each dense vector; None = all.
        max_length: tokens kept of a passage; None = what the model says.
        storage: of dense and multivec.

    Returns:
        Values of JSON.

    Raises:
        InputError: the model has no such head, or storage is another word.
    """
    names = embedder.module.config.outputs if outputs is None else tuple(outputs)
    check_outputs(embedder.module.config, names)
    return {
        "model": fingerprint(embedder, embedder.prompts.passage),
        "outputs": [name for name in HEADS if name in names],
        "dim": embedder.module.config.encoder.hidden if dim is None else dim,
        "max_length": embedder.max_length if max_length is None else max_length,
        "storage": check_storage(storage),
    }


def require_same(
    about: Mapping[str, Any], asked: Mapping[str, Any], *, where: str
) -> None:
    """Refuse an index that is of something else than what is asked of it.

    Args:
        about: what the index says of itself.
        asked: what it should say.
        where: what the message calls it.

    Raises:
        InputError: names what differs, and both values.

    Example:
        >>> require_same({"dim": 8}, {"dim": 16}, where="wiki")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: wiki: expected an index of dim 16, found one of \
dim 8. Build it anew (--fresh), or use what it was built with.
    """
    differs = {name for name in asked if about.get(name) != asked[name]}
    if not differs:
        return

    def said(one: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {one.get(name)}" for name in asked if name in differs)

    raise InputError(
        f"an index of {said(asked)}",
        f"one of {said(about)}",
        where=where,
        do="Build it anew (--fresh), or use what it was built with.",
    )
