"""Texts to embeddings: tokens, length buckets, one compiled function, input order."""

import functools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import replicated
from m3jax.core.progress import Show, bar
from m3jax.core.types import Embeddings, Params, Tokens
from m3jax.data import tokenize
from m3jax.data.tokenize import Tokenizer
from m3jax.inference import batches as batching
from m3jax.inference.batches import EncodeBatch
from m3jax.inference.encoded import Encoded
from m3jax.inference.gather import gather
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows
from m3jax.nn.embedding import (
    OUTPUTS,
    EmbeddingConfig,
    EmbeddingModule,
    check_outputs,
    embed,
)
from m3jax.ops.pooling import normalize

_CHUNK = 4_096  # texts tokenised at once; their offsets and words are dropped after


class CutWarning(UserWarning):
    """Texts were longer than the tokens that are kept.

    Attributes:
        count: how many were.
    """

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


@contextmanager
def collect_cuts() -> Iterator[list[int]]:
    """Count texts that are cut, in place of a warning; other warnings pass.

    Yields:
        A list; each call that cuts texts puts their number into it.

    Example:
        >>> with collect_cuts() as cuts:
        ...     warnings.warn(CutWarning("2 texts were cut", 2))
        >>> cuts
        [2]
    """
    cuts: list[int] = []
    with warnings.catch_warnings():
        # Whatever the filters say of warnings in general.
        warnings.simplefilter("always", CutWarning)
        show = warnings.showwarning

        def collect(message: Warning | str, *rest: Any, **named: Any) -> None:
            if isinstance(message, CutWarning):
                cuts.append(message.count)
            else:
                show(message, *rest, **named)

        warnings.showwarning = collect
        yield cuts


def encode(
    module: EmbeddingModule,
    params: Params,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    max_length: int,
    outputs: Sequence[str] = OUTPUTS,
    dim: int | None = None,
    batch_tokens: int | None = None,
    mesh: Mesh | None = None,
    progress: Show = False,
    description: str = "encode",
    warn: bool = False,
) -> Encoded:
    """Embed texts of any number and length.

    Texts are sorted by length, the longest first, so that a lack of memory shows at
    once. Each length bucket of a call has one batch shape, so it is compiled once; a
    call with fewer texts than fill a batch takes the next power of two, and a shape
    that was there before compiles nothing. While the devices work on a batch, the next
    one is prepared and the one before it is fetched.

    Args:
        module: the model.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        texts: a list or a generator; prompts are the caller's business.
        max_length: tokens kept of each text, special ones counted.
        outputs: heads to compute.
        dim: numbers kept of each dense vector, which then has length 1 again
            (Matryoshka); None = all.
        batch_tokens: tokens in a batch, padding included; None takes what is fast:
            16,384 for each share of the rows, 1,024 on a CPU.
        mesh: devices that share the rows; None uses those that hold the parameters.
        progress: show a bar on a terminal; or a function that is told how many texts
            were just encoded.
        description: what the bar says.
        warn: say with one warning how many texts were cut.

    Returns:
        One row a text, in the order of the texts; float32.

    Raises:
        InputError: an item is no text, an output is unknown, `dim` is no width of the
            model, `max_length` leaves no room for the special tokens, or
            `batch_tokens` is below 1.
    """
    texts = as_texts(texts)
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    config = module.config
    check_outputs(config, outputs)
    width = config.encoder.hidden
    if dim is not None and (not isinstance(dim, int) or not 1 <= dim <= width):
        raise InputError(f"a width from 1 to {width}", repr(dim), where="dim")
    every = config.mcls_every if config.pooling == "mcls" else None
    rows, cut = _tokenize(
        tokenizer, texts, max_length, progress is True, f"{description}: tokens", every
    )
    if warn and cut:
        message = (
            f"{cut:,} of {len(texts):,} texts are longer than {max_length:,} tokens "
            "and were cut; max_length= takes more, as far as the model does"
        )
        warnings.warn(CutWarning(message, cut), stacklevel=4)
    planned = batching.plan(
        np.array([len(row) for row in rows], np.int64),
        max_length=max_length,
        batch_tokens=(
            batching.default_tokens(mesh) if batch_tokens is None else batch_tokens
        ),
        shards=batching.shards(mesh),
    )
    params = on_devices(params, None if mesh is None else replicated(mesh))
    call = functools.partial(_embed, module=module, outputs=outputs, dim=dim, mesh=mesh)

    def run(tokens: Tokens) -> Embeddings:
        with batching.ambient(mesh):
            return call(params, tokens)

    if not planned:
        one = Tokens(*tokenize.pad([np.empty(0, np.int32)], 1, tokenizer.pad_id))
        return _rows(jax.tree.map(np.asarray, run(one)), config, 0)

    def start(batch: EncodeBatch) -> Embeddings:
        return run(batching.tokens(batch, rows, tokenizer.pad_id, mesh))

    with bar(description, len(texts), "texts", show=progress) as advance:

        def encoded() -> Iterator[tuple[np.ndarray, Encoded]]:
            for batch, found in batching.results(start, planned):
                count = len(batch.members)
                rows = _rows(jax.tree.map(np.asarray, found), config, count)
                yield batch.members, rows
                advance(count)

        return gather(encoded(), len(texts))


