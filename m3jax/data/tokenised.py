"""Records whose texts are token ids, and the bytes that they are stored as.

A record is, little-endian and without gaps:

    u8 version, u8 kind, u8 flags, u32 texts, u32 positives
    u32 length of each text
    8 bytes, the content hash of each text
    f64 scores: of each positive and negative where there are such, or the one score
    u32 length and UTF-8 of the label, prompt and language that there are
    u16 or u32 ids of all texts, one after another
    u32 CRC-32 of all before

The texts stand in the order query, positives, negatives, or first, second.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text, content_hash

if TYPE_CHECKING:
    from m3jax.data.tokenize import Tokenizer

_VERSION = 1
_KINDS = (Pairs, Text, Scored, Labelled)
_HEAD = struct.Struct("<BBBII")
_U32 = struct.Struct("<I")
_WIDE, _POS_SCORES, _NEG_SCORES, _PROMPT, _LANGUAGE = 1, 2, 4, 8, 16


@dataclass(frozen=True, eq=False)
class TokenText:
    """A text as the model reads it.

    Attributes:
        ids: token ids, int32 `[l]`, special tokens and prompt included.
        digest: `content_hash` of the text without its prompt.
    """

    ids: np.ndarray
    digest: bytes

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same ids of the same text."""
        if not isinstance(other, TokenText):
            return NotImplemented
        return self.digest == other.digest and np.array_equal(self.ids, other.ids)

    def __hash__(self) -> int:
        """By the text."""
        return hash(self.digest)

    def __len__(self) -> int:
        """Tokens."""
        return len(self.ids)


def texts_of(record: Record) -> list[Any]:
    """The texts of a record: query, positives, negatives; or first, second.

    Args:
        record: of any kind; its texts are strings or `TokenText`.

    Returns:
        The texts. The label of a `Labelled` is none of them.

    Example:
        >>> texts_of(Pairs("q", ("p",), ("n",)))
        ['q', 'p', 'n']
    """
    if isinstance(record, Pairs):
        return [record.query, *record.pos, *record.neg]
    if isinstance(record, Scored):
        return [record.first, record.second]
    return [record.text]


def with_texts(record: Record, texts: Sequence[Any]) -> Record:
    """A record with other texts, in the order of `texts_of`.

    Args:
        record: of any kind.
        texts: as many as it has.

    Returns:
        The new record.

    Example:
        >>> with_texts(Text("a", language="en"), ["b"])
        Text(text='b', language='en')
    """
    new: list[Any] = list(texts)
    if isinstance(record, Pairs):
        middle = 1 + len(record.pos)
        pos, neg = tuple(new[1:middle]), tuple(new[middle:])
        return replace(record, query=new[0], pos=pos, neg=neg)
    if isinstance(record, Scored):
        return replace(record, first=new[0], second=new[1])
    return replace(record, text=new[0])


def digest(text: str | TokenText) -> bytes:
    """The content hash of a text, whether it is tokenised or not.

    Args:
        text: the text.

    Returns:
        8 bytes.

    Example:
        >>> digest("a") == digest(TokenText(np.array([5], np.int32), digest("a")))
        True
    """
    return text.digest if isinstance(text, TokenText) else content_hash(text)


def tokenizer_digest(tokenizer: "Tokenizer") -> str:
    """What tells one tokenizer from another.

    Args:
        tokenizer: any.

    Returns:
        Hex digits that are the same where all texts get the same ids.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> tokenizer_digest(tiny_tokenizer()) == tokenizer_digest(tiny_tokenizer())
        True
    """
    content = f"{tokenizer.pad_id} {tokenizer.backend.to_str()}"
    return blake2b(content.encode(), digest_size=16).hexdigest()


def end_tokens(tokenizer: "Tokenizer") -> int:
    """How many special tokens a tokenizer puts after every text.

    Args:
        tokenizer: any.

    Returns:
        Their number, for `shorten`.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> end_tokens(tiny_tokenizer())
        1
    """
    for special in _special(tokenizer.backend):
        if 0 in special:
            return special[::-1].index(0)
    return 0  # it makes no token of any text


def _special(backend: Any) -> Iterator[list[int]]:
    """For a word, and then for what the vocabulary has: which tokens are special."""
    if (found := _encoded(backend, "a")) is not None:
        yield found.special_tokens_mask
    for word in backend.get_vocab():
        if (found := _encoded(backend, word)) is not None:
            yield found.special_tokens_mask


def _encoded(backend: Any, text: str) -> Any:
    try:
        return backend.encode(text)
    except Exception:  # plain ones: an unknown word, and no token for such
        return None


def shorten(text: TokenText, length: int, *, end: int) -> TokenText:
    """Cut a text to fewer tokens, as if its tokenizer had been told to.

    Args:
        text: the text.
        length: tokens kept, more than `end`.
        end: special tokens that every text ends with.

    Returns:
        The text, with its first tokens and its last `end`.

    Example:
        >>> text = TokenText(np.array([101, 7, 8, 9, 102], np.int32), digest("a b c"))
        >>> shorten(text, 4, end=1).ids.tolist()
        [101, 7, 8, 102]
    """
    if len(text) <= length:
        return text
    return TokenText(cut(text.ids, length, end=end), text.digest)


