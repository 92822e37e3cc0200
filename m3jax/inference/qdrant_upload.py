"""A corpus and its embeddings sent to Qdrant, as often as it takes."""

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from m3jax.core.errors import InputError
from m3jax.core.progress import Show, bar
from m3jax.data.corpora import few
from m3jax.inference.encode import CutWarning, as_texts, collect_cuts
from m3jax.inference.encoded import Encoded
from m3jax.inference.qdrant_calls import REQUEST_BYTES, call, groups
from m3jax.inference.qdrant_collection import (
    HASH,
    create,
    payload,
    point_id,
    read_record,
    require_about,
    require_widths,
    vectors,
    widths,
)

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models


@dataclass(frozen=True)
class Uploaded:
    """What an upload has done.

    Attributes:
        sent: passages that were new or had changed.
        kept: passages that were there already, as they are.
    """

    sent: int
    kept: int


def upload(
    client: "QdrantClient",
    collection: str,
    corpus: Mapping[str, str] | Iterable[tuple[str, str]],
    encode: Encoded | Callable[[list[str]], Encoded],
    *,
    about: Mapping[str, str | int],
    more: Mapping[str, Mapping[str, Any]] | None = None,
    batch: int = 128,
    request_bytes: int = REQUEST_BYTES,
    options: Mapping[str, Any] | None = None,
    progress: Show = False,
) -> Uploaded:
    """Put passages into a collection, which is made if there is none.

    Each output becomes a named vector: dense, sparse, and multivec with MaxSim. The
    same call again, after a stop or with a corpus that has grown, neither encodes nor
    sends what is there; a passage whose text or fields have changed is replaced. What
    is not in the corpus stays.

    Args:
        client: of `qdrant.connect`.
        collection: its name.
        corpus: passage id -> text, or (id, text) after (id, text).
        encode: makes embeddings of texts, e.g. `Embedder.encode_passage`; or the
            embeddings of the whole corpus, in its order.
        about: what the embeddings depend on, e.g. by `qdrant.about`; it is kept with
            the collection, and embeddings of another model are refused.
        more: passage id -> further fields of its payload, beside _id and text.
        batch: passages that are looked for and encoded at once.
        request_bytes: most bytes that are sent at once, but for one passage that has
            more of them; a server takes 32 MB unless it is told otherwise.
        options: further arguments of `QdrantClient.create_collection`, e.g.
            {"shard_number": 4, "on_disk_payload": True}.
        progress: show a bar on a terminal; or a function that is told how many
            passages were just finished.

    Returns:
        How many were sent, and how many were there.

    Raises:
        InputError: there is no passage or an id comes twice, the collection was made by
            another model or with other outputs or widths, or the server refuses or
            stays away; the same call then goes on where it stopped.

    Example:
        >>> import numpy as np
        >>> from m3jax.inference.qdrant import connect
        >>> client, corpus = connect(":memory:"), {"a": "a fox", "b": "a wolf"}
        >>> def encode(texts):
        ...     return Encoded(np.ones((len(texts), 4), np.float32) / 2)
        >>> upload(client, "texts", corpus, encode, about={"model": "ones"})
        Uploaded(sent=2, kept=0)
        >>> corpus["b"] = "a grey wolf"
        >>> upload(client, "texts", corpus, encode, about={"model": "ones"})
        Uploaded(sent=1, kept=1)
    """
    if batch < 1:
        raise InputError("a positive number", f"{batch}", where="batch")
    records: Iterable[Any] = corpus.items() if isinstance(corpus, Mapping) else corpus
    if isinstance(encode, Encoded):
        records = list(records)
        _require_rows(encode, len(records))
    record = read_record(client, collection)
    if record is not None:
        require_about(record, about, collection)
    total = len(records) if isinstance(records, Sized) else None
    sent = kept = 0
    with (
        collect_cuts() as cuts,
        bar("upload", total, "passages", show=progress) as advance,
    ):
        for names, texts in _batches(records, batch):
            start = sent + kept
            fields = {
                point_id(name): payload(name, text, (more or {}).get(name, {}))
                for name, text in zip(names, texts, strict=True)
            }
            there = {}
            if record is not None:
                there = _hashes(client, collection, list(fields), done=start)
            new = [
                i
                for i, (key, content) in enumerate(fields.items())
                if there.get(key) != content[HASH]
            ]
            kept += len(names) - len(new)
            if new:
                if isinstance(encode, Encoded):
                    encoded = encode[[start + i for i in new]]
                else:
                    encoded = encode([texts[i] for i in new])
                    _require_rows(encoded, len(new))
                if record is None:
                    record = _made(client, collection, about, encoded, options)
                require_widths(record, widths(encoded), collection)
                for group in groups(_points(encoded, fields, new), request_bytes):
                    _send(client, collection, group, done=sent + kept)
                    sent += len(group)
            advance(len(names))
    if not sent + kept:
        raise InputError("a passage to upload", "none", where="corpus")
    if cuts:  # said once, not batch by batch
        message = f"{sum(cuts):,} texts were longer than what is kept of them"
        warnings.warn(CutWarning(message, sum(cuts)), stacklevel=2)
    return Uploaded(sent, kept)


