import random
from collections.abc import Sequence

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import held_out
from m3jax.data.records import Pairs, Retrieval, content_hash
from m3jax.data.sources.listed import listed


def hold_out(
    rows: Sequence[Pairs], share: float, at_most: int = 1000
) -> tuple[list[Pairs], Retrieval]:
    words = b"".join(content_hash(row.query) for row in rows)
    hashes = np.frombuffer(words, np.uint64)
    (train,), dev = held_out.hold_out([listed("a", rows)], [hashes], share, at_most)
    return [rows[number] for number in train], dev


def number(query: str) -> int:
    return int.from_bytes(content_hash(query), "big")


def many_rows() -> list[Pairs]:
    rows = [Pairs(f"query {i}", (f"answer {i}",), ("none",)) for i in range(2_000)]
    return rows + [Pairs(f"query {i}", (f"more {i}", "none")) for i in range(0, 99, 3)]


def test_hold_out_takes_every_row_of_the_queries_with_low_hashes():
    rows = many_rows()
    train, dev = hold_out(rows, share=0.1)
    low = {row.query for row in rows if number(row.query) < 0.1 * 2**64}
    assert set(dev.queries.values()) == low
    assert train == [row for row in rows if row.query not in low]
    assert 150 < len(low) < 250


def test_hold_out_judges_all_positives_and_offers_negatives():
    rows = [
        Pairs("q", ("p1",), ("n1", "shared")),
        Pairs("q", ("p2",), ("n1",)),
        Pairs("other", ("shared",)),
    ]
    train, dev = hold_out(rows, share=1)
    ids = {text: content_hash(text).hex() for text in ["p1", "n1", "shared", "p2"]}
    q, other = content_hash("q").hex(), content_hash("other").hex()
    assert train == []
    assert dev.queries == {q: "q", other: "other"}
    assert dev.corpus == {key: text for text, key in ids.items()}
    assert dev.qrels == {
        q: {ids["p1"]: 1, ids["p2"]: 1},
        other: {ids["shared"]: 1},
    }


def test_hold_out_does_not_depend_on_order_or_on_other_rows():
    rows = many_rows()
    shuffled = random.Random(0).sample(rows, len(rows))
    half = [row for row in rows if int(row.query.split()[1]) < 1_000]
    dev, of_shuffled, of_half = (
        hold_out(some, share=0.1)[1] for some in (rows, shuffled, half)
    )
    assert dev == of_shuffled
    assert set(of_half.queries) < set(dev.queries)
    in_both = set(dev.queries.values()) & {row.query for row in half}
    assert set(of_half.queries.values()) == in_both


def test_hold_out_keeps_the_smallest_hashes_and_trains_on_the_rest():
    rows = many_rows()
    train, dev = hold_out(rows, share=0.1, at_most=7)
    smallest = sorted({row.query for row in rows}, key=number)[:7]
    assert sorted(dev.queries.values(), key=number) == smallest
    assert len(train) == len(rows) - sum(row.query in smallest for row in rows)


def test_hold_out_at_the_ends_of_share():
    rows = many_rows()
    train, dev = hold_out(rows, share=0)
    assert train == rows and dev.queries == dev.corpus == dev.qrels == {}
    assert hold_out(rows, share=1, at_most=len(rows))[0] == []


@pytest.mark.parametrize("share", [2, -0.1, float("nan")])
def test_hold_out_refuses_what_is_no_share(share: float):
    with pytest.raises(InputError, match="share: expected a share from 0 to 1"):
        hold_out([], share=share)
