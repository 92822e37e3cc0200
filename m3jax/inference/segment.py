"""A part of an index: some passages with their embeddings, never changed again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.records import content_hash
from m3jax.inference import manifest
from m3jax.inference.best import Best
from m3jax.inference.dense_search import top_k
from m3jax.inference.encoded import Encoded
from m3jax.inference.finite import require_finite
from m3jax.inference.postings import Postings
from m3jax.inference.strings import Strings
from m3jax.inference.token_vectors import TokenVectors
from m3jax.inference.vectors import Storage, Vectors

IDS, TEXTS, DENSE = "ids", "texts", "dense"


@dataclass(frozen=True, eq=False)
class Segment:
    """Some passages of an index.

    Attributes:
        ids: of the passages.
        texts: of the passages.
        dense: `[n e]`, or None.
        sparse: their token weights, by token, or None.
        multivec: their token vectors, or None.
    """

    ids: tuple[str, ...]
    texts: Sequence[str]
    dense: Vectors | None = None
    sparse: Postings | None = None
    multivec: TokenVectors | None = None

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, str]],
        encoded: Encoded,
        storage: Storage = "float32",
    ) -> "Segment":
        """Keep encoded passages.

        Args:
            rows: id and text of each.
            encoded: their embeddings, in the same order.
            storage: of dense and multivec: "float32", "bfloat16" or "int8".

        Raises:
            InputError: there are more or fewer embeddings, or some are no numbers.
        """
        if len(rows) != len(encoded):
            expected = f"{len(rows)} embeddings, one a passage"
            raise InputError(expected, f"{len(encoded)}", where="Segment")
        ids = tuple(name for name, _ in rows)
        require_finite(encoded, ids, where="passages")
        dense, sparse, multivec = encoded.dense, encoded.sparse, encoded.multivec
        return cls(
            ids,
            tuple(text for _, text in rows),
            None if dense is None else Vectors.of(dense, storage),
            None if sparse is None else Postings.of(sparse),
            None if multivec is None else TokenVectors.of(multivec, storage),
        )

    def __len__(self) -> int:
        """Number of passages."""
        return len(self.ids)

    @property
    def heads(self) -> dict[str, Any]:
        """Name of each head that there is -> what is kept of it."""
        parts = {
            "dense": self.dense,
            "sparse": self.sparse,
            "multivec": self.multivec,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def storage(self) -> Storage | None:
        """How dense and multivec are kept; None where there are neither."""
        vectors = self.dense
        if vectors is None and self.multivec is not None:
            vectors = self.multivec.vectors
        return None if vectors is None else vectors.storage

    def search(self, head: str, query: Encoded, k: int, **options: Any) -> Best:
        """Find the k best passages of each query by one head, exactly.

        Args:
            head: "dense", "sparse" or "multivec".
            query: with that output.
            k: how many.
            options: of `dense_search.top_k`, for dense.
        """
        part, wanted = _both(self.heads, query, head)
        if head == "dense":
            return Best(*top_k(wanted, part, k, **options))
        return part.search(wanted, k)

    def score(self, head: str, query: Encoded, at: np.ndarray) -> np.ndarray:
        """Score one query with some passages by one head.

        Args:
            head: "dense", "sparse" or "multivec".
            query: one query, with that output.
            at: passage numbers, `[n]`.

        Returns:
            float32 `[n]`.
        """
        part, wanted = _both(self.heads, query, head)
        if head == "dense":
            return part[at].float32() @ wanted[0]
        return part.score(wanted[0] if head == "multivec" else wanted, at)

    def best_tokens(self, query: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
        """For each token vector of a query: the best one of a passage.

        Args:
            query: its vectors, float32 `[i e]`.
            row: number of the passage.

        Returns:
            Places among the token vectors of the passage, int64 `[i]`, and scores,
            float32 `[i]`; none where a side has no vector.
        """
        assert self.multivec is not None
        products = query @ self.multivec.rows(row, row + 1)[0].T
        if not products.size:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return products.argmax(axis=1), products.max(axis=1)

    def write(self, folder: Path) -> None:
        """Write into a folder that is there, with a list of the files."""
        Strings.of(self.ids).write(folder, IDS)
        Strings.of(self.texts).write(folder, TEXTS)
        if self.dense is not None:
            self.dense.write(folder, DENSE)
        for part in (self.sparse, self.multivec):
            if part is not None:
                part.write(folder)
        manifest.write(folder)

    @classmethod
    def open(cls, folder: Path) -> "Segment":
        """Read the ids, and map texts and embeddings.

        Files of up to 4 MiB are compared with their hash. A larger one, as the vectors
        are, is not read: damage that leaves its size goes unseen here.

        Args:
            folder: written by `write`.

        Raises:
            InputError: a file is missing or damaged, or they do not fit together.
        """
        manifest.require(folder)
        ids, texts = tuple(Strings.open(folder, IDS)), Strings.open(folder, TEXTS)
        dense = Vectors.open(folder, DENSE)
        opened = cls(
            ids, texts, dense, Postings.open(folder), TokenVectors.open(folder)
        )
        for name, part in {"texts": texts, **opened.heads}.items():
            if len(part) != len(ids):
                expected = f"{len(ids):,} passages in {name}, as there are ids"
                raise InputError(expected, f"{len(part):,}", where=str(folder))
        if not opened.heads:
            raise InputError("embeddings of passages", "none", where=str(folder))
        return opened

    def hashes(self) -> dict[str, bytes]:
        """Id -> hash of the text."""
        pairs = zip(self.ids, self.texts, strict=True)
        return {name: content_hash(text) for name, text in pairs}


def _both(heads: dict[str, Any], query: Encoded, head: str) -> tuple[Any, Any]:
    """What a head has of the passages and of the query."""
    wanted = getattr(query, head, None)
    for side, part in (("index", heads.get(head)), ("query", wanted)):
        if part is None:
            do = f'Encode with outputs=("{head}",).' if side == "query" else ""
            raise InputError(f"{head} embeddings", "none", where=side, do=do)
    return heads[head], wanted
