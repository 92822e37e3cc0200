"""A share of the training queries that selects checkpoints, and is never trained on."""

from collections.abc import Sequence

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.records import Pairs, Retrieval, content_hash
from m3jax.data.sources.base import Source


def hold_out(
    sources: Sequence[Source | None],
    hashes: Sequence[np.ndarray],
    share: float = 0.02,
    at_most: int = 1000,
) -> tuple[list[np.ndarray], Retrieval]:
    """Split off queries to select checkpoints with.

    A query is held out when the hash of its text falls below `share` of the range. So
    the choice depends on nothing but the text: not on the order of the rows, and a data
    set that grows keeps its held-out queries out of training. All rows of one query go
    together, also those of other data sets. A passage of a held-out query may still be
    read in training beside another query.

    Args:
        sources: data sets of `Pairs`; None where the texts are not known: these choose
            no query, but rows of the queries that are held out go out of them too.
        hashes: content hash of the query of every row, uint64, one array a data set.
        share: how much of the queries to hold out, 0 to 1; of a handful it may be none.
        at_most: no more queries than this; those with the smallest hashes stay out.

    Returns:
        Numbers of the rows left for training, one array a data set, and the held-out
        task: its corpus is every positive and negative of the held-out rows, its ids
        are content hashes in hex, and each positive has grade 1.

    Raises:
        InputError: `share` is no share.

    Example:
        >>> from m3jax.data.sources.listed import listed
        >>> rows = [Pairs(f"query {i}", (f"answer {i}",)) for i in range(100)]
        >>> words = b"".join(content_hash(row.query) for row in rows)
        >>> hashes = np.frombuffer(words, np.uint64)
        >>> (train,), dev = hold_out([listed("mine", rows)], [hashes], share=0.1)
        >>> len(train), len(dev.queries)
        (88, 12)
    """
    if not 0 <= share <= 1:
        raise InputError("a share from 0 to 1", str(share), where="share")
    # By the bytes in the order in which they are written.
    ordered = [np.asarray(one).astype("<u8").byteswap() for one in hashes]
    below = share * 2**64
    low = [
        _low(one, below)
        for one, source in zip(ordered, sources, strict=True)
        if source is not None
    ]
    chosen = np.unique(np.concatenate([*low, np.empty(0, np.uint64)]))[:at_most]
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    kept = []
    for source, one in zip(sources, ordered, strict=True):
        held = np.isin(one, chosen)
        kept.append(np.flatnonzero(~held))
        for number in np.flatnonzero(held) if source is not None else ():
            assert source is not None
            row = source[int(number)]
            assert isinstance(row, Pairs)
            name = content_hash(row.query).hex()
            queries[name] = row.query
            corpus |= {content_hash(text).hex(): text for text in row.pos + row.neg}
            grades = {content_hash(text).hex(): 1 for text in row.pos}
            qrels.setdefault(name, {}).update(grades)
    names = sorted(queries)
    return kept, Retrieval(
        {name: queries[name] for name in names},
        corpus,
        {name: qrels[name] for name in names},
    )


def _low(hashes: np.ndarray, below: float) -> np.ndarray:
    # 2^64 itself is no uint64: a share of 1 takes all.
    return hashes if below >= 2**64 else hashes[hashes < np.uint64(below)]
