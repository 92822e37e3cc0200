"""Texts to token ids."""

import json
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, processors
from tokenizers import Tokenizer as Backend

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.tokenised import cut, end_tokens

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
# Files of tokenizers from before tokenizer.json.
_OLDER = ("vocab.txt", "sentencepiece.bpe.model", "merges.txt")


@dataclass(frozen=True)
class Tokenizer:
    """A fast tokenizer that adds its special tokens and knows its padding.

    Attributes:
        backend: the tokenizer; it is told neither to pad nor to cut.
        pad_id: id that fills rows up.
        settings: content of tokenizer_config.json.
    """

    backend: Backend
    pad_id: int
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        """No state of it: threads share it, and it is compared by its text."""
        self.backend.no_padding()
        self.backend.no_truncation()

    @property
    def vocab_size(self) -> int:
        """Rows that a table of all ids needs; some vocabularies have gaps."""
        return max(self.backend.get_vocab().values(), default=-1) + 1

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids that frame a text or stand for none of it: these weigh nothing."""
        names = ("cls_token", "sep_token", "eos_token", "pad_token", "unk_token")
        tokens = (_content(self.settings.get(name)) for name in names)
        ids = {self.backend.token_to_id(token) for token in tokens if token}
        return tuple(sorted({self.pad_id, *ids} - {None}))


def load(folder: str | Path) -> Tokenizer:
    """Open the tokenizer of a Hugging Face folder.

    Without tokenizer.json, transformers makes a fast tokenizer of the older files
    (vocab.txt, sentencepiece.bpe.model, vocab.json with merges.txt).

    Args:
        folder: has the files of a tokenizer.

    Returns:
        The tokenizer.

    Raises:
        InputError: a file is missing or damaged, or no padding token is named.

    Example:
        >>> load("no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no: expected a tokenizer: tokenizer.json, \
vocab.txt, sentencepiece.bpe.model or merges.txt, found none of them
    """
    folder = Path(folder)
    path = folder / "tokenizer.json"
    settings = {
        **_special_tokens(folder / "special_tokens_map.json"),
        **_settings(folder / "tokenizer_config.json"),
    }
    if path.is_file():
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError("a tokenizer", str(error), where=str(path)) from None
    elif any((folder / name).is_file() for name in _OLDER):
        backend, names = _converted(folder)
        settings = {**names, **settings}
    else:
        raise InputError(
            f"a tokenizer: tokenizer.json, {', '.join(_OLDER[:-1])} or {_OLDER[-1]}",
            "none of them",
            where=str(folder),
        )
    pad = _content(settings.get("pad_token"))
    if pad is None and backend.padding is not None:
        pad = backend.padding["pad_token"]
        settings["pad_token"] = pad
    if pad is None:  # FacebookAI/roberta-base names it nowhere else
        number = _settings(folder / "config.json").get("pad_token_id")
        tokens = {id: token for token, id in backend.get_vocab().items()}
        pad = tokens.get(number) if type(number) is int else None
        settings["pad_token"] = pad
    pad_id = None if pad is None else backend.token_to_id(pad)
    if pad_id is None:
        raise InputError(
            "a pad_token of the vocabulary",
            repr(pad),
            where=f"{folder}/tokenizer_config.json",
        )
    return Tokenizer(backend, pad_id, settings)


def ending_with(tokenizer: Tokenizer, token: str) -> Tokenizer:
    """Make sure that every text ends with a token, also after it was cut.

    Qwen3-Embedding pools its last token, which has to be <|endoftext|>; older exports
    of its tokenizer do not append it.

    Args:
        tokenizer: changed in place where it does not end texts so.
        token: of the vocabulary.

    Returns:
        The tokenizer.

    Raises:
        InputError: the vocabulary has no such token.

    Example:
        >>> from tokenizers.models import WordLevel
        >>> backend = Backend(WordLevel({"a": 0, "end": 1}))
        >>> tokenizer = ending_with(Tokenizer(backend, 1, {}), "end")
        >>> encode(tokenizer, ["a"], max_length=9)[0].tolist()
        [0, 1]
    """
    backend = tokenizer.backend
    number = backend.token_to_id(token)
    if number is None:
        raise InputError(f"a vocabulary with {token}", "none", where="tokenizer")
    if backend.encode("").ids[-1:] == [number]:
        return tokenizer
    append = processors.TemplateProcessing(
        single=f"$A {token}",
        pair=f"$A $B:1 {token}:1",
        special_tokens=[(token, number)],
    )
    before = backend.post_processor
    backend.post_processor = (
        append if before is None else processors.Sequence([before, append])
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, *, max_length: int) -> None:
    """Write the two files that `load` and Hugging Face's AutoTokenizer read.

    Args:
        tokenizer: what is written.
        folder: an existing folder.
        max_length: longest text that the model takes, in tokens.

    Raises:
        OSError: the folder cannot be written to.
    """
    # Where none is named, transformers takes the class of the model's type, and that
    # of XLM-R does not read the tokenizer of a RoBERTa.
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer.settings,
        "model_max_length": max_length,
    }
    files.write_text(folder / "tokenizer.json", tokenizer.backend.to_str(pretty=True))
    files.write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2))


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int
) -> list[np.ndarray]:
    """Texts to ids, special tokens included.

    Args:
        tokenizer: which tokenizer.
        texts: any texts; an empty one gives its special tokens alone.
        max_length: tokens kept of each, special ones counted.

    Returns:
        One int32 array a text.

    Raises:
        InputError: a length that does not even hold the special tokens.
    """
    return encode_counted(tokenizer, texts, max_length=max_length)[0]


def encode_counted(
    tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int
) -> tuple[list[np.ndarray], int]:
    """Texts to ids as `encode` does it, and how many of them were cut."""
    require_room(tokenizer, max_length)
    # Cut here: a tokenizer that cuts makes objects of all that it cuts off.
    found = [_ids(row) for row in tokenizer.backend.encode_batch_fast(list(texts))]
    long = [i for i, row in enumerate(found) if len(row) > max_length]
    if long:
        end = end_tokens(tokenizer)
        for i in long:
            found[i] = cut(found[i], max_length, end=end)
    return found, len(long)


def require_room(tokenizer: Tokenizer, max_length: int) -> None:
    """Refuse a length that does not even hold the special tokens.

    Args:
        tokenizer: which tokenizer.
        max_length: tokens kept of each text.

    Raises:
        InputError: it is too short.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> require_room(tiny_tokenizer(), 1)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: max_length: expected room for the special \
tokens, found 1 tokens
    """
    if max_length < max(tokenizer.backend.num_special_tokens_to_add(False), 1):
        expected, found = "room for the special tokens", f"{max_length} tokens"
        raise InputError(expected, found, where="max_length")


def _ids(row: Encoding) -> np.ndarray:
    """The ids of a text; numpy takes twice as long to read a list."""
    ids = row.ids
    found = np.empty(len(ids), np.int32)
    struct.pack_into(f"{len(ids)}i", found.data, 0, *ids)
    return found


def repeat_first(row: np.ndarray, every: int) -> np.ndarray:
    """Put the first token of a text, CLS, before every n of its other tokens (MCLS).

    Args:
        row: ids, from CLS to EOS.
        every: n; EOS is not counted.

    Returns:
        The longer row.

    Source: BGE-M3, section 3.4 (arXiv:2402.03216).

    Example:
        >>> repeat_first(np.array([0, 5, 6, 7, 2]), 2).tolist()
        [0, 5, 6, 0, 7, 2]
    """
    at = np.arange(1 + every, len(row) - 1, every)
    return np.insert(row, at, row[0])


def room_for_first(max_length: int, every: int) -> int:
    """Most tokens that `repeat_first` makes no more than `max_length` of.

    Example:
        >>> room_for_first(6, 2)
        5
    """
    length = max_length
    while len(np.arange(1 + every, length - 1, every)) + length > max_length:
        length -= 1
    return length


def pad(
    rows: Sequence[np.ndarray], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fill rows up on the right.

    Args:
        rows: ids of each text, none longer than `length`.
        length: width of the result.
        pad_id: what fills.

    Returns:
        ids int32 `[n l]` and mask bool `[n l]`.

    Example:
        >>> pad([np.array([5, 6], np.int32)], 3, 0)[0].tolist()
        [[5, 6, 0]]
    """
    ids = np.full((len(rows), length), pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = True
    return ids, mask


def _content(token: Any) -> str | None:
    """A special token, which the files write as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (ValueError, AttributeError) as error:
        raise InputError("JSON, an object", str(error), where=str(path)) from None


def _special_tokens(path: Path) -> dict[str, Any]:
    """The special tokens of an older folder, which has them in a file of their own."""
    found = _settings(path)
    return {name: _content(token) for name, token in found.items() if name in SPECIAL}


def _converted(folder: Path) -> tuple[Backend, dict[str, Any]]:
    """A fast tokenizer made of a slow one's files, and its special tokens."""
    # It says at every import that there is no torch; tokenizers need none.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import AutoTokenizer  # slow to import, rarely needed

    try:
        made = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        backend = Backend.from_str(made.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises all kinds
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError("the files of a tokenizer", text, where=str(folder)) from None
    return backend, {name: getattr(made, name, None) for name in SPECIAL}
