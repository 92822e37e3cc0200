"""Texts to embeddings: tokens, length buckets, one compiled function, input order."""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, batch_shards, replicated
from m3jax.core.progress import bar
from m3jax.core.types import Embeddings, Params, Tokens
from m3jax.data import tokenize
from m3jax.data.tokenize import Tokenizer
from m3jax.inference.encoded import Encoded
from m3jax.nn.embedding import OUTPUTS, EmbeddingModule, embed

# 16, 32, 48, 64, 96, 128, 192, ...: from 64 on, less than a third is padding.
RUNGS = (16, *(rung << i for i in range(12) for rung in (32, 48)))
_CHUNK = 4_096  # texts tokenised at once; their offsets and words are dropped after


@dataclass(frozen=True)
class EncodeBatch:
    """One call of the compiled function.

    Attributes:
        length: tokens of each row, padding included.
        rows: rows, padding included; equal in all batches of one length.
        members: numbers of the texts, at most `rows`.
    """

    length: int
    rows: int
    members: np.ndarray


def encode(
    module: EmbeddingModule,
    params: Params,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    max_length: int,
    outputs: Sequence[str] = OUTPUTS,
    batch_tokens: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    description: str = "encode",
) -> Encoded:
    """Embed texts of any number and length.

    Texts are sorted by length, the longest first, so that a lack of memory shows at
    once. Each length bucket has one batch shape, so it is compiled once; a later call
    with the same module and shapes compiles nothing. While the devices work on a
    batch, the next one is prepared and the one before it is fetched.

    Args:
        module: the model.
        params: its parameters, where and how they are.
        tokenizer: of the model.
        texts: a list or a generator; prompts are the caller's business.
        max_length: tokens kept of each text, special ones counted.
        outputs: heads to compute.
        batch_tokens: tokens in a batch, padding included; None takes what is fast:
            16,384 for each share of the rows, 2,048 on a CPU.
        mesh: devices that share the rows; None uses those that hold the parameters.
        progress: show a bar on a terminal.
        description: what the bar says.

    Returns:
        One row a text, in the order of the texts; float32.

    Raises:
        InputError: an item is no text, an output is unknown, `max_length` leaves no
            room for the special tokens, or `batch_tokens` is below 1.
    """
    texts = as_texts(texts)
    outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    rows = _tokenize(tokenizer, texts, max_length, progress, f"{description}: tokens")
    shards = 1 if mesh is None else batch_shards(mesh)
    if batch_tokens is None:
        batch_tokens = shards * (2_048 if jax.default_backend() == "cpu" else 16_384)
    batches = plan(
        np.array([len(row) for row in rows], np.int64),
        max_length=max_length,
        batch_tokens=batch_tokens,
        shards=shards,
    )
    params = on_devices(params, None if mesh is None else replicated(mesh))
    run = functools.partial(_embed, module=module, outputs=outputs, mesh=mesh)
    if not batches:
        one = Tokens(*tokenize.pad([np.empty(0, np.int32)], 1, tokenizer.pad_id))
        shape = jax.eval_shape(run, params, one).dense.shape
        return Encoded(np.empty((0, shape[-1]), np.float32))

    dense = None
    flying: list[tuple[EncodeBatch, Embeddings]] = []
    with bar(description, len(texts), "texts", show=progress) as advance:
        for batch in [*batches, None]:
            if batch is not None:
                tokens = _tokens(batch, rows, tokenizer.pad_id, mesh)
                flying.append((batch, run(params, tokens)))
            if batch is None or len(flying) > 1:
                done, embeddings = flying.pop(0)
                part = np.asarray(embeddings.dense)
                if dense is None:
                    dense = np.empty((len(texts), part.shape[-1]), np.float32)
                dense[done.members] = part[: len(done.members)]
                advance(len(done.members))
    return Encoded(dense)


def plan(
    lengths: np.ndarray, *, max_length: int, batch_tokens: int, shards: int
) -> list[EncodeBatch]:
    """Sort texts into batches, the longest first.

    A batch has batch_tokens // length rows, rounded down to a multiple of the shards;
    a bucket with fewer texts takes the next power of two instead.

    Args:
        lengths: int `[n]`, tokens of each text; none above `max_length`.
        max_length: the last bucket.
        batch_tokens: tokens in a batch, padding included.
        shards: divides the rows of every batch.

    Returns:
        Batches that hold every text once.

    Raises:
        InputError: `batch_tokens` is below 1.

    Example:
        >>> lengths = np.array([3, 40, 5, 4])
        >>> for batch in plan(lengths, max_length=64, batch_tokens=32, shards=1):
        ...     print(batch.length, batch.rows, batch.members)
        48 1 [1]
        16 2 [2 3]
        16 2 [0]
    """
    if batch_tokens < 1:
        raise InputError("a positive number", f"{batch_tokens}", where="batch_tokens")
    edges = np.array([*(rung for rung in RUNGS if rung < max_length), max_length])
    order = np.argsort(-lengths, kind="stable")
    buckets = np.searchsorted(edges, lengths[order])
    batches = []
    for bucket in np.unique(buckets)[::-1]:
        length = int(edges[bucket])
        members = order[buckets == bucket]
        power = 1 << (len(members) - 1).bit_length()
        most = max(shards, batch_tokens // length // shards * shards)
        rows = min(most, -(-power // shards) * shards)
        batches += [
            EncodeBatch(length, rows, members[first : first + rows])
            for first in range(0, len(members), rows)
        ]
    return batches


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


@functools.partial(jax.jit, static_argnames=("module", "outputs", "mesh"))
def _embed(
    params: Params,
    tokens: Tokens,
    *,
    module: EmbeddingModule,
    outputs: tuple[str, ...],
    mesh: Mesh | None,
) -> Embeddings:
    embeddings = embed(module, params, tokens, outputs=outputs)
    if mesh is None:
        return embeddings
    # Every host of a pod then holds every row, and can fetch it.
    return jax.lax.with_sharding_constraint(embeddings, replicated(mesh))


def _tokenize(
    tokenizer: Tokenizer, texts: list[str], max_length: int, show: bool, said: str
) -> list[np.ndarray]:
    rows: list[np.ndarray] = []
    with bar(said, len(texts), "texts", show=show) as advance:
        for first in range(0, len(texts), _CHUNK):
            part = texts[first : first + _CHUNK]
            rows += tokenize.encode(tokenizer, part, max_length=max_length)
            advance(len(part))
    # A tokenizer that cannot fit its special tokens does not truncate at all.
    longest = max((len(row) for row in rows), default=0)
    if max_length < 1 or longest > max_length:
        raise InputError(
            "room for the special tokens", f"{max_length} tokens", where="max_length"
        )
    return rows


def _tokens(
    batch: EncodeBatch, rows: Sequence[np.ndarray], pad_id: int, mesh: Mesh | None
) -> Tokens:
    """Padded arrays of a batch; rows without a text are all padding."""
    present = [rows[i] for i in batch.members]
    absent = [np.empty(0, np.int32)] * (batch.rows - len(present))
    tokens = Tokens(*tokenize.pad(present + absent, batch.length, pad_id))
    if mesh is None:
        return tokens
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(
            array.shape, sharding, array.__getitem__
        ),
        tokens,
    )
