"""A row as the model will read it, before it is tokenised."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.draws import AnyText, Dice, Rows, draw, shuffled
from m3jax.data.records import Labelled, Pairs, Record, Scored, content_hash
from m3jax.data.tokenised import TokenText, digest

# The id of a passage that is not there.
NONE = bytes(8)


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
        prompt: of the query.
        asked: the query without it.
        query_id: 8 bytes; queries of one id share their positives.
        passage_ids: 8 bytes each.
        teacher_scores: of the passages; 0 where none was given.
        label: how alike query and passage are; nan where that is not told.
    """

    query: AnyText
    passages: tuple[AnyText | None, ...]
    prompt: str
    asked: AnyText
    query_id: bytes
    passage_ids: tuple[bytes, ...]
    teacher_scores: tuple[float, ...]
    label: float


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
        prompt=prompt,
        asked=query,
        query_id=query_id,
        passage_ids=tuple([NONE if one is None else one.id for one in drawn]),
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


def plain(text: AnyText) -> str:
    """A text as it is.

    Raises:
        InputError: there are only its token ids.
    """
    if isinstance(text, TokenText):
        raise InputError(
            "texts, which are read in pairs",
            "token ids",
            where="data.train",
            do="Train on the text itself, not on what was prepared from it.",
        )
    return text


def _with(prompt: str, text: AnyText) -> AnyText:
    """Ids that were made before have their prompt already."""
    return text if isinstance(text, TokenText) else prompt + text


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