def ids_of(
    config: EmbeddingConfig, tokenizer: Tokenizer, texts: list[str], max_length: int
) -> list[np.ndarray]:
    """The tokens of texts as `encode` hands them to the model, int32 `[l]` each."""
    every = config.mcls_every if config.pooling == "mcls" else None
    return _tokenize(tokenizer, texts, max_length, False, "", every)[0]


def _rows(found: Embeddings, config: EmbeddingConfig, count: int) -> Encoded:
    """The first rows of a batch, on the host; the others are padding."""
    sparse, multivec = found.sparse, found.multivec
    return Encoded(
        dense=None if found.dense is None else found.dense[:count],
        sparse=None
        if sparse is None
        else SparseRows.from_tokens(
            sparse.ids[:count],
            sparse.weights[:count],
            vocab_size=config.encoder.vocab_size,
        ),
        multivec=None
        if multivec is None
        else MultivecRows.from_padded(multivec.vectors[:count], multivec.mask[:count]),
    )


def as_texts(texts: Iterable[str], *, where: str = "texts") -> list[str]:
    """Check that every item is a text that a tokenizer can read.

    Args:
        texts: a list or a generator.
        where: what the message calls them.

    Returns:
        The list.

    Raises:
        InputError: with the position of the item and what it is.

    Example:
        >>> as_texts(["one", 2])
        Traceback (most recent call last):
        m3jax.core.errors.InputError: texts[1]: expected a string, found int
    """
    if isinstance(texts, str | bytes):
        raise InputError(
            "a list of texts",
            "one text",
            where="texts",
            do='Put it in a list: ["..."].',
        )
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping):
        raise InputError("a list of texts", type(texts).__name__, where=where)
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            found = type(text).__name__
            raise InputError("a string", found, where=f"{where}[{i}]")
        try:
            text.encode()
        except UnicodeEncodeError:  # so Python spells bytes that are not UTF-8
            found = "half of a surrogate pair"
            raise InputError("Unicode text", found, where=f"{where}[{i}]") from None
    return texts


def on_devices(params: Params, sharding: jax.sharding.Sharding | None = None) -> Params:
    """Move parameters that are on the host, so that no call has to; keep the others.

    Args:
        params: arrays of numpy or jax.
        sharding: for those on the host; None = the default device.

    Returns:
        A tree of jax arrays.

    Example:
        >>> type(on_devices(np.ones(2)).sharding).__name__
        'SingleDeviceSharding'
    """
    return jax.tree.map(
        lambda leaf: (
            leaf if isinstance(leaf, jax.Array) else jax.device_put(leaf, sharding)
        ),
        params,
    )


@functools.partial(jax.jit, static_argnames=("module", "outputs", "dim", "mesh"))
def _embed(
    params: Params,
    tokens: Tokens,
    *,
    module: EmbeddingModule,
    outputs: tuple[str, ...],
    dim: int | None,
    mesh: Mesh | None,
) -> Embeddings:
    found = embed(module, params, tokens, outputs=outputs)
    if dim is not None and found.dense is not None:
        dense = normalize(found.dense[:, :dim])
        found = Embeddings(dense, found.sparse, found.multivec)
    if mesh is None:
        return found
    # Every host of a pod then holds every row, and can fetch it.
    return jax.lax.with_sharding_constraint(found, replicated(mesh))


def _tokenize(
    tokenizer: Tokenizer,
    texts: list[str],
    max_length: int,
    show: bool,
    said: str,
    every: int | None,
) -> tuple[list[np.ndarray], int]:
    """Ids of each text, and how many texts were cut."""
    room = max_length if every is None else tokenize.room_for_first(max_length, every)
    tokenize.require_room(tokenizer, room)
    rows: list[np.ndarray] = []
    cut = 0
    with bar(said, len(texts), "texts", show=show) as advance:
        for first in range(0, len(texts), _CHUNK):
            part = texts[first : first + _CHUNK]
            found, more = tokenize.encode_counted(tokenizer, part, max_length=room)
            rows += found
            cut += more
            advance(len(part))
    if every is not None:
        rows = [tokenize.repeat_first(row, every) for row in rows]
    return rows, cut
