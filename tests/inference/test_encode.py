"""Texts of every length come back in order, whatever the batches and the mesh."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.core.mesh import (
    MeshConfig,
    batch_sharding,
    make_mesh,
    replicated,
    shardings,
)
from m3jax.core.types import Embeddings, Tokens
from m3jax.data import tokenize
from m3jax.inference import encode as encoding
from m3jax.inference.batches import RUNGS, plan
from m3jax.inference.encode import encode, on_devices
from m3jax.nn.bert import SHARDING
from m3jax.nn.embedding import EmbeddingModule, embed, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

LENGTH = 64
WORDS = " ".join(TEXTS).split()
# From one word to more than fit, in no order.
MIXED = [" ".join(WORDS[i : i + 1 + i * 7 % 31]) for i in range(30)] + ["", "sea"]


@functools.cache
def model() -> tuple[EmbeddingModule, Any, tokenize.Tokenizer]:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size))
    return module, init(module, jax.random.key(0)), tokenizer


@functools.cache
def in_one_batch(max_length: int = LENGTH) -> np.ndarray:
    """All texts in their order, in one batch as wide as the model allows."""
    module, params, tokenizer = model()
    rows = tokenize.encode(tokenizer, MIXED, max_length=max_length)
    tokens = Tokens(*map(jnp.asarray, tokenize.pad(rows, LENGTH, tokenizer.pad_id)))
    return np.asarray(jax.jit(lambda: embed(module, params, tokens).dense)())


def dense(texts: Any, **options: Any) -> np.ndarray:
    found = encode(*model(), texts, **{"max_length": LENGTH, **options}).dense
    assert isinstance(found, np.ndarray)
    return found


class Spy:
    """Stands in for the compiled function and notes what it is given."""

    def __init__(self, function: Any) -> None:
        self.function, self.seen = function, []

    def __call__(self, params: Any, tokens: Tokens, **static: Any) -> Embeddings:
        self.seen.append(tokens)
        return self.function(params, tokens, **static)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    found = Spy(encoding._embed)
    monkeypatch.setattr(encoding, "_embed", found)
    return found


@pytest.mark.parametrize("max_length", [LENGTH, 20])
@pytest.mark.parametrize("batch_tokens", [None, 200])
def test_rows_come_back_in_order(batch_tokens: int | None, max_length: int) -> None:
    found = dense(MIXED, batch_tokens=batch_tokens, max_length=max_length)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, in_one_batch(max_length), atol=2e-6)


def test_texts_differ() -> None:
    """Else no test of the order could fail."""
    assert len(set(MIXED)) == len(MIXED)
    found = in_one_batch()
    distance = np.linalg.norm(found[:, None] - found[None], axis=-1)
    assert np.min(distance + np.eye(len(found))) > 1e-3


def test_each_bucket_is_compiled_once() -> None:
    texts = [" ".join(["sea"] * n) for n in (2, 3, 20, 24, 44, 45)] * 5
    compiled: Any = encoding._embed
    compiled.clear_cache()
    dense(texts, batch_tokens=130)  # three buckets, the last batch of each not full
    assert compiled._cache_size() == 3
    dense(texts[::-1], batch_tokens=130)
    assert compiled._cache_size() == 3
    module, params, tokenizer = model()
    again = EmbeddingModule(module.config)  # equal, so nothing is compiled for it
    params = jax.tree.map(lambda leaf: leaf + 1, params)  # as training changes them
    encode(again, params, tokenizer, texts, max_length=LENGTH, batch_tokens=130)
    assert compiled._cache_size() == 3


def test_batches_are_padded_with_empty_rows(spy: Spy) -> None:
    dense(["sea", "sea", "sea"], batch_tokens=1_000)
    (tokens,) = spy.seen
    assert tokens.ids.shape == tokens.mask.shape == (4, 16)
    assert tokens.mask.any(1).tolist() == [True, True, True, False]
    assert (tokens.ids[~tokens.mask] == model()[2].pad_id).all()


def test_default_batch_on_a_cpu(spy: Spy) -> None:
    dense(["sea"] * 200)
    assert [tokens.ids.shape for tokens in spy.seen] == [(64, 16)] * 4


def test_longest_first_and_one_batch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Result:
        def __init__(self, name: str, rows: int) -> None:
            self.name, self.rows = name, rows

        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            log.append(f"fetch {self.name}")
            return np.ones((self.rows, 2), np.float32)

    def run(params: Any, tokens: Tokens, **_: Any) -> Embeddings:
        rows, length = tokens.ids.shape
        log.append(f"run {length}")
        return Embeddings(Result(f"{length}", rows))

    monkeypatch.setattr(encoding, "_embed", run)
    dense([" ".join(["sea"] * n) for n in (2, 45, 24)])
    assert log == ["run 48", "run 32", "fetch 48", "run 16", "fetch 32", "fetch 16"]


@pytest.mark.parametrize("sharded_params", [False, True])
def test_mesh_shares_the_rows(spy: Spy, sharded_params: bool) -> None:
    module, params, tokenizer = model()
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    if sharded_params:
        params = jax.device_put(params, shardings(mesh, params, SHARDING))
    else:
        params = jax.device_get(params)
    found = encode(
        module, params, tokenizer, MIXED, max_length=LENGTH, batch_tokens=600, mesh=mesh
    )
    assert found.dense is not None
    np.testing.assert_allclose(found.dense, in_one_batch(), atol=2e-6)
    for tokens in spy.seen:
        assert tokens.ids.sharding == tokens.mask.sharding == batch_sharding(mesh)
        assert len(tokens.ids) % 4 == 0
    assert len(spy.seen) > 3


@pytest.mark.parametrize("mesh", [False, True])
def test_no_texts(mesh: bool) -> None:
    found = dense([], mesh=make_mesh(MeshConfig()) if mesh else None)
    assert found.shape == (0, 16)
    assert found.dtype == np.float32


def test_generators_and_names_of_one_output() -> None:
    expected = dense(MIXED[:3])
    assert np.array_equal(dense(text for text in MIXED[:3]), expected)
    assert np.array_equal(dense(MIXED[:3], outputs="dense"), expected)
    assert np.array_equal(dense(MIXED[:3], outputs=["dense"]), expected)


def test_many_texts_are_tokenised_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dense(MIXED)
    monkeypatch.setattr(encoding, "_CHUNK", 7)
    np.testing.assert_array_equal(dense(MIXED), expected)


def test_progress_is_silent_without_a_terminal(capfd: pytest.CaptureFixture) -> None:
    dense(MIXED[:3], progress=True)
    assert capfd.readouterr() == ("", "")


def test_parameters_stay_where_they_are() -> None:
    mesh = make_mesh(MeshConfig())
    on_mesh = jax.device_put(np.ones(8), batch_sharding(mesh))
    moved = on_devices({"a": on_mesh, "b": np.ones(8)}, replicated(mesh))
    assert moved["a"] is on_mesh
    assert moved["b"].sharding == replicated(mesh)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["a", None], {}, r"texts\[1\]: expected a string, found NoneType"),
        (["a", "b", b"c"], {}, r"texts\[2\]: expected a string, found bytes"),
        ("abc", {}, r"texts: expected a list of texts, found one text. Put it in a"),
        (["a\ud800"], {}, r"texts\[0\]: expected Unicode text, found half of a surr"),
        (["a"], {"max_length": 1}, "max_length: expected room for the special tokens"),
        ([], {"max_length": 0}, "max_length: expected room for the special tokens"),
        (["a"], {"batch_tokens": 0}, "batch_tokens: expected a positive number, found"),
        (["a"], {"outputs": ("sparse",)}, "outputs: expected one or more of dense"),
        (
            [],
            {"outputs": ()},
            r"outputs: expected one or more of dense, .*, found none",
        ),
        (
            ["sea " * 99],
            {"max_length": 65},
            "expected at most 64 tokens, found 65",
        ),
    ],
)
def test_errors_say_where(texts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dense(texts, **options)


@settings(max_examples=100, deadline=None)
@given(
    drawn=st.lists(st.integers(1, 100), max_size=60),
    longest=st.integers(100, 140),
    batch_tokens=st.integers(1, 3_000),
    shards=st.integers(1, 8),
)
def test_plan(drawn: list[int], longest: int, batch_tokens: int, shards: int) -> None:
    lengths = np.array(drawn, np.int64)
    batches = plan(
        lengths, max_length=longest, batch_tokens=batch_tokens, shards=shards
    )
    members = np.concatenate([np.empty(0, int), *(one.members for one in batches)])
    assert sorted(members) == list(range(len(lengths)))
    assert (np.diff(lengths[members]) <= 0).all()  # the longest first
    edges = [rung for rung in RUNGS if rung < longest] + [longest]
    for batch in batches:
        assert batch.rows % shards == 0
        assert batch.rows == shards or batch.rows * batch.length <= batch_tokens
        assert 0 < len(batch.members) <= batch.rows
        for length in lengths[batch.members]:
            assert batch.length == min(edge for edge in edges if edge >= length)
    shapes = {(batch.length, batch.rows) for batch in batches}
    assert len(shapes) == len({batch.length for batch in batches})
    for length, rows in shapes:
        of_length = [batch for batch in batches if batch.length == length]
        assert all(len(batch.members) == rows for batch in of_length[:-1])
        # Less than half is filled up, but for what the shards ask.
        texts = sum(len(batch.members) for batch in of_length)
        assert len(of_length) > 1 or rows < 2 * texts + shards


def test_ladder() -> None:
    assert RUNGS[:12] == (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1_024)
    assert max(RUNGS) > 65_536
