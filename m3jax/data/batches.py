"""Rows to arrays, as worker processes make them: numpy only, no device."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data import plan as plans
from m3jax.data import tokenised, tokenize
from m3jax.data.draws import AnyText, Dice, Rows, draw, shuffled
from m3jax.data.records import Labelled, Pairs, Record, Scored, content_hash
from m3jax.data.tokenised import TokenText, digest


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A data set, opened: its rows, and what stands before its texts.

    Attributes:
        rows: what passages are drawn from.
        query_prompts: one of them stands before each query.
        passage_prompts: stand before passages: one, or where the set is symmetric those
            of the queries.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
        lengths: tokens of the query of each good row, cut.
    """

    rows: Rows
    query_prompts: tuple[str, ...]
    passage_prompts: tuple[str, ...]
    query_length: int
    passage_length: int
    lengths: np.ndarray

    @property
    def name(self) -> str:
        """In tables and messages."""
        return self.rows.config.name or self.rows.config.path

    @property
    def group(self) -> int:
        """Passages of each query."""
        return 1 + self.rows.negatives


class Example(NamedTuple):
    """A row as the model will read it, before it is tokenised.

    Attributes:
        query: with its prompt.
        passages: with theirs, the positive first; None where there is none.
        query_id: 8 bytes; queries of one id share their positives.
        passage_ids: 8 bytes each.
        teacher_scores: of the passages; 0 where none was given.
        label: how alike query and passage are; nan where that is not told.
    """

    query: AnyText
    passages: tuple[AnyText | None, ...]
    query_id: bytes
    passage_ids: tuple[bytes, ...]
    teacher_scores: tuple[float, ...]
    label: float


