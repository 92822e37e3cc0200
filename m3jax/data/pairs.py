"""A query and a passage as one row of token ids, as rerankers read them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.tokenize import Tokenizer

# The chat of Qwen3-Reranker's model card: before, and after, what is to be judged.
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on "
    "the Query and the Instruct provided. Note that the answer can only be "
    '"yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
BODY = "<Instruct>: {task}\n<Query>: {query}\n<Document>: {passage}"
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

# Ids of each pair, types of each pair, and how many pairs were cut.
PairRows = tuple[list[np.ndarray], list[np.ndarray] | None, int]


@dataclass(frozen=True)
class PairFormat:
    """How a reranker wants to read a query and a passage.

    Attributes:
        head: classifier = the tokenizer's own template of two texts; yes_no = the chat
            of Qwen3-Reranker.
        types: whether the encoder tells query and passage apart by token types;
            classifier only.
        task: what the search is for; yes_no only.
    """

    head: Literal["classifier", "yes_no"]
    types: bool = False
    task: str = ""


@dataclass(frozen=True)
class Pairing:
    """How pairs of a training become ids.

    Attributes:
        tokenizer: of the reranker.
        format: how it reads them; its task is that of rows without one.
        max_length: tokens kept of each pair, special ones counted.
        own_tasks: whether what stands before a row's query is its task; False where the
            prompts are those of another model.
    """

    tokenizer: Tokenizer
    format: PairFormat
    max_length: int
    own_tasks: bool = True

    @property
    def beside(self) -> int:
        """Tokens of a pair, less those of a query and a passage read alone.

        Exact for a classifier. In a chat words may be split otherwise where texts meet:
        a token or two, which are cut off.
        """
        backend = self.tokenizer.backend
        alone = 2 * backend.num_special_tokens_to_add(False)
        if self.format.head == "classifier":
            return backend.num_special_tokens_to_add(True) - alone
        texts = [PREFIX, SUFFIX, BODY.format(task="", query="", passage="")]
        return sum(map(len, _plain(self.tokenizer, texts))) - alone

    def width(self, alone: int) -> int:
        """Tokens that pairs are padded to, of texts that have `alone` tokens alone."""
        return min(self.max_length, -(-(alone + self.beside) // 8) * 8)

    def __call__(
        self, pairs: Sequence[tuple[str, str]], tasks: Sequence[str], max_length: int
    ) -> PairRows:
        """Read pairs, each with its own task; see `encode_pairs`."""
        ids: list[np.ndarray] = [np.empty(0, np.int32)] * len(pairs)
        types, cut = list(ids), 0
        for task in dict.fromkeys(tasks):
            members = [i for i, own in enumerate(tasks) if own == task]
            format = self.format
            if format.head == "yes_no":
                format = dataclasses.replace(format, task=task)
            elif task:
                raise InputError("no task: this reranker takes none", repr(task))
            given = [pairs[i] for i in members]
            rows, kinds, some = encode_pairs(self.tokenizer, given, format, max_length)
            cut += some
            for place, i in enumerate(members):
                ids[i] = rows[place]
                types[i] = rows[place] if kinds is None else kinds[place]
        return ids, types if self.format.types else None, cut


def encode_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    format: PairFormat,
    max_length: int,
) -> PairRows:
    """Queries and passages to ids of both together, special tokens included.

    classifier: a query keeps at most three quarters of the length, the passage what is
    left. yes_no: the chat stays whole, and the end of the passage is cut.

    Args:
        tokenizer: of the model.
        pairs: (query, passage).
        format: how the model reads them.
        max_length: tokens kept of each pair, special ones counted.

    Returns:
        ids and types (0 query, 1 passage; None where the format has none), one int32
        array a pair, and how many pairs were cut.

    Raises:
        InputError: the length does not even hold what stands around a pair.

    Source: FlagReranker of FlagEmbedding (classifier); model card of Qwen3-Reranker.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> tokenizer = tiny_tokenizer()
        >>> pairs = [("the sea", "salt")]
        >>> ids, types, cut = encode_pairs(
        ...     tokenizer, pairs, PairFormat("classifier", types=True), 16
        ... )
        >>> len(ids[0]) == len(types[0]), cut
        (True, 0)
    """
    if format.head == "classifier":
        return _templates(tokenizer, pairs, format.types, max_length)
    texts = [
        BODY.format(task=format.task, query=query, passage=passage)
        for query, passage in pairs
    ]
    before, after = (_plain(tokenizer, [part])[0] for part in (PREFIX, SUFFIX))
    room = max_length - len(before) - len(after)
    _require_room(max_length, len(before) + len(after))
    bodies = _plain(tokenizer, texts)
    ids = [np.concatenate([before, body[:room], after]) for body in bodies]
    return ids, None, sum(len(body) > room for body in bodies)


def _templates(
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    with_types: bool,
    max_length: int,
) -> PairRows:
    backend = tokenizer.backend
    special = backend.num_special_tokens_to_add(True)
    _require_room(max_length, special)
    flat = [text for pair in pairs for text in pair]
    found = backend.encode_batch(flat, add_special_tokens=False)
    ids, types, cut = [], [], 0
    room = max_length - special
    for query, passage in zip(found[::2], found[1::2], strict=True):
        before = len(query), len(passage)
        query.truncate(min(max_length * 3 // 4, room))
        passage.truncate(max(room - len(query), 0))
        cut += before != (len(query), len(passage))
        pair = backend.post_process(query, passage, True)
        ids.append(np.asarray(pair.ids, np.int32))
        types.append(np.asarray(pair.type_ids, np.int32))
    return ids, types if with_types else None, cut


def _plain(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids without special tokens of the tokenizer's own."""
    found = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    return [np.asarray(row.ids, np.int32) for row in found]


def _require_room(max_length: int, special: int) -> None:
    if max_length <= special:
        raise InputError(
            f"more than the {special} tokens around query and passage",
            f"{max_length}",
            where="max_length",
        )
