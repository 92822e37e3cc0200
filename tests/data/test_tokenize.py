import json
from pathlib import Path

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.data.vocabulary import TokenizerConfig, train
from m3jax.testing import TEXTS, tiny_tokenizer


def test_training_is_reproducible() -> None:
    """So a run that is killed before its first checkpoint starts the same again."""
    one, two = (tiny_tokenizer(TEXTS * 20, 90).backend.to_str() for _ in range(2))
    assert one == two


def test_writes_the_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    text, nothing, unknown = tokenize.encode(
        tokenizer, ["the sea", "", "\u4e2d"], max_length=16
    )
    token = tokenizer.backend.id_to_token
    assert [token(int(i)) for i in nothing] == ["[CLS]", "[SEP]"]
    assert token(int(text[0])) == "[CLS]" and token(int(text[-1])) == "[SEP]"
    assert "[UNK]" in [token(int(i)) for i in unknown]
    assert tokenizer.pad_id == 0 and text.dtype == np.int32


def test_case_and_spaces_are_folded_as_asked() -> None:
    tokenizer = tiny_tokenizer()
    plain, *others = tokenize.encode(
        tokenizer, ["the sea", " The  SEA ", "the\n\tsea"], max_length=16
    )
    assert all(np.array_equal(plain, other) for other in others)
    config = TokenizerConfig(vocab_size=64, lowercase=False)
    cased = train([text.upper() for text in TEXTS], config)
    upper, lower = tokenize.encode(cased, ["THE SEA", "the sea"], max_length=16)
    assert not np.array_equal(upper, lower)


@pytest.mark.parametrize("max_length", [3, 5, 8])
def test_long_texts_are_cut_and_keep_their_end(max_length: int) -> None:
    tokenizer = tiny_tokenizer()
    (cut,) = tokenize.encode(tokenizer, [TEXTS[0]], max_length=max_length)
    (whole,) = tokenize.encode(tokenizer, [TEXTS[0]], max_length=64)
    assert len(cut) == max_length < len(whole)
    assert cut[-1] == whole[-1] and np.array_equal(cut[:-1], whole[: max_length - 1])


def test_saved_and_opened_it_is_the_same(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenize.encode(tokenizer, TEXTS, max_length=4)  # leaves no trace in the file
    tokenize.save(tokenizer, tmp_path, max_length=32)
    again = tokenize.load(tmp_path)
    assert again.pad_id == tokenizer.pad_id
    for one, two in zip(
        tokenize.encode(tokenizer, TEXTS, max_length=64),
        tokenize.encode(again, TEXTS, max_length=64),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 32


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, "expected a tokenizer: tokenizer.json, vocab.txt"),
        ("tokenizer.json", "{", "tokenizer.json: expected a tokenizer"),
        ("tokenizer_config.json", None, "tokenizer_config.json: expected a pad_token"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: expected JSON"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json: expected JSON"),
        ("tokenizer_config.json", "{}", "expected a pad_token of the vocabulary"),
        (
            "tokenizer_config.json",
            '{"pad_token": "<none>"}',
            "expected a pad_token of the vocabulary, found '<none>'",
        ),
    ],
)
def test_damaged_files(
    tmp_path: Path, name: str, content: str | None, said: str
) -> None:
    tokenize.save(tiny_tokenizer(), tmp_path, max_length=32)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as error:
        tokenize.load(tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize("pad_id", [2, None, "2", True, -1, 10**30])
def test_a_padding_token_that_config_json_alone_names(tmp_path: Path, pad_id) -> None:
    tokenizer = tiny_tokenizer()
    tokenize.save(tokenizer, tmp_path, max_length=32)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": pad_id}))
    if pad_id != 2:
        with pytest.raises(InputError, match="expected a pad_token of the vocabulary"):
            tokenize.load(tmp_path)
        return
    found = tokenize.load(tmp_path)
    assert found.pad_id == 2
    assert found.settings["pad_token"] == tokenizer.backend.id_to_token(2)


def test_too_little_text() -> None:
    with pytest.raises(InputError, match="enough text to train 50 vocabulary entries"):
        train([""], TokenizerConfig(vocab_size=50))
