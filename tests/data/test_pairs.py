"""Pairs to ids: what is cut, what stands around, and which part is which."""

import functools
from pathlib import Path

import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.data.pairs import BODY, PREFIX, SUFFIX, PairFormat, encode_pairs
from m3jax.hub.reranker import TASK, pair_format
from m3jax.testing import tiny_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden"
PAIR = ("what is a cell?", "the cell is the smallest unit of life")
LONG = "the unit of life is a cell, and what is life? " * 30


@functools.cache
def model(name: str) -> m3jax.Reranker:
    return m3jax.Reranker.load(GOLDEN / f"reranker_{name}")


def rows(name, pairs, task, max_length):
    one = model(name)
    format = pair_format(one.module.config, task)
    return encode_pairs(one.tokenizer, pairs, format, max_length)


def test_the_query_keeps_three_quarters_and_the_passage_the_rest() -> None:
    pairs = [PAIR, ("a", ""), ("what is life?", LONG), (LONG, LONG)]
    ids, types, cut = rows("bert", pairs, None, 32)
    assert [len(row) <= 32 for row in ids] == [True] * 4 and cut == 2
    assert types is not None and len(ids[3]) == 32
    tokens = model("bert").tokenizer.backend
    separator = tokens.token_to_id("[SEP]")
    assert np.flatnonzero(ids[3] == separator).tolist() == [25, 31]
    assert types[3].tolist() == [0] * 26 + [1] * 6


@pytest.mark.parametrize(("name", "types"), [("bert", True), ("xlmr", False)])
def test_types_where_the_encoder_knows_two(name, types) -> None:
    assert (rows(name, [PAIR], None, 32)[1] is not None) == types


def test_the_chat_stays_whole_when_a_pair_is_cut() -> None:
    backend = model("qwen3").tokenizer.backend
    before, after = (
        backend.encode(part, add_special_tokens=False).ids for part in (PREFIX, SUFFIX)
    )
    length = len(before) + len(after) + 20
    ids, types, cut = rows("qwen3", [PAIR, ("a", LONG)], None, length)
    assert types is None and cut == 2
    for row in ids:
        assert len(row) == length
        assert row[: len(before)].tolist() == before
        assert row[-len(after) :].tolist() == after


@pytest.mark.parametrize(
    ("task", "said"), [(None, TASK), ("Find a cell", "Find a cell")]
)
def test_the_instruction(task, said) -> None:
    (row,), _, _ = rows("qwen3", [PAIR], task, 512)
    body = BODY.format(task=said, query=PAIR[0], passage=PAIR[1])
    backend = model("qwen3").tokenizer.backend
    expected = [
        backend.encode(part, add_special_tokens=False).ids
        for part in (PREFIX, body, SUFFIX)
    ]
    assert row.tolist() == [number for part in expected for number in part]


def test_braces_in_a_text_are_text() -> None:
    pairs = [("{task} {0}", "a {passage} {")]
    (row,), _, _ = rows("qwen3", pairs, None, 512)
    text = model("qwen3").tokenizer.backend.decode(row.tolist())
    assert "<Query>: {task} {0}" in text and "<Document>: a {passage} {" in text


@pytest.mark.parametrize("head", ["classifier", "yes_no"])
def test_no_room_and_no_pairs(head) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match="max_length: expected more than the"):
        encode_pairs(tokenizer, [PAIR], PairFormat(head), 3)
    ids, types, cut = encode_pairs(tokenizer, [], PairFormat(head), 512)
    assert (ids, types, cut) == ([], None, 0)