def cut(ids: np.ndarray, length: int, *, end: int) -> np.ndarray:
    """Cut token ids as their tokenizer would have.

    Args:
        ids: of a text.
        length: tokens kept, more than `end`.
        end: special tokens that every text ends with.

    Returns:
        The first tokens and the last `end`; the ids themselves if they are few.

    Example:
        >>> cut(np.array([101, 7, 8, 9, 102]), 4, end=1).tolist()
        [101, 7, 8, 102]
    """
    if len(ids) <= length:
        return ids
    return np.concatenate([ids[: length - end], ids[len(ids) - end :]])


def encode(record: Record) -> bytes:
    """Turn a record of token ids into bytes, as the head of this file describes them.

    Args:
        record: of any kind; its texts are `TokenText`.

    Returns:
        The bytes.

    Example:
        >>> text = TokenText(np.array([101, 7, 102], np.int32), digest("a"))
        >>> decode(encode(Text(text))) == Text(text)
        True
    """
    texts: list[TokenText] = texts_of(record)
    ids = np.concatenate([text.ids for text in texts])
    wide = len(ids) > 0 and int(ids.max()) > 0xFFFF
    flags = _WIDE if wide else 0
    scores: list[float] = []
    strings: list[str] = []
    positives = 0
    if isinstance(record, Pairs):
        positives = len(record.pos)
        if record.pos_scores is not None:
            flags, scores = flags | _POS_SCORES, [*record.pos_scores]
        if record.neg_scores is not None:
            flags, scores = flags | _NEG_SCORES, [*scores, *record.neg_scores]
        if record.prompt is not None:
            flags, strings = flags | _PROMPT, [record.prompt]
    elif isinstance(record, Scored):
        scores = [record.score]
    elif isinstance(record, Labelled):
        strings = [record.label]
    if record.language is not None:
        flags, strings = flags | _LANGUAGE, [*strings, record.language]
    lengths = np.array([len(text) for text in texts], "<u4")
    parts = [
        _HEAD.pack(_VERSION, _KINDS.index(type(record)), flags, len(texts), positives),
        lengths.tobytes(),
        *(text.digest for text in texts),
        np.array(scores, "<f8").tobytes(),
        *(_U32.pack(len(data)) + data for data in map(str.encode, strings)),
        ids.astype("<u4" if wide else "<u2").tobytes(),
    ]
    data = b"".join(parts)
    return data + _U32.pack(zlib.crc32(data))


def decode(data: bytes) -> Record:
    """Turn bytes of `encode` back into the record.

    Args:
        data: the bytes.

    Returns:
        The record; its texts are `TokenText`.

    Raises:
        InputError: the bytes are damaged, or nothing that `encode` wrote.

    Example:
        >>> decode(b"{}")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: expected a tokenised record, found 2 bytes that \
are none
    """
    body = memoryview(data)[:-4]
    if len(data) < _HEAD.size + 4:
        _refuse(f"{len(data)} bytes that are none")
    if _U32.unpack_from(data, len(body))[0] != zlib.crc32(body):
        _refuse("bytes that are damaged, or are none")
    version, kind, flags, count, positives = _HEAD.unpack_from(body)
    if version != _VERSION:
        _refuse(f"one of format {version}, of another version of m3jax")
    try:
        return _record(_Reader(body, _HEAD.size), kind, flags, count, positives)
    except (ValueError, IndexError, struct.error) as error:
        _refuse(f"parts that do not fit together ({error})")


class _Reader:
    """Takes one part after another out of the bytes."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data, self.at = data, at

    def array(self, dtype: str, count: int) -> np.ndarray:
        array = np.frombuffer(self.data, dtype, count, self.at)
        self.at += array.nbytes
        return array

    def string(self) -> str:
        (size,) = _U32.unpack_from(self.data, self.at)
        return self.array("u1", size + 4)[4:].tobytes().decode()


def _record(
    reader: _Reader, kind: int, flags: int, count: int, positives: int
) -> Record:
    lengths = reader.array("<u4", count)
    digests = reader.array("V8", count)
    negatives = count - 1 - positives
    kind_of = _KINDS[kind]
    values: dict[str, Any] = {}
    if kind_of is Scored:
        values["score"] = reader.array("<f8", 1).item()
    if flags & _POS_SCORES:
        values["pos_scores"] = tuple(reader.array("<f8", positives).tolist())
    if flags & _NEG_SCORES:
        values["neg_scores"] = tuple(reader.array("<f8", negatives).tolist())
    if kind_of is Labelled:
        values["label"] = reader.string()
    if flags & _PROMPT:
        values["prompt"] = reader.string()
    if flags & _LANGUAGE:
        values["language"] = reader.string()
    ids = reader.array("<u4" if flags & _WIDE else "<u2", int(lengths.sum()))
    if reader.at != len(reader.data):
        raise ValueError("something is left over")
    first, *others = _texts(ids.astype(np.int32), lengths, digests)
    if kind_of is Pairs:
        pos, neg = tuple(others[:positives]), tuple(others[positives:])
        return Pairs(first, pos, neg, **values)
    if kind_of is Scored:
        return Scored(first, others[0], **values)
    return kind_of(first, **values)


def _texts(ids: np.ndarray, lengths: np.ndarray, digests: np.ndarray) -> Iterator[Any]:
    start = 0
    for length, found in zip(lengths.tolist(), digests, strict=True):
        yield TokenText(ids[start : start + length], found.tobytes())
        start += length


def _refuse(found: str) -> NoReturn:
    raise InputError("a tokenised record", found)
