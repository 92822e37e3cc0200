"""Records of token ids, and their bytes."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.records import Labelled, Pairs, Scored, Text, content_hash
from m3jax.data.tokenised import (
    TokenText,
    decode,
    digest,
    encode,
    shorten,
    texts_of,
    with_texts,
)

IDS = st.lists(st.integers(0, 65_535), max_size=5)
WIDE = st.lists(st.integers(0, 2**31 - 1), max_size=5)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCORE = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | WORDS


def text(ids: list[int], words: str) -> Any:
    return TokenText(np.array(ids, np.int32), content_hash(words))


TEXTS = st.builds(text, IDS | WIDE, WORDS)
SMALL = st.builds(text, IDS, WORDS)


@st.composite
def pairs(draw: st.DrawFn) -> Pairs:
    texts = draw(st.sampled_from([TEXTS, SMALL]))
    pos = tuple(draw(st.lists(texts, min_size=1, max_size=3)))
    neg = tuple(draw(st.lists(texts, max_size=3)))
    return Pairs(
        draw(texts),
        pos,
        neg,
        draw(st.none() | st.tuples(*[SCORE] * len(pos))),
        draw(st.none() | st.tuples(*[SCORE] * len(neg))),
        draw(MAYBE),
        draw(MAYBE),
    )


RECORDS = st.one_of(
    pairs(),
    st.builds(Text, TEXTS, MAYBE),
    st.builds(Scored, TEXTS, TEXTS, SCORE, MAYBE),
    st.builds(Labelled, TEXTS, WORDS, MAYBE),
)


@given(RECORDS)
def test_there_and_back(record: Any) -> None:
    found = decode(encode(record))
    assert found == record
    assert [t.ids.dtype for t in texts_of(found)] == [np.int32] * len(texts_of(record))
    assert with_texts(found, texts_of(record)) == record


@given(RECORDS, st.data())
def test_damage_is_told(record: Any, data: st.DataObject) -> None:
    whole = encode(record)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for damaged in (whole[:at], bytes(flipped), whole + b"\0"):
        with pytest.raises(InputError, match="a tokenised record"):
            decode(damaged)


def test_the_bytes_are_those_described() -> None:
    record: Any = Scored(text([5], "a"), text([6, 7], "b"), 0.5, "en")
    expected = struct.pack("<BBBII2I", 1, 2, 16, 2, 0, 1, 2)
    expected += content_hash("a") + content_hash("b") + struct.pack("<d", 0.5)
    expected += struct.pack("<I", 2) + b"en" + struct.pack("<3H", 5, 6, 7)
    assert encode(record) == expected + struct.pack("<I", zlib.crc32(expected))


def test_a_later_format() -> None:
    body = b"\2" + encode(Text(text([1], "a")))[1:-4]
    with pytest.raises(InputError, match="found one of format 2, of another version"):
        decode(body + struct.pack("<I", zlib.crc32(body)))


def test_parts_that_do_not_fit() -> None:
    whole = encode(Text(text([1], "a")))[:-4]
    longer = whole[:11] + b"\x09" + whole[12:]  # the length of the text
    for body in (longer, whole + b"\0"):
        with pytest.raises(InputError, match="parts that do not fit together"):
            decode(body + struct.pack("<I", zlib.crc32(body)))


def test_equal_by_content() -> None:
    one = text([1, 2], "a")
    assert one == text([1, 2], "a") and hash(one) == hash(text([1, 2], "a"))
    assert one != text([1, 3], "a") and one != text([1, 2], "b") and one != "a"
    assert digest("a") == digest(one) == content_hash("a")


def test_shortened_as_the_tokenizer_does_it() -> None:
    whole = text([101, 7, 8, 9, 102], "a")
    assert shorten(whole, 5, end=1) is whole
    assert shorten(whole, 3, end=1).ids.tolist() == [101, 7, 102]
    assert shorten(whole, 3, end=0).ids.tolist() == [101, 7, 8]
    assert shorten(whole, 3, end=1).digest == whole.digest
