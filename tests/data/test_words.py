"""Where words begin, for the vocabularies that exist."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from m3jax.core.errors import InputError
from m3jax.data.tokenize import Tokenizer
from m3jax.data.words import Words, word_starts

SPECIAL = ["[PAD]", "[UNK]", "[MASK]"]
SETTINGS = {"mask_token": {"content": "[MASK]"}, "unk_token": "[UNK]"}


def made(model, before, settings=SETTINGS) -> Tokenizer:
    backend = Backend(model)
    if before is not None:
        backend.pre_tokenizer = before
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend, 0, settings)


def numbered(*pieces: str) -> dict[str, int]:
    return {piece: at for at, piece in enumerate((*SPECIAL, *pieces))}


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text by the rule, pieces joined by |."""
    words, found = word_starts(tokenizer), []
    encoding = tokenizer.backend.encode(text)
    before = None
    for number, piece in zip(encoding.ids, encoding.tokens, strict=True):
        apart = before is None or before in words.special_ids or words.ends[before]
        if apart or words.starts[number] or number in words.special_ids:
            found.append(piece)
        else:
            found[-1] += f"|{piece}"
        before = number
    return found


def test_wordpiece() -> None:
    vocabulary = numbered("river", "##s", "##un", ",", "##ひ", "ら", "##ら", "##x")
    tokenizer = made(
        models.WordPiece(vocabulary, unk_token="[UNK]"),
        pre_tokenizers.BertPreTokenizer(),
    )
    assert words_of(tokenizer, "rivers,riverunx ☃ s") == [
        "river|##s",
        ",",
        "river|##un|##x",
        "[UNK]",
        "[UNK]",
    ]
    # Kana are not put apart by BERT, and would be one word.
    assert words_of(tokenizer, "らひらx") == ["ら", "##ひ", "##ら", "##x"]


def test_sentencepiece() -> None:
    pieces = [
        "▁river",
        "s",
        "▁",
        ",",
        "bank",
        "你",
        "好吗",
        "สวัส",
        "ดี",
        "▁(",
        "'",
        "<0xE9>",
    ]
    pieces = [*SPECIAL, *pieces, "<0xBE>"]
    model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1)
    tokenizer = made(model, pre_tokenizers.Metaspace())
    found = words_of(tokenizer, "rivers,bank 你好吗s (bank's สวัสดี bank")
    assert found == [
        "▁river|s",
        ",",
        "bank",
        "▁",
        "你",
        "好吗",
        "s",
        "▁(",
        "bank|'|s",
        "▁",
        "สวัส",
        "ดี",
        "▁|bank",
    ]
    # A character in bytes is one piece of its word.
    words = word_starts(tokenizer)
    assert words.starts[pieces.index("<0xE9>")] and not words.ends[-2:].any()
    assert not words.starts[pieces.index("<0xBE>")]


def test_byte_level_bpe() -> None:
    letters = pre_tokenizers.ByteLevel.alphabet()
    merges = [("Ġ", "r"), ("r", "s"), ("ä", "½")]
    pieces = [*sorted(letters), *("".join(pair) for pair in merges)]
    tokenizer = made(
        models.BPE(numbered(*pieces), merges),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    found = words_of(tokenizer, "rs rs,r 你r don't\ns 세세")
    # "你" is E4 BD A0: its bytes stay together, and no script has to be known.
    assert found == [
        "rs",
        "Ġr|s",
        ",",
        "r",
        "Ġ",
        "ä½|ł|r",
        "Ġ|d|o|n|'|t",
        "Ċ|s",
        "Ġ|ì|Ħ|\u00b8|ì|Ħ|\u00b8",
    ]
    whole = made(
        models.BPE(numbered(*letters, "ä½", "ä½ł"), [("ä", "½"), ("ä½", "ł")]),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    assert words_of(whole, "r你你r") == ["r", "ä½ł", "ä½ł", "r"]


def test_words_know_their_vocabulary() -> None:
    tokenizer = made(models.WordLevel(numbered("a", "b"), "[UNK]"), None)
    words = word_starts(tokenizer)
    assert isinstance(words, Words)
    assert (words.mask_id, words.vocab_size) == (2, 5)
    assert words.special_ids == (0, 1, 2)
    assert np.all(words.starts)


@pytest.mark.parametrize(
    ("settings", "before", "said"),
    [
        ({}, pre_tokenizers.Metaspace(), "expected a tokenizer with a mask token"),
        (
            {"mask_token": "<mask>"},
            pre_tokenizers.Metaspace(),
            "found <mask>, which is not in its vocabulary",
        ),
        (SETTINGS, pre_tokenizers.Whitespace(), "found a BPE model without any"),
    ],
)
def test_what_has_no_words_is_refused(settings, before, said: str) -> None:
    tokenizer = made(models.BPE(numbered("a"), []), before, settings)
    with pytest.raises(InputError, match=said):
        word_starts(tokenizer)