def _batches(
    records: Iterable[tuple[str, str]], size: int
) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts, some at a time, and of an id that came before no more of them.

    16 bytes of each id are kept. After the first that comes twice, the rest is only
    read to count the others.
    """
    seen: set[bytes] = set()
    again: dict[str, None] = {}
    rows = iter(records)
    while part := list(itertools.islice(rows, size)):
        names = as_texts([name for name, _ in part], where="corpus ids")
        texts = as_texts([text for _, text in part], where="corpus texts")
        for name in names:
            known = blake2b(name.encode(), digest_size=16).digest()
            if known in seen:
                again[name] = None
            seen.add(known)
        if not again:
            yield names, texts
    if again:
        found = f"{len(again):,} again: {few(again)}"
        raise InputError("a new id for each passage", found, where="corpus")


def _hashes(
    client: "QdrantClient", collection: str, keys: list[str], *, done: int
) -> dict[str, str]:
    """What is there of some passages: point id -> hash of its content."""
    points = call(
        lambda: client.retrieve(collection, keys, with_payload=[HASH]),
        where=f"collection {collection!r}",
        do=_go_on(done),
    )
    return {str(point.id): (point.payload or {}).get(HASH, "") for point in points}


def _made(
    client: "QdrantClient",
    collection: str,
    about: Mapping[str, str | int],
    encoded: Encoded,
    options: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Make the collection, and read what the server has kept of its record."""
    create(client, collection, about, widths(encoded), options or {})
    record = read_record(client, collection)
    assert record is not None
    require_about(record, about, collection)  # another upload may have been faster
    return record


def _points(
    encoded: Encoded, fields: Mapping[str, dict[str, Any]], rows: list[int]
) -> list["models.PointStruct"]:
    from qdrant_client import models

    items = list(fields.items())
    return [
        models.PointStruct(id=key, vector=vectors(encoded, at), payload=content)
        for at, (key, content) in enumerate(items[row] for row in rows)
    ]


def _send(
    client: "QdrantClient",
    collection: str,
    points: Sequence["models.PointStruct"],
    *,
    done: int,
) -> None:
    call(
        lambda: client.upsert(collection, points=points, wait=True),
        where=f"collection {collection!r}",
        do=_go_on(done),
    )


def _go_on(done: int) -> str:
    return f"{done:,} passages are in it; the same call again goes on from there."


def _require_rows(encoded: Encoded, count: int) -> None:
    if not widths(encoded):
        raise InputError("embeddings", "none", where="upload: encode")
    if len(encoded) != count:
        expected = f"{count:,} embeddings, one a passage"
        raise InputError(expected, f"{len(encoded):,}", where="upload: encode")
