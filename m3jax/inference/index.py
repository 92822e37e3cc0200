"""A corpus that is searched: encoded once, kept on disk, grown by appending."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.progress import Show
from m3jax.data.fields import as_string
from m3jax.data.records import content_hash
from m3jax.inference import index_folder
from m3jax.inference.best import Best
from m3jax.inference.dense_search import sample_rows, share_found
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.inference.fingerprint import fingerprint
from m3jax.inference.finite import require_finite
from m3jax.inference.index_about import NAME, describe, require_same
from m3jax.inference.manifest import damaged
from m3jax.inference.ranking import HEADS, RRF, WEIGHTS, Mixture, rank
from m3jax.inference.segment import Segment
from m3jax.inference.vectors import Storage

Records = Mapping[str, str] | Iterable[tuple[str, str]]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Index:
    """A corpus with its embeddings, in segments that are written once.

    Attributes:
        segments: the corpus, part by part in its order.
        about: what the embeddings depend on: the model, and what was asked of it.
        folder: where it is kept; None = in memory only.
    """

    segments: tuple[Segment, ...]
    about: Mapping[str, Any]
    folder: Path | None = None

    @classmethod
    def build(
        cls,
        embedder: Embedder,
        corpus: Records,
        *,
        folder: str | os.PathLike[str] | None = None,
        outputs: Sequence[str] | None = None,
        dim: int | None = None,
        max_length: int | None = None,
        storage: Storage = "float32",
        segment_size: int = 100_000,
        batch_tokens: int | None = None,
        progress: Show = False,
    ) -> "Index":
        """Encode a corpus.

        Args:
            embedder: the model.
            corpus: passage id -> text, or (id, text) after (id, text).
            folder: where the index is written, segment by segment; of one that is there
                already, also one that was not finished, the passages that it has are
                not encoded again. None keeps it in memory.
            outputs: heads to keep; None = all that the model has.
            dim: numbers kept of each dense vector (Matryoshka); None = all.
            max_length: tokens kept of a passage; None = what the model says.
            storage: of dense and multivec: "float32", "bfloat16" (half) or "int8" (a
                quarter).
            segment_size: passages that are encoded, and written, at a time.
            batch_tokens: tokens in a batch; see `encode.encode`.
            progress: show a bar on a terminal.

        Returns:
            The index.

        Raises:
            InputError: an id or a text is no text or an id comes twice, there is no
                passage, the folder holds something else or an index of another model,
                another process writes to it, an embedding is not finite, or an option
                does not fit the model.
            OSError: the folder cannot be written to, or the disk is full.
        """
        options = {"dim": dim, "max_length": max_length, "storage": storage}
        about = describe(embedder, outputs=outputs, **options)
        segments: tuple[Segment, ...] = ()
        if folder is not None:
            folder = Path(folder)
            index_folder.require_own(folder)
            if (folder / index_folder.META).exists():
                found, segments = index_folder.read(folder)
                if segments:  # one without a passage takes new settings
                    require_same(found, about, where=str(folder))
        index = cls(segments, about, folder).extend(
            embedder,
            corpus,
            segment_size=segment_size,
            batch_tokens=batch_tokens,
            progress=progress,
        )
        if not index.segments:
            raise InputError("a passage to encode", "none", where="corpus")
        return index

    def extend(
        self,
        embedder: Embedder,
        corpus: Records,
        *,
        segment_size: int = 100_000,
        batch_tokens: int | None = None,
        progress: Show = False,
    ) -> "Index":
        """Append passages; those that are there already are passed over.

        An index with a folder writes each segment when it is encoded. After a kill
        `Index.build` with the folder goes on, given all passages or the missing ones.

        Args:
            embedder: the model that the index was built with.
            corpus: passage id -> text, or (id, text) after (id, text).
            segment_size: passages that are encoded, and written, at a time.
            batch_tokens: tokens in a batch.
            progress: show a bar on a terminal.

        Returns:
            The index with these passages at its end.

        Raises:
            InputError: the model is another one, an id or a text is no text, an id is
                there with another text, an embedding is not finite, or another process
                writes to the folder, or has since it was opened.
            OSError: the folder cannot be written to, or the disk is full.
        """
        self.require(embedder)
        if segment_size < 1:
            found = f"{segment_size}"
            raise InputError("a positive number", found, where="segment_size")
        about, segments = self.about, list(self.segments)
        known = {name: text for one in segments for name, text in one.hashes().items()}
        new = _new(corpus, known)
        parts = iter(lambda: list(itertools.islice(new, segment_size)), [])

        def encode(rows: Sequence[tuple[str, str]]) -> Segment:
            encoded = embedder.encode_passage(
                [text for _, text in rows],
                outputs=about["outputs"],
                dim=about["dim"],
                max_length=about["max_length"],
                batch_tokens=batch_tokens,
                progress=progress,
            )
            return Segment.of(rows, encoded, about["storage"])

        if self.folder is None:
            segments += map(encode, parts)
        else:
            segments = index_folder.extend(self.folder, about, segments, parts, encode)
        return dataclasses.replace(self, segments=tuple(segments))

    def __len__(self) -> int:
        """Number of passages."""
        return sum(len(segment) for segment in self.segments)

    def __repr__(self) -> str:
        """How large it is, not what is in it."""
        heads = ", ".join(self.about["outputs"])
        return f"Index({len(self):,} passages: {heads}, {self.about['storage']})"

    @property
    def modes(self) -> tuple[str, ...]:
        """What it can be searched by."""
        heads = tuple(self.about["outputs"])
        mixed = ("hybrid", "rrf") if len(heads) > 1 else ()
        both = ("dense+sparse",) if {"dense", "sparse"} <= {*heads} else ()
        return (*heads, *both, *mixed)

    def passage(self, at: int) -> tuple[str, str]:
        """Id and text of a passage, by its number."""
        segment, row = self.place(at)
        return segment.ids[row], segment.texts[row]

    def rank(
        self,
        query: Encoded,
        *,
        k: int = 10,
        mode: str | None = None,
        weights: Sequence[float] | None = None,
        rescored: int | None = 200,
        mesh: Mesh | None = None,
        recall_target: float | None = None,
    ) -> Best:
        """Find the k best passages of each query, by number.

        Args:
            query: encoded queries, with the outputs that the mode needs.
            k: how many.
            mode: "dense", "sparse" or "multivec"; "dense+sparse" or "hybrid" for the
                weighted mean of these heads' scores; "rrf" for reciprocal-rank fusion.
                None takes what query and index both have: one head, or hybrid.
            weights: of dense, sparse and multivec in a mixture; None takes BGE-M3's,
                (1, 0.3, 1).
            rescored: passages that dense and sparse find for multivec and the mixtures;
                None scores every passage by its token vectors.
            mesh: devices that share a dense search.
            recall_target: for an approximate dense search; see `dense_search.top_k`.

        Returns:
            Scores and passage numbers.

        Raises:
            InputError: the index has no such mode, the query lacks an output or is not
                finite, widths differ, a number is below 1, or the vectors on the disk
                are damaged.
        """
        names = [f"query {number}" for number in range(len(query))]
        require_finite(query, names, where="query")
        chosen, there = self._choose(mode, query)
        heads = _heads(chosen, there, rescored)
        mixture = RRF if chosen == "rrf" else Mixture(weights or WEIGHTS)
        try:
            found = rank(
                query,
                self.segments,
                heads,
                len(self),
                k=k,
                rescored=rescored,
                mixtures={} if chosen in HEADS else {chosen: mixture},
                options={"mesh": mesh, "recall_target": recall_target},
            )
        except InputError as error:
            # The query is finite, so what is not is in the index.
            if self.folder is None or error.expected != "scores that are numbers":
                raise
            raise damaged(error.expected, error.found, self.folder) from None
        return found[chosen].first(min(k, len(self)))

    def search(
        self, query: Encoded, *, k: int = 10, **options: Any
    ) -> list[list[tuple[str, float]]]:
        """Find the k best passages of each query; see `rank` for the options.

        Args:
            query: encoded queries.
            k: how many, at most the size of the corpus.
            options: of `rank`: mode, weights, rescored, mesh, recall_target.

        Returns:
            For each query its passages as (id, score), the best first.

        Raises:
            InputError: as `rank`.
        """
        best = self.rank(query, k=k, **options)
        rows = zip(best.at.tolist(), best.scores.tolist(), strict=True)
        return [
            [(self.passage(i)[0], x) for i, x in zip(at, row, strict=True) if i >= 0]
            for at, row in rows
        ]

    def recall(self, query: Encoded, found: Best, *, mesh: Mesh | None = None) -> float:
        """Say what share of the exact best by dense an approximate search has found.

        At most 64 queries, evenly spread, are searched exactly.

        Args:
            query: encoded queries.
            found: of `rank` with a recall_target.
            mesh: devices that share the search.

        Returns:
            From 0 to 1; 1 where there was nothing to find.
        """
        rows = sample_rows(len(query))
        k = max(found.at.shape[1], 1)
        exact = self.rank(query[rows], k=k, mode="dense", mesh=mesh)
        return share_found(exact.at, found.at[rows])

    def place(self, at: int) -> tuple[Segment, int]:
        """The segment that has a passage, and its number there.

        Raises:
            IndexError: there is no such passage.
        """
        left = at
        for segment in self.segments:
            if left < len(segment):
                return segment, left
            left -= len(segment)
        raise IndexError(f"passage {at} of {len(self)}")

    def require(self, embedder: Embedder) -> None:
        """Refuse a model that the index was not built with.

        Raises:
            InputError: names both.
        """
        found = fingerprint(embedder, embedder.prompts.passage)
        asked = {**self.about, "model": found, NAME: embedder.name}
        require_same(self.about, asked, where=str(self.folder or "index"))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder that `Index.open` maps; it is either whole or not there.

        Args:
            folder: a new or empty folder, or an index that is replaced.

        Raises:
            InputError: the folder holds other things, or another process writes to it.
            OSError: the folder cannot be written to, or the disk is full.
        """
        index_folder.write(Path(folder), self.about, self.segments)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Index":
        """Read the ids of a saved index, and map its texts and embeddings.

        Args:
            folder: written by `save` or by `build`.

        Returns:
            The index.

        Raises:
            InputError: a file is missing or damaged, they do not fit together, or the
                index is not finished; `Index.build` with the folder finishes it.

        Example:
            >>> Index.open("no")
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/index.json: expected an index, found none
        """
        folder = Path(folder)
        about, segments = index_folder.read(folder)
        index_folder.require_whole(folder, segments)
        return cls(segments, about, folder)

    def _choose(self, mode: str | None, query: Encoded) -> tuple[str, list[str]]:
        """The mode, and the heads that it may take."""
        there = list(self.about["outputs"])
        if mode is None:
            both = [head for head in there if getattr(query, head) is not None]
            return ("hybrid", both) if len(both) > 1 else ((both or there)[0], there)
        if mode not in self.modes:
            known = ", ".join(self.modes)
            expected = f"one of {known}, as the index has them"
            raise InputError(expected, repr(mode), where="mode")
        return mode, there


def _heads(mode: str, there: list[str], rescored: int | None) -> list[str]:
    """Those that a mode needs, of those that there are."""
    if mode == "dense+sparse":
        return ["dense", "sparse"]
    if mode in ("hybrid", "rrf"):
        return there
    if mode == "multivec" and rescored is not None:  # of what another one finds
        return [*[head for head in there if head != mode][:1], mode]
    return [mode]


def _new(corpus: Records, known: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """Passages that are not known yet."""
    rows: Iterable[Any] = corpus.items() if isinstance(corpus, Mapping) else corpus
    seen: set[str] = set()
    for number, (name, text) in enumerate(rows):
        where = f"corpus: row {number + 1:,}"
        as_string(name, f"{where}: id")
        as_string(text, f"{where}: text")
        if name in seen:
            raise InputError("a new id", f"{name!r} again", where=where)
        seen.add(name)
        if name not in known:
            yield name, text
        elif known[name] != content_hash(text):
            raise InputError(
                f"the text that the index has of {name!r}",
                "another one",
                where=where,
                do="An index of changed texts is built anew (--corpus, with --fresh).",
            )
