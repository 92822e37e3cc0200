"""Rows to arrays, as worker processes make them: numpy only, no device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.data import plan as plans
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.records import Pairs, content_hash


@dataclass(frozen=True, eq=False)
class Batcher:
    """Makes the arrays of any step, for the rows that this host feeds.

    Attributes:
        rows: the training set.
        plan: which rows make which batch.
        tokenizer: of the model.
        prompts: before queries and passages.
        negatives: hard negatives of each query.
        query_length: longest query, in tokens.
        passage_length: longest passage, in tokens.
        local: places in the batch that this host feeds.
    """

    rows: Sequence[Pairs]
    plan: plans.Plan
    tokenizer: tokenize.Tokenizer
    prompts: Prompts
    negatives: int
    query_length: int
    passage_length: int
    local: np.ndarray

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Arrays of one training step: the fields of `core.types.Batch`, flat."""
        planned = plans.batch(self.plan, step)
        numbers = planned.rows[self.local]
        groups = [
            draw(
                self.rows[row],
                negatives=self.negatives,
                rng=np.random.default_rng((self.plan.seed, planned.epoch, row)),
            )
            for row in numbers
        ]
        queries = [query_text(self.rows[row], self.prompts) for row in numbers]
        passages = [
            None if text is None else self.prompts.passage + text
            for group in groups
            for text in group
        ]
        query = tokenize.encode(self.tokenizer, queries, max_length=self.query_length)
        passage = self._encode_present(passages)
        pad_id = self.tokenizer.pad_id
        query_ids, query_mask = tokenize.pad(query, planned.query_length, pad_id)
        passage_ids, passage_mask = tokenize.pad(
            passage, planned.passage_length, pad_id
        )
        shape = (len(numbers), 1 + self.negatives)
        return {
            "query.ids": query_ids,
            "query.mask": query_mask,
            "passage.ids": passage_ids.reshape(*shape, -1),
            "passage.mask": passage_mask.reshape(*shape, -1),
            "where": np.array([text is not None for text in passages]).reshape(shape),
            "query_ids": hashes(queries),
            "passage_ids": hashes([text or "" for text in passages]).reshape(*shape, 2),
            "row": numbers.astype(np.int32),
        }

    def _encode_present(self, texts: Sequence[str | None]) -> list[np.ndarray]:
        present = iter(
            tokenize.encode(
                self.tokenizer,
                [text for text in texts if text is not None],
                max_length=self.passage_length,
            )
        )
        none = np.empty(0, np.int32)
        return [none if text is None else next(present) for text in texts]


def query_text(row: Pairs, prompts: Prompts) -> str:
    """The query as the model reads it; a prompt of the row itself comes first.

    Example:
        >>> query_text(Pairs("hello", ("world",)), Prompts(query="query: "))
        'query: hello'
    """
    return (prompts.query if row.prompt is None else row.prompt) + row.query


def draw(
    row: Pairs, *, negatives: int, rng: np.random.Generator
) -> tuple[str | None, ...]:
    """Choose the passages of a query: one positive, then hard negatives.

    Args:
        row: where they come from.
        negatives: how many; None stands for each that the row does not have.
        rng: decides which of several.

    Returns:
        1 + negatives texts.

    Example:
        >>> row = Pairs("q", ("yes",), ("no",))
        >>> draw(row, negatives=2, rng=np.random.default_rng(0))
        ('yes', 'no', None)
    """
    positive = row.pos[rng.integers(len(row.pos))]
    chosen = [row.neg[i] for i in rng.permutation(len(row.neg))[:negatives]]
    return (positive, *chosen, *[None] * (negatives - len(chosen)))


def hashes(texts: Sequence[str]) -> np.ndarray:
    """Content hashes: uint32 `[n 2]`; equal texts have equal words.

    Example:
        >>> hashes(["a", "b", "a"]).shape
        (3, 2)
    """
    words = b"".join(content_hash(text) for text in texts)
    return np.frombuffer(words, np.uint32).reshape(-1, 2)
