"""A retrieval set in BEIR's layout as a source to train on."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data import cache, fields
from m3jax.data.columns import column, kept
from m3jax.data.corpora import passage_text
from m3jax.data.layout_lists import language
from m3jax.data.records import Pairs, content_hash
from m3jax.data.retrieval import beir_files, judgements, nothing_answers, unknown_id
from m3jax.data.sources.base import Rows, rows_between
from m3jax.data.sources.lines import open_lines
from m3jax.data.sources.stamps import Stamp, stamp, unchanged

FORMAT = 1


@dataclass(frozen=True)
class Judged:
    """A source of one record a query that has an answer; see `open_beir`.

    Attributes:
        name: the folder.
        fingerprint: of the three files.
        queries: rows with `_id` and `text`.
        corpus: rows with `_id`, `text` and perhaps `title`.
        qrels: the file of judgements, as it was when it was opened.
        folder: of the arrays that say which rows belong together.
    """

    name: str
    fingerprint: str
    queries: Rows
    corpus: Rows
    qrels: Stamp
    folder: Path

    def __len__(self) -> int:
        """How many queries have an answer."""
        return len(self._array("queries"))

    def __getitem__(self, index: int) -> Pairs:
        """One query with all its judged passages, in the order of the judgements."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop = self._array("starts")[index : index + 2].tolist()
        judged = self._array("passages")[start:stop].tolist()
        count = int(self._array("positives")[index])
        row, query = self._query(index)
        pos = tuple(self._passage(number, "positive") for number in judged[:count])
        neg = tuple(self._passage(number, "negative") for number in judged[count:])
        return Pairs(query, pos, neg, language=language(row))

    def where(self, index: int) -> str:
        """Where a query stands; may be slow."""
        return self.queries.where(int(self._array("queries")[index]))

    def check(self) -> None:
        """Raise an `InputError` if a file is no longer the one that was opened."""
        self.queries.check()
        self.corpus.check()
        unchanged(self.qrels)

    def _query(self, index: int) -> tuple[Mapping[str, object], str]:
        row = self.queries.row(int(self._array("queries")[index]))
        try:
            return row, fields.text(row, "text")
        except InputError as error:
            raise error.at(self.where(index)) from None

    def _passage(self, number: int, kind: str) -> str:
        row = self.corpus.row(number)
        try:
            text = passage_text(row)
            return fields.as_text(text, "text") if kind == "positive" else text
        except InputError as error:
            raise error.at(self.corpus.where(number)) from None

    def _array(self, name: str) -> np.ndarray:
        return column(str(self.folder / f"{name}.npy"))


def open_beir(folder: str | Path, split: str, root: Path) -> Judged:
    r"""Open a folder in BEIR's layout as queries with their judged passages.

    A query that has a passage judged above 0 is a record: those passages are its
    positives, passages judged and found wanting its negatives. No text is kept in
    memory: ids are found by their hashes, which the cache keeps.

    Args:
        folder: holds corpus.jsonl and queries.jsonl, each plain, .gz or .zst, and
            qrels/{split}.tsv.
        split: which file of judgements.
        root: the cache.

    Returns:
        The source; queries in the order of their first judgements.

    Raises:
        InputError: a file is missing or damaged, an id comes twice or is not there, or
            no query has an answer.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "qrels").mkdir()
        >>> passage = '{"_id": "p", "title": "Sum", "text": "It is 4."}'
        >>> _ = (folder / "corpus.jsonl").write_text(passage)
        >>> _ = (folder / "queries.jsonl").write_text('{"_id": "q", "text": "2 + 2?"}')
        >>> qrels = "query-id\tcorpus-id\tscore\nq\tp\t1\n"
        >>> _ = (folder / "qrels" / "train.tsv").write_text(qrels)
        >>> open_beir(folder, "train", folder / "cache")[0].pos
        ('Sum It is 4.',)
    """
    files = beir_files(folder, split)
    queries = open_lines(files.queries, root=root)
    corpus = open_lines(files.corpus, root=root)
    qrels = stamp(files.qrels)
    version = queries.fingerprint, corpus.fingerprint, qrels.size, qrels.mtime_ns
    target = cache.entry(root / "beir", files.qrels.resolve(), FORMAT, *version)

    def build(folder: Path) -> Mapping[str, object]:
        query_ids = _ids(queries, files.queries, root)
        passage_ids = _ids(corpus, files.corpus, root)
        found = _judge(files.qrels, query_ids, passage_ids)
        for name, rows in found.items():
            np.save(folder / f"{name}.npy", rows)
        return {}

    kept(target, build, what=f"index of {files.qrels}")
    fingerprint = content_hash(repr(version)).hex()
    return Judged(str(folder), fingerprint, queries, corpus, qrels, target)


