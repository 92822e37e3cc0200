"""Exact search: the best passages of each query, and a corpus kept on disk."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.fields import json_object, string
from m3jax.data.lines import lines
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import as_texts
from m3jax.inference.encoded import DENSE, Encoded, require_own
from m3jax.inference.fingerprint import fingerprint
from m3jax.ops import scores as ops

PASSAGES, META = "passages.jsonl", "meta.json"
_QUERIES = 256  # scored at once: the largest array is float32 [_QUERIES, tile]


def top_k(
    query: np.ndarray | jax.Array,
    passage: np.ndarray | jax.Array,
    k: int,
    *,
    tile: int = 16_384,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k passages with the largest inner products, for each query; exact.

    Passages stream through the device in tiles, of which each leaves its best k: no
    more than 256 x tile scores exist at once, and a memory-mapped corpus is read one
    tile at a time.

    Args:
        query: float32 `[q e]`.
        passage: float32 `[p e]`.
        k: how many; at most p are returned.
        tile: passages scored at once.

    Returns:
        Scores float32 `[q k]`, the largest first, and passage numbers int64 `[q k]`;
        of equal scores the lower number comes first.

    Raises:
        InputError: k or tile is below 1, or the widths differ.

    Example:
        >>> found, at = top_k(np.eye(2, dtype=np.float32), np.ones((3, 2)), 2)
        >>> at.tolist()
        [[0, 1], [0, 1]]
    """
    for name, number in (("k", k), ("tile", tile)):
        if number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    if query.shape[1] != passage.shape[1]:
        raise InputError(
            f"passages of width {query.shape[1]}, as the queries",
            f"{passage.shape[1]}",
            where="top_k",
        )
    count, k = len(query), min(k, len(passage))
    scores, at = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    if k == 0:
        return scores, at
    rows, tile = min(_QUERIES, _power(count)), min(tile, len(passage))
    for first in range(0, count, rows):
        part = _padded(query[first : first + rows], rows)
        best = (
            jnp.full((rows, k), -jnp.inf, jnp.float32),
            jnp.zeros((rows, k), jnp.int32),
        )
        for start in range(0, len(passage), tile):
            some = _padded(passage[start : start + tile], tile)
            best = _merge(best, part, some, start, len(passage))
        size = min(rows, count - first)
        scores[first : first + size] = np.asarray(best[0])[:size]
        at[first : first + size] = np.asarray(best[1])[:size]
    return scores, at


