"""Where words begin among the pieces of a vocabulary."""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.tokenize import Tokenizer

# Blocks of scripts that put no space between words: Thai, Lao, Tibetan; Myanmar; Khmer;
# Tai and Balinese scripts; CJK and Yi; Javanese, Cham and Tai Viet; CJK once more;
# narrow kana; kana and CJK of the upper planes.
_UNSPACED = (
    (0x0E00, 0x0FFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19FF),
    (0x1A20, 0x1AAF),
    (0x1B00, 0x1B7F),
    (0x2E80, 0xA4CF),
    (0xA980, 0xA9FF),
    (0xAA00, 0xAADF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)
_SPACE = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, eq=False)
class Words:
    """What of a vocabulary one has to know to mask whole words.

    A word begins at a piece of `starts`, after a piece of `ends`, and wherever else the
    piece before is special or is not there.

    Attributes:
        starts: bool `[v]`, pieces that begin a word.
        ends: bool `[v]`, pieces that nothing of the same word follows.
        mask_id: id of the mask token.
        special_ids: ids that frame a text or stand for none of it, the mask among them.
        vocab_size: rows that a table of all ids needs.
    """

    starts: np.ndarray
    ends: np.ndarray
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int


def stand_in(vocab_size: int) -> Words:
    """Words of no tokenizer, to trace or compile a step where only sizes matter.

    Example:
        >>> stand_in(9).vocab_size
        9
    """
    some = np.ones(vocab_size, bool)
    return Words(some, some, mask_id=0, special_ids=(), vocab_size=vocab_size)


def word_starts(tokenizer: Tokenizer) -> Words:
    """Tell from a vocabulary which pieces begin a word.

    The vocabulary's own mark decides: no ## before it (WordPiece), a space, written as
    "▁" (SentencePiece) or in its bytes (byte-level BPE), or </w> at the end of the
    piece before. Where the mark leaves it open, as after a bracket, punctuation is a
    word of its own. In scripts without spaces every piece is a word.

    Args:
        tokenizer: with a mask token.

    Returns:
        The words; made once, on the host.

    Raises:
        InputError: there is no mask token, or no such mark.

    Source: whole-word masking of BERT (Devlin et al. 2018, arXiv:1810.04805).

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> words = word_starts(tiny_tokenizer())
        >>> encoding = tiny_tokenizer().backend.encode("tides, moons")
        >>> [text for text, id in zip(encoding.tokens, encoding.ids, strict=True)
        ...     if words.starts[id]]
        ['[CLS]', '▁t', ',', '▁m', '[SEP]']
    """
    backend = tokenizer.backend
    mask = tokenizer.settings.get("mask_token")
    mask = mask.get("content") if isinstance(mask, dict) else mask
    mask_id = None if mask is None else backend.token_to_id(mask)
    if mask_id is None:
        raise InputError(
            "a tokenizer with a mask token",
            "none" if mask is None else f"{mask}, which is not in its vocabulary",
            where="tokenizer",
            do="Masked words need one: take the tokenizer of a BERT or an XLM-R.",
        )
    added = backend.get_added_tokens_decoder()
    special = {mask_id, *tokenizer.special_ids}
    special |= {number for number, token in added.items() if token.special}
    size = tokenizer.vocab_size
    starts, ends = np.ones(size, bool), np.ones(size, bool)
    bounds = _bounds(json.loads(backend.to_str()))
    for piece, number in backend.get_vocab().items():
        if number not in added:
            starts[number], ends[number] = bounds(piece)
    return Words(starts, ends, mask_id, tuple(sorted(special)), size)


# Of a piece: whether it begins a word, and whether nothing of the word follows it.
_Bounds = Callable[[str], tuple[bool, bool]]


def _bounds(spec: dict[str, Any]) -> _Bounds:
    """How this kind of vocabulary marks its words."""
    model, kind = spec["model"], spec["model"]["type"]
    around = [spec.get(name) for name in ("normalizer", "pre_tokenizer", "decoder")]
    about = json.dumps(around, ensure_ascii=False)
    if kind == "WordLevel":
        return lambda piece: (True, True)
    if prefix := model.get("continuing_subword_prefix"):

        def with_prefix(piece: str) -> tuple[bool, bool]:
            inner = piece.startswith(prefix) and piece != prefix
            end = _of_bytes(piece.removeprefix(prefix).encode())[1]
            return not inner or _unspaced(ord(piece[len(prefix)])), end

        return with_prefix
    if '"ByteLevel"' in about:
        byte = {letter: number for number, letter in enumerate(_byte_letters())}
        return lambda piece: _of_bytes(bytes(byte[letter] for letter in piece))
    if _SPACE in about:

        def with_space(piece: str) -> tuple[bool, bool]:
            if found := _BYTE.fullmatch(piece):
                return _of_bytes(bytes([int(found[1], 16)]))
            return _of_bytes(piece.replace(_SPACE, " ").encode())

        return with_space
    if suffix := model.get("end_of_word_suffix"):

        def with_suffix(piece: str) -> tuple[bool, bool]:
            start, end = _of_bytes(piece.removesuffix(suffix).encode())
            return start, end or piece.endswith(suffix)

        return with_suffix
    raise InputError(
        "a vocabulary that marks where words begin or end: ##, ▁, Ġ or </w>",
        f"a {kind} model without any",
        where="tokenizer",
    )


def _of_bytes(piece: bytes) -> tuple[bool, bool]:
    """By the first and the last character, of which a part may be all there is."""
    if not piece:
        return False, False
    start = not _goes_on(piece[0]) and all(
        _unspaced(code) or _breaks(code, space=True) for code in _codes(piece)
    )
    at = len(piece) - 1
    while at and _goes_on(piece[at]):
        at -= 1
    last = piece[at:]
    if _goes_on(last[0]) or len(last) < _width(last[0]):
        return start, False
    code = _codes(last)[0]
    return start, _unspaced(code) or _breaks(code, space=False)


def _goes_on(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


def _width(lead: int) -> int:
    """Bytes of a character in UTF-8."""
    return 1 + sum(lead >= least for least in (0xC0, 0xE0, 0xF0))


def _codes(piece: bytes) -> tuple[int, int]:
    """The least and the greatest code that the first character may have."""
    width = _width(piece[0])
    least = greatest = piece[0] if width == 1 else piece[0] & (0x7F >> width)
    for at in range(1, width):
        known = piece[at] & 0x3F if at < len(piece) else None
        least = least << 6 | (0 if known is None else known)
        greatest = greatest << 6 | (0x3F if known is None else known)
    return least, greatest


def _unspaced(code: int) -> bool:
    return any(low <= code <= high for low, high in _UNSPACED)


def _breaks(code: int, *, space: bool) -> bool:
    """Whether a character is none of a word: punctuation, perhaps space."""
    letter = chr(min(code, 0x10FFFF))
    if letter.isspace():
        return space
    return letter not in "'\u2019" and unicodedata.category(letter)[0] not in "LNM"


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level BPE (GPT-2)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    letters, others = [], 0
    for byte in range(256):
        letters.append(chr(byte if byte in plain else 256 + others))
        others += byte not in plain
    return letters
