import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from m3jax.core.errors import InputError
from m3jax.data import tokenised, tokenize
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


def words(post: processors.PostProcessor | None) -> tokenize.Tokenizer:
    """A word a token, with special tokens around them."""
    names = ["[PAD]", "[CLS]", "[SEP]", "<end>", *"abcdefgh"]
    backend = Backend(models.WordLevel({name: i for i, name in enumerate(names)}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if post is not None:
        backend.post_processor = post
    return tokenize.Tokenizer(backend, 0, {})


BERT = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
AROUND = {
    "nothing": lambda: words(None),
    "one before, one after": lambda: words(BERT),
    "one after": lambda: tokenize.ending_with(words(None), "<end>"),
    "one before, two after": lambda: tokenize.ending_with(words(BERT), "<end>"),
}


@pytest.mark.parametrize("make", AROUND.values(), ids=AROUND)
def test_cut_as_the_tokenizer_itself_would(make: Callable[[], Any]) -> None:
    tokenizer, cutting = make(), make().backend
    texts = ["", "a", "a b c", "a b c d e f g h " * 9]
    for max_length in range(
        max(tokenizer.backend.num_special_tokens_to_add(False), 1), 80
    ):
        cutting.enable_truncation(max_length)
        found, cut = tokenize.encode_counted(tokenizer, texts, max_length=max_length)
        assert [row.tolist() for row in found] == [cutting.encode(t).ids for t in texts]
        assert cut == sum(bool(cutting.encode(text).overflowing) for text in texts)


@pytest.mark.parametrize("make", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("known", ["abc", "xyz"])
def test_tokens_at_the_end_whatever_the_vocabulary(make: Any, known: str) -> None:
    post = make().backend.post_processor
    backend = Backend(models.BPE(dict(zip(known, range(4, 7), strict=True)), []))
    backend.add_special_tokens([])
    if post is not None:
        backend.post_processor = post
    found = tokenised.end_tokens(tokenize.Tokenizer(backend, 0, {}))
    assert found == tokenised.end_tokens(make())
    # A tokenizer that raises where it does not know a word.
    words_only = Backend(models.WordLevel({word: i for i, word in enumerate(known)}))
    assert tokenised.end_tokens(tokenize.Tokenizer(words_only, 0, {})) == 0


def test_a_tokenizer_is_told_neither_to_pad_nor_to_cut() -> None:
    backend = tiny_tokenizer().backend
    backend.enable_truncation(3)
    backend.enable_padding(length=40)
    tokenizer = tokenize.Tokenizer(backend, 0, {})
    (row,) = tokenize.encode(tokenizer, [TEXTS[0]], max_length=30)
    assert (
        row.tolist()
        == tokenize.encode(tiny_tokenizer(), [TEXTS[0]], max_length=30)[0].tolist()
    )


def test_no_room_for_the_special_tokens() -> None:
    for texts in ([], ["a b"]):
        with pytest.raises(InputError, match="max_length: expected room for the spec"):
            tokenize.encode(words(BERT), texts, max_length=1)


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
