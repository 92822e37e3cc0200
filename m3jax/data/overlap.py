"""What is measured on and also trained on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from m3jax.data.records import Retrieval, Similarity, content_hash
from m3jax.data.training_sets import Data, Opened

_BLOCK = 2**20  # rows that are looked at together


@dataclass(frozen=True)
class Overlap:
    """How much of an evaluation set is in the training sets, by content hash.

    Attributes:
        texts: what is counted: "queries", or "texts" where pairs are graded.
        count: different queries; of graded pairs, texts on either side.
        seen: of these, queries that are trained on; of graded pairs, texts that are
            trained on as query or as its partner.
        pairs: different pairs of a query and an answer (a grade above 0), or graded
            pairs.
        pairs_seen: of these, the ones that a training row holds; of graded pairs in
            either order. A row counts with its first positive only.
        sets: names of the training sets that hold some.
        answer_sets: names of those that hold answers.
        answers: different passages that answer a query; none where pairs are graded.
        answers_seen: of these, the ones that are trained on.
    """

    texts: str
    count: int
    seen: int
    pairs: int
    pairs_seen: int
    sets: tuple[str, ...]
    answer_sets: tuple[str, ...] = ()
    answers: int = 0
    answers_seen: int = 0


def count_overlap(data: Data) -> dict[str, Overlap]:
    """Count what of the dev and test sets is also trained on.

    The hashes of the training rows come from their scan; of rows that are held out or
    dropped none count, and no text is read.

    Args:
        data: training sets with what the model is measured on.

    Returns:
        "dev" and "test", as far as they are there. A dev set that was held out of the
        training queries has none of them.
    """
    sets = {"dev": data.dev, "test": data.test}
    return {
        name: _overlap(one, data.sets) for name, one in sets.items() if one is not None
    }


def told(overlaps: Mapping[str, Overlap]) -> list[str]:
    """What a user is told of it, in lines.

    Args:
        overlaps: evaluation set -> what was counted.

    Returns:
        Nothing where nothing is trained on.

    Example:
        >>> print(*told({"dev": Overlap("queries", 300, 12, 310, 9, ("a.jsonl",))}))
        warning: 12 of 300 dev queries are also training queries: 9 of 310 pairs with \
an answer too (in a.jsonl); on new queries the model will score lower
    """
    lines = []
    for name, one in overlaps.items():
        if one.answers_seen and not one.pairs_seen:
            lines.append(
                f"warning: {one.answers_seen:,} of {one.answers:,} {name} passages "
                "that answer a query are also training texts (in "
                f"{', '.join(one.answer_sets)}); on new passages the model will score "
                "lower"
            )
        if not one.seen and not one.pairs_seen:
            continue
        what = "pairs with an answer" if one.texts == "queries" else "graded pairs"
        lines.append(
            f"warning: {one.seen:,} of {one.count:,} {name} {one.texts} are also "
            f"training {one.texts}: {one.pairs_seen:,} of {one.pairs:,} {what} too "
            f"(in {', '.join(one.sets)}); on new {one.texts} the model will score lower"
        )
    return lines


def _overlap(data: Retrieval | Similarity, sets: tuple[Opened, ...]) -> Overlap:
    graded = isinstance(data, Similarity)
    own, pairs = _graded(data) if graded else _judged(data)
    partners = np.unique(pairs)
    answers = own[:0] if graded else np.unique(pairs[:, 1])
    found_answers: list[np.ndarray] = [answers[:0]]
    texts: list[np.ndarray] = [own[:0]]
    rows: list[np.ndarray] = [pairs[:0]]
    names: list[str] = []
    answering: list[str] = []
    for one in sets:
        before, answered = len(texts), len(found_answers)
        for block in _blocks(one):
            query, partner = block.T
            of_query = _within(query, own)
            held = [query[of_query]]
            if graded:
                held.append(partner[_within(partner, own)])
            both = block[of_query & _within(partner, partners)]
            rows.append(np.unique(np.sort(both, axis=1) if graded else both, axis=0))
            texts += [np.unique(some) for some in held if len(some)]
            # A text alone is its own positive.
            read = query if one.scan.kind == "text" else partner
            some = read[_within(read, answers)]
            found_answers += [np.unique(some)] if len(some) else []
        if len(texts) > before:
            names.append(one.name)
        if len(found_answers) > answered:
            answering.append(one.name)
    trained = np.unique(np.concatenate(rows), axis=0)
    # Both have no row twice, so what is in both is what their union lacks.
    union = np.unique(np.concatenate([pairs, trained]), axis=0)
    return Overlap(
        "texts" if graded else "queries",
        len(own),
        len(np.unique(np.concatenate(texts))),
        len(pairs),
        len(pairs) + len(trained) - len(union),
        tuple(names),
        tuple(answering),
        len(answers),
        len(np.unique(np.concatenate(found_answers))),
    )


def _graded(data: Similarity) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the different texts, and of the pairs, the lower one first."""
    pairs = np.stack([_hashes(data.first), _hashes(data.second)], axis=1)
    return np.unique(pairs), np.unique(np.sort(pairs, axis=1), axis=0)


def _judged(data: Retrieval) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the different queries, and of each with its answers."""
    names = [name for name in data.queries if name in data.qrels]
    hashes = _hashes(data.queries[name] for name in names)
    answers = [
        (query, passage)
        for query in names
        for passage, grade in data.qrels[query].items()
        if grade > 0 and passage in data.corpus
    ]
    pairs = np.stack(
        [
            _hashes(data.queries[query] for query, _ in answers),
            _hashes(data.corpus[passage] for _, passage in answers),
        ],
        axis=1,
    )
    return np.unique(hashes), np.unique(pairs, axis=0)


def _hashes(texts: Iterable[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(content_hash, texts)), np.uint64)


def _blocks(one: Opened) -> Iterator[np.ndarray]:
    """Hashes of query and partner of the rows that are trained on, uint64 `[n 2]`."""
    for first in range(0, one.count, _BLOCK):
        part = slice(first, first + _BLOCK)
        rows = part if one.kept is None else one.kept[part]
        yield np.stack([one.scan.query[rows], one.scan.partner[rows]], axis=1)


def _within(hashes: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which hashes are among a few, rising ones; a fifth of the time of np.isin."""
    if not len(some):
        return np.zeros(len(hashes), bool)
    at = np.minimum(np.searchsorted(some, hashes), len(some) - 1)
    return some[at] == hashes
