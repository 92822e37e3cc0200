"""Pairs in, probabilities out: order, length, warnings and what is refused."""

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.inference import reranker as inference

GOLDEN = Path(__file__).parent.parent / "golden"
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("a", ""),
    ("", "the unit"),
    ("life", "the cell"),
    ("the unit of life is a cell", "and what is life? the unit of the cell"),
]
LONG = "the unit of life is a cell, and what is life? " * 30


@functools.cache
def model(name: str = "bert") -> m3jax.Reranker:
    return m3jax.Reranker.load(GOLDEN / f"reranker_{name}")


def test_scores_come_back_in_order() -> None:
    expected = model().logits(PAIRS)
    backwards = model().logits(PAIRS[::-1], batch_tokens=64)
    assert expected.dtype == np.float32 and expected.shape == (len(PAIRS),)
    np.testing.assert_allclose(backwards[::-1], expected, atol=1e-5)
    found = model().score(pair for pair in PAIRS)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-expected)), atol=1e-6)


def test_a_pair_may_be_a_list() -> None:
    found = model().score([list(pair) for pair in PAIRS])  # type: ignore[misc]
    np.testing.assert_array_equal(found, model().score(PAIRS))


@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_no_pairs(name) -> None:
    for found in (model(name).score([]), model(name).logits(iter([]))):
        assert found.shape == (0,) and found.dtype == np.float32


def test_probabilities_of_large_logits(monkeypatch) -> None:
    logits = np.array([-1000.0, -20.0, 0.0, 20.0, 1000.0], np.float32)
    monkeypatch.setattr(m3jax.Reranker, "logits", lambda *_, **__: logits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model().score(PAIRS)
    expected = np.array([0, 2.0611537e-09, 0.5, 1, 1])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_pairs_that_are_cut_are_counted_in_one_warning() -> None:
    pairs = [*PAIRS[:2], ("what is life?", LONG), (LONG, LONG)]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model().logits(pairs, max_length=32)
    (one,) = seen
    assert str(one.message).startswith("2 of 4 pairs are longer than 32 tokens and wer")


def test_one_program_a_shape() -> None:
    one = m3jax.Reranker.load(GOLDEN / "reranker_bert")
    one.logits(PAIRS[:2], batch_tokens=128)
    compiled: Any = inference._score
    before = compiled._cache_size()
    found = one.logits([PAIRS[1], PAIRS[0]], batch_tokens=128)
    assert compiled._cache_size() == before
    assert found.shape == (2,)


BAD: list[tuple[Any, dict, str]] = [
    ("a text", {}, "pairs: expected a list of pairs, found one text"),
    ([("a", "b"), "ab"], {}, r"pairs\[1\]: expected a query .*, found a str"),
    ([("a",)], {}, r"pairs\[0\]: expected a query and a passage, found a tuple of 1"),
    ([("a", "b", "c")], {}, r"pairs\[0\]: .* found a tuple of 3"),
    ([("a", "b"), (1, "b")], {}, r"queries\[1\]: expected a string, found int"),
    ([("a", None)], {}, r"passages\[0\]: expected a string, found NoneType"),
    ([("a", "\ud800")], {}, r"passages\[0\]: expected Unicode text"),
    (PAIRS, {"max_length": 65}, "max_length: expected 1 to 64 tokens, .*, found 65"),
    (PAIRS, {"max_length": 0}, "max_length: expected 1 to 64 tokens, .*, found 0"),
    (PAIRS, {"max_length": 3}, "max_length: expected more than the 3 tokens around"),
    (PAIRS, {"batch_tokens": 0}, "batch_tokens"),
    (PAIRS, {"task": "Find"}, "task: expected no task, because this model takes no"),
]


@pytest.mark.parametrize("method", ["score", "logits"])
@pytest.mark.parametrize(("pairs", "options", "message"), BAD)
def test_what_is_refused(method, pairs, options, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        getattr(model(), method)(pairs, **options)
    assert "\n" not in str(error.value)


def test_a_length_without_room_for_the_chat() -> None:
    with pytest.raises(InputError, match=r"more than the \d+ tokens around query and"):
        model("qwen3").score(PAIRS, max_length=100)


def test_saved_and_loaded(tmp_path) -> None:
    model().save(tmp_path / "model")
    again = m3jax.Reranker.load(tmp_path / "model")
    assert again.max_length == model().max_length
    np.testing.assert_array_equal(again.logits(PAIRS), model().logits(PAIRS))
