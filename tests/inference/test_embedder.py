"""The model as a user holds it."""

import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.inference import scores
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import encode
from m3jax.inference.encoded import Encoded
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

# Most texts here are longer than what is kept of them.
pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")
PROMPTS = Prompts(query="the tide: ", passage="a river: ")


@functools.cache
def embedder() -> Embedder:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size))
    params = init(module, jax.random.key(0))
    return Embedder(module, params, tokenizer, PROMPTS, max_length=24)


def plain(texts: list[str], max_length: int = 24) -> np.ndarray:
    """Rows of texts that already have their prompt."""
    model = embedder()
    found = encode(
        model.module, model.params, model.tokenizer, texts, max_length=max_length
    )
    assert found.dense is not None
    return found.dense


def query(texts: Any, **options: Any) -> np.ndarray:
    found = embedder().encode_query(texts, **options).dense
    assert found is not None
    return found


def test_prompts_go_before_the_texts() -> None:
    passage = embedder().encode_passage(text for text in TEXTS).dense
    assert passage is not None
    np.testing.assert_array_equal(
        query(TEXTS), plain([PROMPTS.query + text for text in TEXTS])
    )
    np.testing.assert_array_equal(
        passage, plain([PROMPTS.passage + text for text in TEXTS])
    )
    assert not np.allclose(query(TEXTS), passage, atol=1e-3)


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_options_are_passed_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def record(*_: Any, **options: Any) -> Encoded:
        seen.update(options)
        return Encoded()

    monkeypatch.setattr("m3jax.inference.embedder.encode", record)
    options = {"outputs": ("dense",), "batch_tokens": 7, "progress": True, "dim": 3}
    run = getattr(embedder(), f"encode_{kind}")
    run(["a"], max_length=9, **options)
    assert seen == {"max_length": 9, "mesh": None, "warn": True, **options}
    run(["a"])
    assert (seen["max_length"], seen["dim"]) == (24, None)


def test_length_of_a_call() -> None:
    short = query([TEXTS[0]], max_length=9)
    np.testing.assert_array_equal(short, plain([PROMPTS.query + TEXTS[0]], 9))
    assert not np.allclose(short, query([TEXTS[0]]), atol=1e-3)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {}, r"expected a list of texts, found one text. Put it in a list"),
        ([1], {}, r"texts\[0\]: expected a string, found int"),
        (
            ["a"],
            {"max_length": 65},
            "max_length: expected at most 64 tokens, as the model",
        ),
        (["a"], {"outputs": ("sparse",)}, "outputs: expected one or more of dense"),
        (["a"], {"outputs": ()}, "outputs: expected one or more of .*, found none"),
        (["a"], {"dim": 17}, "dim: expected a width from 1 to 16, found 17"),
        (["a"], {"dim": 0}, "dim: expected a width from 1 to 16, found 0"),
        (["a", "\ud800"], {}, r"texts\[1\]: expected Unicode text"),
    ],
)
@pytest.mark.parametrize("kind", ["query", "passage"])
def test_errors(texts: Any, options: dict[str, Any], message: str, kind: str) -> None:
    with pytest.raises(InputError, match=message):
        getattr(embedder(), f"encode_{kind}")(texts, **options)


def test_one_warning_counts_the_texts_that_are_cut() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        query(["sea", "the tide and the sea " * 20, "", "the sea " * 30], prompt="")
    (one,) = seen
    said = "2 of 4 texts are longer than 24 tokens and were cut"
    assert str(one.message).startswith(said)
    assert one.filename == __file__  # where the user called, not inside the library


@pytest.mark.parametrize("kind", ["query", "passage"])
def test_no_text_and_the_empty_text(kind: str) -> None:
    run = getattr(embedder(), f"encode_{kind}")
    assert run([]).dense.shape == (0, 16)
    assert run(iter(())).dense.dtype == np.float32
    (empty,) = run([""], prompt="").dense
    assert np.linalg.norm(empty) == pytest.approx(1, abs=1e-5)


def test_a_prompt_or_a_task() -> None:
    texts = list(TEXTS)
    told = dataclasses.replace(
        embedder(), prompts=Prompts("own: ", task="Find {task}: ")
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "own: "),
        ({"prompt": "the sea "}, "the sea "),
        ({"prompt": ""}, ""),
        ({"task": "the {tide}"}, "Find the {tide}: "),
    ]
    for options, prompt in cases:
        found = told.encode_query(texts, **options).dense
        expected = plain([prompt + text for text in texts])
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="expected a task or a prompt, found both"):
        told.encode_query(texts, task="a", prompt="b")
    with pytest.raises(InputError, match=r"task: expected no task, .* prompt= puts"):
        embedder().encode_query(texts, task="a")


def test_saved_and_loaded(tmp_path: Path) -> None:
    embedder().save(tmp_path / "model")
    loaded = m3jax.Embedder.load(tmp_path / "model")
    assert (loaded.prompts, loaded.max_length) == (PROMPTS, 24)
    assert loaded.module == embedder().module
    # On a device once, not with every call.
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.params))
    found = loaded.encode_query(TEXTS).dense
    assert found is not None
    np.testing.assert_array_equal(found, query(TEXTS))


def test_a_run_is_loaded_too(tmp_path: Path) -> None:
    embedder().save(tmp_path / "run" / "model")
    loaded = Embedder.load(str(tmp_path / "run"))
    assert loaded.prompts == PROMPTS


def test_scores_of_all_pairs() -> None:
    left, right = plain(list(TEXTS[:2])), plain(list(TEXTS[::-1]))
    scores = m3jax.scores.dense(Encoded(left), Encoded(right))
    assert (scores.dtype, scores.shape) == (np.float32, (2, 3))
    for i, j in np.ndindex(2, 3):
        product = sum(a * b for a, b in zip(left[i], right[j], strict=True))
        assert scores[i, j] == pytest.approx(product, abs=1e-6)
    assert scores[0, 2] == pytest.approx(1, abs=1e-6)  # a text and itself


@pytest.mark.parametrize(
    ("query", "passage", "message"),
    [
        (Encoded(), Encoded(np.eye(2)), "scores.dense: query: expected dense emb"),
        (Encoded(np.eye(2)), Encoded(), "scores.dense: passage: expected dense emb"),
        (Encoded(np.eye(2)), Encoded(np.eye(3)), "passages of width 2, .*found 3"),
    ],
)
def test_scores_refuse(query: Encoded, passage: Encoded, message: str) -> None:
    with pytest.raises(InputError, match=message):
        m3jax.scores.dense(query, passage)


def test_similarity_takes_what_both_sides_have() -> None:
    model = Embedder.load(Path(__file__).parent.parent / "golden" / "m3")
    texts = ["the cell is the smallest unit", "what is a cell?"]
    outputs = ("dense", "sparse", "multivec")
    whole = model.encode_query(texts, outputs=outputs)
    dense = model.encode_passage(texts)
    assert_equal = np.testing.assert_allclose
    assert_equal(model.similarity(whole, dense), scores.dense(whole, dense), rtol=1e-6)
    assert_equal(
        model.similarity(whole, whole, weights=(0, 2, 1)),
        scores.hybrid(whole, whole, weights=(0, 2, 1)),
    )
    assert (
        np.abs(model.similarity(whole, whole) - scores.dense(whole, whole)).max() > 0.01
    )
    sparse = model.encode_passage(texts, outputs=("sparse",))
    with pytest.raises(InputError, match="an output that both sides have, found none"):
        model.similarity(dense, sparse)
    with pytest.raises(InputError):
        model.similarity(whole, whole, weights=(1, 1))
