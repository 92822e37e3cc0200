"""Rows to arrays, as worker processes make them: numpy only, no device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from m3jax.core.types import Reads
from m3jax.data import plan as plans
from m3jax.data import tokenised, tokenize
from m3jax.data.draws import AnyText, Dice
from m3jax.data.examples import NONE, Example, TrainingSet, example, plain
from m3jax.data.pairs import Pairing
from m3jax.data.shapes import Shape
from m3jax.data.tokenised import TokenText


@dataclass(frozen=True, eq=False)
class Batcher:
    """Makes the arrays of any step, for the rows that this host feeds.

    Attributes:
        sets: the data sets of the plan.
        plan: which rows make which batch.
        tokenizer: of the model.
        local: size of a batch -> places in it that this host feeds.
        reads: what of a row the model is given.
        pairing: reads query and passages together, where that is asked for.
    """

    sets: tuple[TrainingSet, ...]
    plan: plans.Plan
    tokenizer: tokenize.Tokenizer
    local: Mapping[int, np.ndarray]
    reads: Reads = "apart"
    pairing: Pairing | None = None

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """Arrays of one training step: the fields of `core.types.Batch`, flat."""
        (arrays,) = self.batches(step, step + 1)
        return arrays

    def batches(self, start: int, stop: int) -> list[dict[str, np.ndarray]]:
        """Arrays of some steps, whose texts are tokenised together: that is faster.

        Args:
            start: first step.
            stop: the step after the last.

        Returns:
            What each step alone would give.

        Raises:
            InputError: a row cannot be read, or a source has changed.
        """
        drafts = [self._draft(one) for one in plans.batches(self.plan, start, stop)]
        query: Iterator[np.ndarray] = iter(())
        passage: Iterator[np.ndarray] = iter(())
        if self.reads == "apart":
            texts = [one.query for draft in drafts for one in draft.examples]
            most = [one.query_length for draft in drafts for one in draft.sets]
            query = iter(encode(self.tokenizer, texts, most))
        if self.reads != "together":
            passages = [
                text
                for draft in drafts
                for one in draft.examples
                for text in one.passages
            ]
            most = [
                one.passage_length
                for draft in drafts
                for one, made in zip(draft.sets, draft.examples, strict=True)
                for _ in made.passages
            ]
            passage = iter(encode(self.tokenizer, passages, most))
        return [self._arrays(draft, query, passage) for draft in drafts]

    def _draft(self, planned: plans.Planned) -> "_Draft":
        here = self.local[len(planned.rows)]
        parts, rows = planned.parts[here].tolist(), planned.rows[here].tolist()
        for part in set(parts):
            self.sets[part].rows.source.check()
        longest = planned.shape.passage_length
        examples = [
            example(
                self.sets[part],
                row,
                Dice(self.plan.seed, part, epoch, row),
                longest=longest,
            )
            for part, row, epoch in zip(
                parts, rows, planned.epochs[here].tolist(), strict=True
            )
        ]
        sets = [self.sets[part] for part in parts]
        return _Draft(planned, parts, rows, sets, examples)

    def _arrays(
        self,
        draft: "_Draft",
        query: Iterator[np.ndarray],
        passage: Iterator[np.ndarray],
    ) -> dict[str, np.ndarray]:
        planned, examples = draft.planned, draft.examples
        # Where rows are mixed, every batch has room for what any of them brings.
        some = self.sets if self.plan.homogeneity < 1 else [self.sets[planned.part]]
        group = max(one.group for one in some)
        wide = (len(examples), group)
        there = [
            text is not None
            for one in examples
            for text in _widened(one.passages, group, None)
        ]
        ids = [id for one in examples for id in _widened(one.passage_ids, group, NONE)]
        shape = planned.shape
        configs = [one.rows.config for one in draft.sets]
        arrays = {
            "where": np.array(there).reshape(wide),
            "passage_ids": _words(ids).reshape(*wide, 2),
            "query_ids": _words([one.query_id for one in examples]),
            "in_batch": np.array([one.in_batch_negatives for one in configs]),
            "row": np.array(draft.rows, np.int32),
            "dataset": np.array(draft.parts, np.int32),
            "size": np.array(len(planned.rows)),
        }
        if self.reads == "apart":
            queries = [next(query) for _ in examples]
            arrays |= self._padded("query", queries, shape.query_length)
        if self.reads != "together":
            passages = [
                row
                for one in examples
                for row in _widened(
                    [next(passage) for _ in one.passages], group, _EMPTY
                )
            ]
            arrays |= self._padded("passage", passages, shape.passage_length, wide)
        if self.pairing is not None:
            arrays |= self._pairs(self.pairing, examples, planned.shape, wide)
        if configs[0].teacher_scores:
            scores = [_widened(one.teacher_scores, group, 0.0) for one in examples]
            arrays["teacher_scores"] = np.array(scores, np.float32)
        if draft.sets[0].rows.scan.kind == "scored":
            arrays["label"] = np.array([one.label for one in examples], np.float32)
        return arrays

    def _padded(
        self,
        name: str,
        rows: Sequence[np.ndarray],
        length: int,
        wide: tuple[int, ...] = (-1,),
    ) -> dict[str, np.ndarray]:
        """Rows of a shape; what was shuffled or drawn may be a token longer than it."""
        if max(map(len, rows)) > length:
            end = tokenised.end_tokens(self.tokenizer)
            rows = [tokenised.cut(row, length, end=end) for row in rows]
        ids, mask = tokenize.pad(rows, length, self.tokenizer.pad_id)
        shape = (*wide, length)
        return {f"{name}.ids": ids.reshape(shape), f"{name}.mask": mask.reshape(shape)}

    def _pairs(
        self,
        pairing: Pairing,
        examples: Sequence[Example],
        shape: Shape,
        wide: tuple[int, int],
    ) -> dict[str, np.ndarray]:
        """Each query together with each of its passages, where there is one."""
        length = shape.passage_length
        if self.reads != "together":  # the shape is that of texts read alone
            length = pairing.width(shape.query_length + length)
        pairs, tasks, places = [], [], []
        for i, one in enumerate(examples):
            for j, passage in enumerate(one.passages):
                if passage is None:
                    continue
                query = plain(one.asked)
                pairs.append((query, plain(passage)))
                tasks.append(one.prompt if pairing.own_tasks else pairing.format.task)
                places.append(i * wide[1] + j)
        ids, types, _ = pairing(pairs, tasks, length)
        pad_id = pairing.tokenizer.pad_id
        found = {}
        for name, rows, filling in (("ids", ids, pad_id), ("types", types, 0)):
            if rows is None:
                continue
            every = [_EMPTY] * (wide[0] * wide[1])
            for place, row in zip(places, rows, strict=True):
                every[place] = row
            padded, mask = tokenize.pad(every, length, filling)
            found[f"pair.{name}"] = padded.reshape(*wide, length)
            found["pair.mask"] = mask.reshape(*wide, length)
        return found


class _Draft(NamedTuple):
    """A batch of this host before its texts are tokenised."""

    planned: plans.Planned
    parts: list[int]
    rows: list[int]
    sets: list[TrainingSet]
    examples: list[Example]


def encode(
    tokenizer: tokenize.Tokenizer,
    texts: Sequence[AnyText | None],
    most: Sequence[int],
) -> list[np.ndarray]:
    """Texts to ids; none for what is not there.

    Args:
        tokenizer: which tokenizer.
        texts: texts, or ids that were made before.
        most: tokens kept of each.

    Returns:
        One int32 array a text.
    """
    found: list[np.ndarray] = [_EMPTY] * len(texts)
    by_length: dict[int, tuple[list[int], list[str]]] = {}
    for i, text in enumerate(texts):
        if isinstance(text, TokenText):
            end = tokenised.end_tokens(tokenizer) if len(text) > most[i] else 0
            found[i] = tokenised.shorten(text, most[i], end=end).ids
        elif text is not None:
            numbers, given = by_length.setdefault(most[i], ([], []))
            numbers.append(i)
            given.append(text)
    for length, (numbers, given) in by_length.items():
        rows = tokenize.encode(tokenizer, given, max_length=length)
        for i, ids in zip(numbers, rows, strict=True):
            found[i] = ids
    return found


_EMPTY = np.empty(0, np.int32)


def _widened(values: Sequence[Any], count: int, filling: Any) -> list[Any]:
    return [*values, *[filling] * (count - len(values))]


def _words(ids: Sequence[bytes]) -> np.ndarray:
    """Content hashes: uint32 `[n 2]`."""
    return np.frombuffer(b"".join(ids), np.uint32).reshape(-1, 2)
