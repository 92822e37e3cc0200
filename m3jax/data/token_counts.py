"""How many tokens the texts of some rows have."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from m3jax.core.errors import InputError
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text
from m3jax.data.sources.base import Source, bad_row, records

_AT_ONCE = 2**20  # characters that are tokenised together


def counter(
    source: Source,
    backend: str,
    query_prompts: Sequence[str],
    passage_prompt: str | None,
    negatives: bool,
) -> Callable[[tuple[int, int]], tuple[np.ndarray, np.ndarray]]:
    """Make the function that counts the tokens of some rows.

    Args:
        source: the rows.
        backend: a tokenizer in the form of tokenizer.json.
        query_prompts: what may stand before a query; a row's own takes their place.
        passage_prompt: stands before each passage; None = the prompts of the query.
        negatives: whether negatives count as passages.

    Returns:
        (first row, row after the last) -> tokens of each row's longest query and of its
        longest passage, int32; it raises an `InputError` where a row is bad.
    """
    tokenizer = Backend.from_str(backend)
    texts = partial(
        _texts,
        query_prompts=query_prompts,
        passage_prompt=passage_prompt,
        negatives=negatives,
    )
    return partial(_measure, source, tokenizer, texts)


def _measure(
    source: Source,
    tokenizer: Backend,
    texts: Callable[[Record], tuple[list[Any], list[Any]]],
    task: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    start, stop = task
    longest = np.zeros((stop - start, 2), np.int32)
    waiting: list[Any] = []
    owners: list[tuple[int, int]] = []
    size = 0
    for row, record in enumerate(records(source, start, stop)):
        if isinstance(record, InputError):
            raise bad_row(source, start + row)
        for side, found in enumerate(texts(record)):
            waiting += found
            owners += [(row, side)] * len(found)
            size += sum(map(len, found))
        if size >= _AT_ONCE or row == stop - start - 1:
            at = tuple(np.array(owners).T)
            np.maximum.at(longest, at, _count(tokenizer, waiting))
            waiting, owners, size = [], [], 0
    return np.ascontiguousarray(longest[:, 0]), np.ascontiguousarray(longest[:, 1])


def _count(tokenizer: Backend, texts: list[Any]) -> np.ndarray:
    """Tokens of each text; one that is tokens already counts as it is."""
    plain = [text for text in texts if isinstance(text, str)]
    counts = iter(tokenizer.encode_batch_fast(plain) if plain else [])
    found = (next(counts) if isinstance(text, str) else text for text in texts)
    return np.fromiter(map(len, found), np.int32, len(texts))


def _texts(
    record: Record,
    *,
    query_prompts: Sequence[str],
    passage_prompt: str | None,
    negatives: bool,
) -> tuple[list[Any], list[Any]]:
    """What a row reads as queries and as passages."""
    if isinstance(record, Pairs):
        own = record.prompt
        prompts = query_prompts if own is None else (own,)
        passages = record.pos + record.neg if negatives else record.pos
        queries = [_joined(prompt, record.query) for prompt in prompts]
        before = prompts if passage_prompt is None else (passage_prompt,)
        return queries, [_joined(one, text) for text in passages for one in before]
    if isinstance(record, Scored):
        first, second = record.first, record.second
    else:
        assert isinstance(record, Text | Labelled)
        first = second = record.text
    queries = [_joined(prompt, first) for prompt in query_prompts]
    before = query_prompts if passage_prompt is None else (passage_prompt,)
    return queries, [_joined(one, second) for one in before]


def _joined(prompt: str, text: Any) -> Any:
    """The text as it is read; one that is tokens already has its prompt."""
    return prompt + text if isinstance(text, str) else text