@dataclass(frozen=True, eq=False)
class Index:
    """A corpus with its embeddings.

    Attributes:
        ids: of the passages.
        texts: of the passages.
        encoded: their embeddings, in the same order.
        about: what the embeddings depend on; see `fingerprints`.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    encoded: Encoded
    about: Mapping[str, str | int]

    @classmethod
    def build(
        cls,
        embedder: Embedder,
        corpus: Mapping[str, str],
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> "Index":
        """Encode a corpus.

        Args:
            embedder: the model.
            corpus: passage id -> text.
            batch_tokens: tokens in a batch; see `encode.encode`.
            progress: show a bar on a terminal.

        Returns:
            The index, in memory.

        Raises:
            InputError: an id or a text is no text.
        """
        ids = as_texts(corpus.keys(), where="corpus ids")
        texts = as_texts(corpus.values(), where="corpus texts")
        encoded = embedder.encode_passage(
            texts, batch_tokens=batch_tokens, progress=progress
        )
        return cls(tuple(ids), tuple(texts), encoded, fingerprints(embedder, corpus))

    def search(self, query: Encoded, *, k: int = 10) -> list[list[tuple[str, float]]]:
        """Find the k best passages of each query, by the dense score.

        Args:
            query: encoded queries.
            k: how many, at most the size of the corpus.

        Returns:
            For each query its passages as (id, score), the best first.

        Raises:
            InputError: k is below 1, or the query has other outputs or widths.
        """
        if query.dense is None or self.encoded.dense is None:
            raise InputError("dense embeddings", "none", where="search")
        scores, at = top_k(query.dense, self.encoded.dense, k)
        return [
            [(self.ids[i], score) for i, score in zip(*row, strict=True)]
            for row in zip(at.tolist(), scores.tolist(), strict=True)
        ]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `Index.open` maps; it is either whole or not there.

        Args:
            folder: a new folder, or one that was written by this function.

        Raises:
            InputError: the folder holds other things.
            OSError: the folder cannot be written to, or the disk is full.
        """
        folder = Path(folder)
        require_own(folder, {PASSAGES, META, DENSE})
        with files.new_folder(folder) as new:
            with open(new / PASSAGES, "w", encoding="utf-8", newline="\n") as file:
                file.writelines(_lines(dict(zip(self.ids, self.texts, strict=True))))
            files.write_text(new / META, json.dumps(dict(self.about), indent=2) + "\n")
            self.encoded.write(new)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Index":
        """Read ids and texts of a saved index, and map its embeddings.

        Args:
            folder: written by `save`.

        Returns:
            The index.

        Raises:
            InputError: a file is missing or damaged, or they do not fit together.
        """
        folder = Path(folder)
        rows = [json_object(line, where=at) for at, line in lines(folder / PASSAGES)]
        try:
            ids = tuple(string(row, "_id") for row in rows)
            texts = tuple(string(row, "text") for row in rows)
        except InputError as error:
            raise error.at(str(folder / PASSAGES)) from None
        encoded = Encoded.open(folder)
        if len(encoded) != len(ids):
            raise InputError(
                f"{len(ids)} embeddings, one a passage",
                f"{len(encoded)}",
                where=str(folder),
            )
        return cls(ids, texts, encoded, _read_meta(folder / META))


def fingerprints(embedder: Embedder, corpus: Mapping[str, str]) -> dict[str, str | int]:
    """Hash everything that the embeddings of a corpus depend on.

    Args:
        embedder: the model: weights, config, tokenizer and passage prompt.
        corpus: passage id -> text.

    Returns:
        model and corpus as 16 hex digits each, and max_length.
    """
    text = blake2b(digest_size=8)
    for line in _lines(corpus):
        text.update(line.encode())
    return {
        "model": fingerprint(embedder, embedder.prompts.passage),
        "corpus": text.hexdigest(),
        "max_length": embedder.max_length,
    }


@jax.jit
def _merge(
    best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
    query: Float[Array, "q e"],
    passage: Float[Array, "p e"],
    start: Int[Array, ""],
    count: Int[Array, ""],
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Keep the best of what was found before and of one more tile."""
    k = best[0].shape[1]
    at = start + jnp.arange(len(passage))
    scores = ops.dense(query, passage)
    # The sort tells -0 from 0; and rows that only fill up the tile are no passages.
    scores = jnp.where(scores == 0, 0, scores)
    scores = jnp.where(at[None] < count, scores, -jnp.inf)
    scores, place = jax.lax.top_k(scores, min(k, len(passage)))
    # Of equal scores top_k takes the first: the earlier tile, the lower number.
    scores = jnp.concatenate([best[0], scores], axis=1)
    at = jnp.concatenate([best[1], at[place]], axis=1)
    scores, place = jax.lax.top_k(scores, k)
    return scores, jnp.take_along_axis(at, place, axis=1)


def _power(number: int) -> int:
    """The next power of two, so that few shapes are compiled."""
    return 1 << (number - 1).bit_length()


def _padded(rows: np.ndarray | jax.Array, size: int) -> np.ndarray | jax.Array:
    if len(rows) == size:
        return rows
    return np.pad(np.asarray(rows), ((0, size - len(rows)), (0, 0)))


def _lines(corpus: Mapping[str, str]) -> Iterator[str]:
    for name, text in corpus.items():
        yield json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n"


def _read_meta(path: Path) -> dict[str, str | int]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("a file", "none", where=str(path)) from None
    except ValueError as error:
        raise InputError("JSON", str(error), where=str(path)) from None
