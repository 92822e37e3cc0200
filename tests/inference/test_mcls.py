"""MCLS from end to end: a CLS every n tokens, their states averaged."""

import dataclasses
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.types import Tokens
from m3jax.data import tokenize
from m3jax.inference.embedder import Embedder
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import make_encoder

GOLDEN = Path(__file__).parent.parent / "golden"
EVERY = 8


def test_a_long_text_has_a_cls_every_n_tokens() -> None:
    plain = Embedder.load(GOLDEN / "m3")
    config = dataclasses.replace(plain.module.config, pooling="mcls", mcls_every=EVERY)
    model = dataclasses.replace(plain, module=EmbeddingModule(config))
    text = "the cell is the smallest unit of life, what is a cell? " * 3
    row = tokenize.encode(model.tokenizer, [text], max_length=500)[0]
    assert len(row) > 4 * EVERY
    body = row[1:-1]
    parts = [body[i : i + EVERY] for i in range(0, len(body), EVERY)]
    ids = np.concatenate([*(np.r_[row[0], part] for part in parts), row[-1:]])
    tokens = Tokens(jnp.asarray(ids)[None], jnp.ones((1, len(ids)), bool))
    encoder = make_encoder(config.encoder)
    states = np.asarray(encoder.apply({"params": model.params["encoder"]}, tokens))[0]
    mean = states[:: EVERY + 1][: len(parts)].mean(0)
    expected = mean / np.linalg.norm(mean)
    found = model.encode_passage([text, "a cell"], max_length=500).dense
    assert found is not None
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    # A text of one part is its CLS alone, and long ones keep to their length.
    short = plain.encode_passage(["a cell"]).dense
    assert short is not None
    np.testing.assert_allclose(found[1], short[0], atol=1e-5)


@pytest.mark.parametrize("every", [1, 2, 7, 256])
def test_the_length_holds_with_every_cls_in_it(every) -> None:
    for length in range(3, 60):
        room = tokenize.room_for_first(length, every)
        longest = tokenize.repeat_first(np.arange(room), every)
        assert len(longest) <= length
        more = tokenize.repeat_first(np.arange(room + 1), every)
        assert len(more) > length or room == length


def test_only_a_model_with_cls_takes_it() -> None:
    with pytest.raises(InputError, match="a model with pooling cls, for mcls"):
        Embedder.load(GOLDEN / "qwen3", pooling="mcls")
    assert Embedder.load(GOLDEN / "m3", pooling="mcls").module.config.mcls_every == 256


def test_a_bare_language_model_has_to_be_told_its_pooling(tmp_path) -> None:
    shutil.copytree(GOLDEN / "qwen3", tmp_path / "bare")
    (tmp_path / "bare" / "modules.json").unlink()
    with pytest.raises(InputError, match='Name pooling="last"'):
        Embedder.load(tmp_path / "bare")
    config = Embedder.load(tmp_path / "bare", pooling="mean").module.config
    assert config.pooling == "mean"
