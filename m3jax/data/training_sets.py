"""From a config to opened data sets: checked, split, and measured."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data import builtin, cache, lengths, retrieval, tokenised, tokenize
from m3jax.data.batches import TrainingSet
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.draws import Rows
from m3jax.data.held_out import hold_out
from m3jax.data.prompts import query_prompt
from m3jax.data.records import Retrieval
from m3jax.data.scan import Scan, scan
from m3jax.data.sources.array_records import Prepared
from m3jax.data.sources.base import Source
from m3jax.data.sources.open import open_source
from m3jax.data.tokenised import texts_of

# Texts that a tokenizer is trained on at most.
_SAMPLE = 1_000_000


@dataclass(frozen=True, eq=False)
class Opened:
    """A data set, before there is a tokenizer to measure it with.

    Attributes:
        config: how it is read.
        whole: its rows, good and bad.
        scan: hashes of all good rows.
        kept: numbers of the rows that are trained on; None = all.
        dropped: why the others are not -> how many.
    """

    config: Dataset
    whole: Source
    scan: Scan
    kept: np.ndarray | None
    dropped: Mapping[str, int]

    @functools.cached_property
    def source(self) -> Source:
        """Its good rows."""
        return self.scan.good(self.whole)

    @property
    def name(self) -> str:
        """In tables and messages."""
        return self.config.name or self.config.path

    @property
    def count(self) -> int:
        """Rows that are trained on."""
        return len(self.source) if self.kept is None else len(self.kept)


@dataclass(frozen=True)
class Data:
    """Training sets with what the model is measured on.

    Attributes:
        sets: the training sets.
        dev: selects the best checkpoint; None when there is too little data for it.
        test: reported only.
    """

    sets: tuple[Opened, ...]
    dev: Retrieval | None
    test: Retrieval | None

    def texts(self) -> Iterator[str]:
        """Queries and positives, evenly thinned where there are very many."""
        count = sum(one.count for one in self.sets)
        every = -(-count // _SAMPLE)
        for one in self.sets:
            numbers = range(one.count) if one.kept is None else one.kept.tolist()
            for number in numbers[::every]:
                yield from (
                    text
                    for text in texts_of(one.source[number])
                    if isinstance(text, str)
                )


def datasets(config: DataConfig) -> tuple[Dataset, ...]:
    """The data sets of a config, also where it names one path only.

    Raises:
        InputError: it names both.

    Example:
        >>> [one.path for one in datasets(DataConfig(train="a.jsonl"))]
        ['a.jsonl']
    """
    if not config.mixture:
        return (dataclasses.replace(config.reading, path=config.train),)
    if config.train != DataConfig.train:
        raise InputError(
            "one path, or a mixture", "both", where="data.train and data.mixture"
        )
    return config.mixture


def open_data(config: DataConfig) -> Data:
    """Read and check everything that a run will need, before anything is trained.

    Args:
        config: where the data is.

    Returns:
        Training sets, dev set and test set.

    Raises:
        InputError: a file is missing or has a line that does not fit.
    """
    given = datasets(config)
    for one in given:
        _query_prompts(one, config)
    sets = [_open(one, config) for one in given]
    _check_kinds(sets, config)
    _check_counts(sets, config)
    sets, dev = _dev(sets, config)
    test = None if config.test is None else _retrieval(config.test, "test")
    return Data(tuple(sets), dev, test)


def _open(one: Dataset, config: DataConfig) -> Opened:
    source = open_source(one, cache_folder=config.cache)
    root = cache.root(config.cache, one.path)
    found = scan(source, root=root, on_bad_row=one.on_bad_row)
    dropped = {"bad": found.bad} if found.bad else {}
    for reason in found.reasons[:3]:
        print(f"skipped: {reason}", file=sys.stderr)
    kept = None
    if found.kind == "labelled" and one.labels == "same":
        label = np.asarray(found.partner)
        _, place, count = np.unique(label, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(count[place] > 1)
        dropped["alone with its label"] = len(label) - len(kept)
    return Opened(one, source, found, kept, dropped)


def _check_counts(sets: list[Opened], config: DataConfig) -> None:
    """Refuse a data set that fills no batch, before anything is measured."""
    if config.batch_tokens or config.preset:
        return
    size = min(config.bucket_sizes or (config.batch_size,))
    for one in sets:
        if one.count < size:
            raise InputError(
                f"at least one batch of {size} training rows",
                f"{one.count}",
                where=one.name,
                do="Lower --data.batch-size, or join small data sets to one.",
            )


def _check_kinds(sets: list[Opened], config: DataConfig) -> None:
    """Refuse a mixture of rows that no batch can hold together."""
    kinds = {one.scan.kind: one.name for one in sets}
    if config.homogeneity < 1 and "scored" in kinds and len(kinds) > 1:
        raise InputError(
            "data sets of one kind, because batches are mixed",
            ", ".join(f"{name} ({kind})" for kind, name in kinds.items()),
            where="data.homogeneity",
            do="With --data.homogeneity 1 each batch comes from one data set.",
        )
    teachers = {one.config.teacher_scores for one in sets}
    if config.homogeneity < 1 and len(teachers) > 1:
        raise InputError(
            "teacher scores for all data sets or for none, because batches are mixed",
            "both",
            where="data.homogeneity",
        )


def _dev(
    sets: list[Opened], config: DataConfig
) -> tuple[list[Opened], Retrieval | None]:
    """The set that selects: named, the built-in one, or held out of the queries."""
    if config.dev is not None:
        return sets, _retrieval(config.dev, "dev")
    if any(one.config.path == "builtin" for one in sets):
        return sets, builtin.retrieval("dev")
    numbers = [
        i
        for i, one in enumerate(sets)
        if one.scan.kind == "pairs" and not isinstance(one.whole, Prepared)
    ]
    given = [sets[i] for i in numbers]
    kept, dev = hold_out(
        [one.source for one in given], [one.scan.query for one in given]
    )
    for i, rows in zip(numbers, kept, strict=True):
        held = len(sets[i].source) - len(rows)
        dropped = {**sets[i].dropped, "held out": held} if held else sets[i].dropped
        sets[i] = dataclasses.replace(
            sets[i], kept=rows if held else None, dropped=dropped
        )
    if len(dev.queries) < 2 or len(dev.corpus) < 2:
        print(
            f"warning: {len(dev.queries)} queries and {len(dev.corpus)} passages were "
            "held out, too few for a dev set: the last checkpoint is kept, not the "
            "best; --data.dev names a set to choose by",
            file=sys.stderr,
        )
        return sets, None
    return sets, dev


def _retrieval(name: str, part: builtin.Part) -> Retrieval:
    if name == "builtin":
        return builtin.retrieval(part)
    # A folder that has no judgements of its own for development is used as it is.
    split = part if (Path(name) / "qrels" / f"{part}.tsv").exists() else "test"
    return retrieval.read_beir(name, split)


def measure(
    config: DataConfig, data: Data, tokenizer: tokenize.Tokenizer
) -> tuple[TrainingSet, ...]:
    """Count the tokens of every row, once for a tokenizer and its prompts.

    Args:
        config: prompts and lengths.
        data: the opened data sets.
        tokenizer: of the model.

    Returns:
        The data sets, ready to make batches of.

    Raises:
        InputError: a data set was prepared with another tokenizer.
    """
    return tuple(_measured(one, config, tokenizer) for one in data.sets)


def token_counts(
    one: Opened, config: DataConfig, tokenizer: tokenize.Tokenizer
) -> lengths.Lengths:
    """Tokens of the texts of a data set, before anything is cut off.

    Args:
        one: the data set.
        config: prompts.
        tokenizer: of the model.

    Returns:
        Of each good row.
    """
    return lengths.measure(
        one.whole,
        one.scan,
        tokenizer,
        query_prompts=_query_prompts(one.config, config),
        passage_prompt=None if one.config.symmetric else config.prompts.passage,
        negatives=_negatives(one.config, config) > 0,
        root=cache.root(config.cache, one.config.path),
    )


def _measured(
    one: Opened, config: DataConfig, tokenizer: tokenize.Tokenizer
) -> TrainingSet:
    dataset = one.config
    query_prompts = _query_prompts(dataset, config)
    if isinstance(one.whole, Prepared):
        _check_prepared(one.whole, tokenizer, query_prompts, config)
    passage_prompts = (config.prompts.passage,)
    if dataset.symmetric:
        passage_prompts = query_prompts
    negatives = _negatives(dataset, config)
    found = token_counts(one, config, tokenizer)
    most = (
        dataset.query_length or config.query_length,
        dataset.passage_length or config.passage_length,
    )
    query, passage = (
        np.minimum(column, length).astype(np.uint16)
        for column, length in zip((found.query, found.passage), most, strict=True)
    )
    rows = Rows(dataset, one.source, one.scan, passage, negatives, one.kept)
    if one.scan.kind == "labelled":
        passage = _label_lengths(rows, tokenizer, passage_prompts, most[1])
        rows = dataclasses.replace(rows, lengths=passage)
    return TrainingSet(rows, query_prompts, passage_prompts, *most, lengths=query)


def _check_prepared(
    given: Prepared,
    tokenizer: tokenize.Tokenizer,
    query_prompts: tuple[str, ...],
    config: DataConfig,
) -> None:
    """Refuse token ids that another tokenizer made, or behind other prompts."""
    do = "Prepare the data again for this run."
    if given.tokenizer != tokenised.tokenizer_digest(tokenizer):
        raise InputError(
            "the tokenizer of this run", "ids of another", where=given.name, do=do
        )
    for name, most, length, cut in (
        ("query", config.query_length, given.query_length, given.cut_queries),
        ("passage", config.passage_length, given.passage_length, given.cut_passages),
    ):
        if cut and length < most:
            raise InputError(
                f"{name} texts of up to {most} tokens",
                f"{cut:,} that were cut to {length}",
                where=given.name,
                do=f"Prepare the data again, or lower --data.{name}-length.",
            )
    made = (given.query_prompt, given.passage_prompt)
    if query_prompts != made[:1] or config.prompts.passage != made[1]:
        wanted = " or ".join(map(repr, query_prompts))
        raise InputError(
            f"the prompts {wanted} and {config.prompts.passage!r}",
            f"{made[0]!r} and {made[1]!r}",
            where=given.name,
            do=do,
        )


def _label_lengths(
    rows: Rows, tokenizer: tokenize.Tokenizer, prompts: Sequence[str], most: int
) -> np.ndarray:
    """Tokens of the longest passage that a labelled text may get."""
    own = rows.lengths
    if rows.config.labels == "text":
        texts = [prompt + label for label in rows.labels for prompt in prompts]
        found = tokenize.encode(tokenizer, texts, max_length=most)
        return np.full(len(own), max(map(len, found)), np.uint16)
    # Some other text of the label has to fit: the shortest, or the next to it.
    needed = own.copy()
    for group in rows.by_label.values():
        needed[group] = np.maximum(own[group], own[group[1]])
    return needed


def _negatives(dataset: Dataset, config: DataConfig) -> int:
    return config.negatives if dataset.negatives is None else dataset.negatives


def _query_prompts(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    """What may stand before a query of a data set."""
    name = dataset.name or dataset.path
    if dataset.prompts and dataset.task:
        raise InputError("prompts or a task", "both", where=name)
    if dataset.prompts:
        return dataset.prompts
    if not dataset.task:
        return (config.prompts.query,)
    if not config.instructions.get(dataset.task):
        known = ", ".join(map(repr, config.instructions)) or "none"
        raise InputError(
            f"an instruction for the task {dataset.task!r}",
            f"only {known}",
            where=f"{name}: data.instructions",
        )
    return tuple(
        query_prompt(config.prompts, instruction)
        for instruction in config.instructions[dataset.task]
    )
