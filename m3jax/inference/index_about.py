"""What the embeddings of an index depend on."""

from collections.abc import Mapping, Sequence
from typing import Any

from m3jax.core.errors import InputError
from m3jax.inference.embedder import Embedder
from m3jax.inference.fingerprint import fingerprint
from m3jax.inference.ranking import HEADS
from m3jax.inference.vectors import Storage, check_storage
from m3jax.nn.embedding import check_outputs

NAME = "name"  # of the model, for people: two folders may hold the same one
_DO = "Build it anew (--corpus, with --fresh), or use what it was built with."


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
        InputError: the model has no such head, or takes no such dim or max_length, or
            storage is another word.
    """
    config = embedder.module.config
    names = config.outputs if outputs is None else tuple(outputs)
    check_outputs(config, names)
    sizes = {
        "dim": (dim, config.encoder.hidden),
        "max_length": (max_length, config.encoder.max_length),
    }
    for what, (size, most) in sizes.items():  # before anything is written
        if size is not None and not (isinstance(size, int) and 1 <= size <= most):
            expected = f"a number from 1 to {most:,}, as the model takes"
            raise InputError(expected, repr(size), where=what)
    return {
        NAME: embedder.name,
        "model": fingerprint(embedder, embedder.prompts.passage),
        "outputs": [name for name in HEADS if name in names],
        "dim": config.encoder.hidden if dim is None else dim,
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
dim 8. Build it anew (--corpus, with --fresh), or use what it was built with.
    """
    names = [name for name in asked if name != NAME]
    differs = [name for name in names if about.get(name) != asked[name]]
    if not differs:
        return

    def said(one: Mapping[str, Any]) -> str:
        values = dict(one)
        if one.get(NAME):
            values["model"] = f"{one[NAME]} ({one.get('model')})"
        return ", ".join(f"{name} {values.get(name)}" for name in differs)

    raise InputError(
        f"an index of {said(asked)}",
        f"one of {said(about)}",
        where=where,
        do=_DO,
    )
