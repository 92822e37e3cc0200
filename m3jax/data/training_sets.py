"""From a config to opened data sets: checked, split, and measured."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.types import Reads
from m3jax.data import builtin, cache, checks, lengths, retrieval, tokenize
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.draws import Rows
from m3jax.data.examples import TrainingSet, require_scores
from m3jax.data.held_out import hold_out
from m3jax.data.lines import near_name
from m3jax.data.pairs import Pairing
from m3jax.data.prompts import TASK, query_prompt
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.scan import Scan, scan
from m3jax.data.similarity import GRADED, read_similarity
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
    dev: Retrieval | Similarity | None
    test: Retrieval | Similarity | None

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
    if config.reading.path or config.reading.weight is not None:
        raise InputError(
            "no path and no weight: train is the path, and the only data set",
            config.reading.path or f"{config.reading.weight}",
            where="data.reading",
        )
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
        query_prompts(one, config)
    sets = [_open(one, config) for one in given]
    checks.require_sets(
        [(one.name, one.config, one.scan.kind, one.count) for one in sets], config
    )
    for one in sets:
        if one.config.teacher_scores:  # of the other rows it shows when they are read
            require_scores(one.source[0], f"{one.name}: row 0")
    sets, dev = _dev(sets, config)
    test = None if config.test is None else evaluation_set(config.test, "test", config)
    return Data(tuple(sets), dev, test)


def _open(one: Dataset, config: DataConfig) -> Opened:
    source = open_source(one, cache_folder=config.cache)
    root = cache.root(config.cache, one.path)
    found = scan(source, root=root, on_bad_row=one.on_bad_row)
    dropped = {"bad": found.bad} if found.bad else {}
    for line in found.told(source.name):
        print(line, file=sys.stderr)
    kept = None
    if found.kind == "labelled" and one.labels == "same":
        label = np.asarray(found.partner)
        _, place, count = np.unique(label, return_inverse=True, return_counts=True)
        kept = np.flatnonzero(count[place] > 1)
        dropped["alone with its label"] = len(label) - len(kept)
    return Opened(one, source, found, kept, dropped)


def _dev(
    sets: list[Opened], config: DataConfig
) -> tuple[list[Opened], Retrieval | Similarity | None]:
    """The set that selects: named, the built-in one, or held out of the queries."""
    if config.dev is not None:
        return sets, evaluation_set(config.dev, "dev", config)
    if any(one.config.path == "builtin" for one in sets):
        return sets, builtin.retrieval("dev")
    numbers = [i for i, one in enumerate(sets) if one.scan.kind == "pairs"]
    given = [sets[i] for i in numbers]
    kept, dev = hold_out(
        # Of token ids there is no text to search for, but they are left out too.
        [None if isinstance(one.whole, Prepared) else one.source for one in given],
        [one.scan.query for one in given],
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


def evaluation_set(
    name: str, part: builtin.Part, config: DataConfig
) -> Retrieval | Similarity:
    """Open a set to measure on: built in, a folder in BEIR's layout, or graded pairs.

    Args:
        name: "builtin", a folder or a file; see `DataConfig.dev`.
        part: "dev" or "test", whose judgements are taken where a folder has both.
        config: says where files are unpacked.

    Returns:
        The set.

    Raises:
        InputError: there is no such set, or it is damaged.

    Example:
        >>> len(evaluation_set("builtin", "dev", DataConfig()).queries) > 100
        True
    """
    if name == "builtin":
        return builtin.retrieval(part)
    path = Path(name)
    # A name with a colon or a star says by itself that it is no folder.
    if not path.exists() and not any(sign in name for sign in ":*?["):
        raise InputError(
            f"a folder in BEIR's layout, or {GRADED}",
            "nothing of that name",
            where=f"data.{part}: {name}",
            do=near_name(path) or "A data set of the hub is named hf:OWNER/NAME.",
        )
    saved = any((path / file).exists() for file in ("state.json", "dataset_dict.json"))
    if path.is_dir() and not saved:
        # A folder without judgements of its own for development is used as it is.
        split = part if (path / "qrels" / f"{part}.tsv").exists() else "test"
        return retrieval.read_beir(name, split)
    split = "validation" if part == "dev" else part
    return read_similarity(Dataset(name, split=split), cache_folder=config.cache)


def measure(
    config: DataConfig,
    data: Data,
    tokenizer: tokenize.Tokenizer,
    *,
    reads: Reads = "apart",
    pairing: Pairing | None = None,
) -> tuple[TrainingSet, ...]:
    """Count the tokens of every row, once for a tokenizer and its prompts.

    Args:
        config: prompts and lengths.
        data: the opened data sets.
        tokenizer: of the model.
        reads: what of a row the model is given: batches are padded to the lengths of
            that.
        pairing: how query and passages are read together.

    Returns:
        The data sets, ready to make batches of.

    Raises:
        InputError: a data set was prepared with another tokenizer.
    """
    sets = tuple(_measured(one, config, tokenizer) for one in data.sets)
    if reads == "apart":
        return sets
    return tuple(
        _as_read(one, pairing if reads == "together" else None) for one in sets
    )


def _as_read(one: TrainingSet, pairing: Pairing | None) -> TrainingSet:
    """A data set of which passages alone are padded, or pairs, which stand for them."""
    lengths = one.rows.lengths
    if pairing is not None:
        whole = one.lengths.astype(np.int64) + lengths + pairing.beside
        lengths = np.minimum(whole, pairing.max_length).astype(np.uint16)
    return dataclasses.replace(
        one,
        rows=dataclasses.replace(one.rows, lengths=lengths),
        lengths=np.ones_like(one.lengths),
    )


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
        query_prompts=query_prompts(one.config, config),
        passage_prompt=None if one.config.symmetric else config.prompts.passage,
        negatives=_negatives(one.config, config) > 0,
        root=cache.root(config.cache, one.config.path),
    )


def _measured(
    one: Opened, config: DataConfig, tokenizer: tokenize.Tokenizer
) -> TrainingSet:
    dataset = one.config
    before_queries = query_prompts(dataset, config)
    before_passages = (config.prompts.passage,)
    if dataset.symmetric:
        before_passages = before_queries
    negatives = _negatives(dataset, config)
    found = token_counts(one, config, tokenizer)
    most = (
        dataset.query_length or config.query_length,
        dataset.passage_length or config.passage_length,
    )
    if isinstance(one.whole, Prepared):
        prompts = (before_queries, before_passages)
        checks.require_prepared_alike(one.whole, dataset, tokenizer, prompts, most)
    query, passage = (
        np.minimum(column, length).astype(np.uint16)
        for column, length in zip((found.query, found.passage), most, strict=True)
    )
    rows = Rows(dataset, one.source, one.scan, passage, negatives, one.kept)
    if one.scan.kind == "labelled":
        passage = _label_lengths(rows, tokenizer, before_passages, most[1])
        rows = dataclasses.replace(rows, lengths=passage)
    return TrainingSet(rows, before_queries, before_passages, *most, lengths=query)


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
    for group, _ in rows.by_label.values():
        needed[group] = np.maximum(own[group], own[group[1]])
    return needed


def _negatives(dataset: Dataset, config: DataConfig) -> int:
    return config.negatives if dataset.negatives is None else dataset.negatives


def query_prompts(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    """What may stand before a query of a data set.

    Args:
        dataset: has prompts of its own, or a task.
        config: has the instructions of the tasks, and the model's prompts.

    Returns:
        At least one; one is drawn for each row.

    Raises:
        InputError: there is no instruction for its task, or the model takes none.

    Example:
        >>> query_prompts(Dataset("a.jsonl", prompts=("ask: ",)), DataConfig())
        ('ask: ',)
    """
    name = dataset.name or dataset.path
    if dataset.prompts and dataset.task:
        raise InputError("prompts or a task", "both", where=name)
    if dataset.prompts:
        return dataset.prompts
    if not dataset.task:
        return (config.prompts.query,)
    if not config.instructions.get(dataset.task):
        known = ", ".join(map(repr, config.instructions))
        raise InputError(
            f"an instruction for the task {dataset.task!r}",
            f"only those of {known}" if known else "no instructions",
            where=f"{name}: data.instructions",
        )
    if TASK not in config.prompts.task:
        raise InputError(
            f"a prompt with {TASK} in it, because {name} has a task",
            repr(config.prompts.task),
            where="data.prompts.task",
            do=f'For example "Instruct: {TASK}\\nQuery: ".',
        )
    return tuple(
        query_prompt(config.prompts, instruction)
        for instruction in config.instructions[dataset.task]
    )