@dataclass(frozen=True, eq=False)
class Batcher:
    """Makes the arrays of any step, for the rows that this host feeds.

    Attributes:
        sets: the data sets of the plan.
        plan: which rows make which batch.
        tokenizer: of the model.
        local: size of a batch -> places in it that this host feeds.
    """

    sets: tuple[TrainingSet, ...]
    plan: plans.Plan
    tokenizer: tokenize.Tokenizer
    local: Mapping[int, np.ndarray]

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
        queries = encode(
            self.tokenizer,
            [one.query for draft in drafts for one in draft.examples],
            [one.query_length for draft in drafts for one in draft.sets],
        )
        passages = encode(
            self.tokenizer,
            [
                text
                for draft in drafts
                for one in draft.examples
                for text in one.passages
            ],
            [
                one.passage_length
                for draft in drafts
                for one, made in zip(draft.sets, draft.examples, strict=True)
                for _ in made.passages
            ],
        )
        query, passage = iter(queries), iter(passages)
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
        ids = [id for one in examples for id in _widened(one.passage_ids, group, _NONE)]
        shape = planned.shape
        queries = [next(query) for _ in examples]
        passages = [
            row
            for one in examples
            for row in _widened([next(passage) for _ in one.passages], group, _EMPTY)
        ]
        query_ids, query_mask = self._padded(queries, shape.query_length)
        passage_ids, passage_mask = self._padded(passages, shape.passage_length)
        configs = [one.rows.config for one in draft.sets]
        arrays = {
            "query.ids": query_ids,
            "query.mask": query_mask,
            "passage.ids": passage_ids.reshape(*wide, -1),
            "passage.mask": passage_mask.reshape(*wide, -1),
            "where": np.array(there).reshape(wide),
            "passage_ids": _words(ids).reshape(*wide, 2),
            "query_ids": _words([one.query_id for one in examples]),
            "in_batch": np.array([one.in_batch_negatives for one in configs]),
            "row": np.array(draft.rows, np.int32),
            "dataset": np.array(draft.parts, np.int32),
            "size": np.array(len(planned.rows)),
        }
        if configs[0].teacher_scores:
            scores = [_widened(one.teacher_scores, group, 0.0) for one in examples]
            arrays["teacher_scores"] = np.array(scores, np.float32)
        if draft.sets[0].rows.scan.kind == "scored":
            arrays["label"] = np.array([one.label for one in examples], np.float32)
        return arrays

    def _padded(
        self, rows: Sequence[np.ndarray], length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a shape; what was shuffled or drawn may be a token longer than it."""
        if max(map(len, rows)) > length:
            end = tokenised.end_tokens(self.tokenizer)
            rows = [tokenised.cut(row, length, end=end) for row in rows]
        return tokenize.pad(rows, length, self.tokenizer.pad_id)


class _Draft(NamedTuple):
    """A batch of this host before its texts are tokenised."""

    planned: plans.Planned
    parts: list[int]
    rows: list[int]
    sets: list[TrainingSet]
    examples: list[Example]


def example(one: TrainingSet, row: int, dice: Dice, *, longest: int) -> Example:
    """Make a row of a batch: draw its prompt and its passages.

    Args:
        one: the data set.
        row: number of the row.
        dice: decides.
        longest: tokens that passages of the batch are padded to.

    Returns:
        The example.

    Raises:
        InputError: the row cannot be read, or lacks the scores of a teacher.
    """
    rows = one.rows
    record, config = rows.source[row], rows.config
    prompts = one.query_prompts
    query, own = query_of(record)
    chosen = dice.below(len(prompts)) if len(prompts) > 1 else 0
    prompt = prompts[chosen] if own is None else own
    drawn = draw(rows, row, record, dice, longest=longest)
    before = prompt if config.symmetric else one.passage_prompts[0]
    if config.teacher_scores:
        require_scores(record, f"{rows.source.name}: row {row}")
    query_id = digest(query) if own is None else content_hash(f"{own}{query}")
    if isinstance(record, Labelled) and config.labels == "same":
        query_id = content_hash(record.label)
    ratio = config.shuffle_ratio
    texts = [  # a list, and then a tuple: twice as fast as a generator
        None if one is None else _with(before, shuffled(one.text, dice, ratio))
        for one in drawn
    ]
    return Example(
        query=_with(prompt, query),
        passages=tuple(texts),
        query_id=query_id,
        passage_ids=tuple([_NONE if one is None else one.id for one in drawn]),
        teacher_scores=tuple([0.0 if one is None else one.score for one in drawn]),
        label=record.score if isinstance(record, Scored) else np.nan,
    )


def query_of(record: Record) -> tuple[AnyText, str | None]:
    """The text that is read as a query, and the prompt that the row itself names.

    Example:
        >>> query_of(Pairs("hello", ("world",), prompt="ask: "))
        ('hello', 'ask: ')
    """
    if isinstance(record, Pairs):
        return record.query, record.prompt
    return (record.first if isinstance(record, Scored) else record.text), None


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


_NONE = bytes(8)
_EMPTY = np.empty(0, np.int32)


def _with(prompt: str, text: AnyText) -> AnyText:
    """Ids that were made before have their prompt already."""
    return text if isinstance(text, TokenText) else prompt + text


def _widened(values: Sequence[Any], count: int, filling: Any) -> list[Any]:
    return [*values, *[filling] * (count - len(values))]


def _words(ids: Sequence[bytes]) -> np.ndarray:
    """Content hashes: uint32 `[n 2]`."""
    return np.frombuffer(b"".join(ids), np.uint32).reshape(-1, 2)


def require_scores(record: Record, where: str) -> None:
    """Refuse a row without the scores of a teacher.

    Raises:
        InputError: says which are missing.
    """
    if not isinstance(record, Pairs) or record.pos_scores is None:
        missing = "pos_scores"
    elif record.neg and record.neg_scores is None:
        missing = "neg_scores"
    else:
        return
    raise InputError(
        f"{missing}, because teacher_scores is on",
        "none",
        where=where,
        do="Score the passages, or switch teacher_scores off.",
    )