@dataclass(frozen=True)
class _Ids:
    """Row numbers by the hash of the `_id`: sorted hashes, and the row of each."""

    hashes: np.ndarray
    rows: np.ndarray

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Row of each hash, -1 where there is none."""
        at = np.searchsorted(self.hashes, hashes)
        at = np.minimum(at, len(self.hashes) - 1)
        return np.where(self.hashes[at] == hashes, self.rows[at], -1)


def _ids(rows: Rows, path: Path, root: Path) -> _Ids:
    """Kept apart from the judgements: a corpus serves several splits."""
    target = cache.entry(root / "ids", path.resolve(), FORMAT, rows.fingerprint)

    def build(folder: Path) -> Mapping[str, object]:
        hashes = np.empty(len(rows), np.uint64)
        with bar(f"index {rows.name}", len(rows), "ids") as advance:
            for number, row in enumerate(rows_between(rows, 0, len(rows))):
                hashes[number] = _hash(_id(rows, number, row))
                if number % 1000 == 999:
                    advance(1000)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        _require_new(rows, hashes, order)
        np.save(folder / "hashes.npy", hashes)
        np.save(folder / "rows.npy", order)
        return {}

    kept(target, build, what=f"ids of {rows.name}")
    return _Ids(column(f"{target}/hashes.npy"), column(f"{target}/rows.npy"))


def _id(rows: Rows, number: int, row: Mapping[str, object] | InputError) -> str:
    if isinstance(row, InputError):
        row = rows.row(number)  # raises the error that says where
    try:
        return fields.string(row, "_id")
    except InputError as error:
        raise error.at(rows.where(number)) from None


def _hash(name: str) -> int:
    # Among 10 million ids, two share their 8 bytes once in 370,000 data sets.
    return int.from_bytes(content_hash(name), "little")


def _require_new(rows: Rows, hashes: np.ndarray, order: np.ndarray) -> None:
    again = order[1:][hashes[1:] == hashes[:-1]]
    if again.size:
        number = int(again.min())
        name = fields.string(rows.row(number), "_id")
        where = f"{rows.where(number)}: _id"
        raise InputError("a new _id", f"{name!r} again", where=where)


def _judge(path: Path, query_ids: _Ids, passage_ids: _Ids) -> dict[str, np.ndarray]:
    """Rows of the queries with an answer, and of their passages, positives first."""
    names = array("Q"), array("Q")
    positive = array("b")
    for _, query, passage, grade in judgements(path):
        names[0].append(_hash(query))
        names[1].append(_hash(passage))
        positive.append(grade > 0)
    queries = query_ids.find(np.array(names[0], np.uint64))
    passages = passage_ids.find(np.array(names[1], np.uint64))
    _require_known(path, queries, passages)
    wanting = 1 - np.array(positive, np.int8)
    if not wanting.size:
        raise nothing_answers(path)
    queries, passages, wanting = _once(queries, passages, wanting)
    rows, first, group = np.unique(queries, return_index=True, return_inverse=True)
    counts = np.bincount(group[wanting == 0], minlength=len(rows))
    if not counts.any():
        raise nothing_answers(path)
    ranked = np.argsort(first)
    rank = np.empty_like(ranked)
    rank[ranked] = np.arange(len(ranked))
    order = np.lexsort((np.arange(len(group)), wanting, rank[group]))
    order = order[counts[group[order]] > 0]
    answered = ranked[counts[ranked] > 0]
    sizes = np.bincount(group, minlength=len(rows))[answered]
    return {
        "queries": rows[answered],
        "passages": passages[order],
        "starts": np.concatenate([[0], np.cumsum(sizes)]),
        "positives": counts[answered],
    }


def _require_known(path: Path, queries: np.ndarray, passages: np.ndarray) -> None:
    unknown = np.flatnonzero((queries < 0) | (passages < 0))
    if unknown.size:
        # Read again: the names were not kept.
        at = int(unknown[0])
        where, query, passage, _ = next(islice(judgements(path), at, None))
        if queries[at] < 0:
            raise unknown_id(query, "query", where)
        raise unknown_id(passage, "passage", where)


def _once(
    queries: np.ndarray, passages: np.ndarray, wanting: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a passage is judged twice for a query, the later judgement counts."""
    order = np.lexsort((np.arange(len(queries)), passages, queries))
    same = (np.diff(queries[order]) == 0) & (np.diff(passages[order]) == 0)
    first, last = order[~np.append(False, same)], order[~np.append(same, False)]
    place = np.argsort(first)
    first, last = first[place], last[place]
    return queries[first], passages[first], wanting[last]
