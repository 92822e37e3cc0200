"""From a config to a training set, and from a plan to batches on the devices."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import grain.experimental
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding

from m3jax.core import progress
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, batch_shards
from m3jax.core.types import Batch, Tokens
from m3jax.data import batches, builtin, plan, sources, tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.records import Pairs, Retrieval


@dataclass(frozen=True)
class DataConfig:
    """What is trained and evaluated on, and how it is cut into batches."""

    train: str = "builtin"
    """Training rows: a JSONL file with query, pos and neg (plain or gzip), or
    "builtin", Python's own standard library."""
    dev: str | None = None
    """Retrieval set that selects the best checkpoint: a BEIR folder; by default 2 % of
    the training queries, held out ("builtin" has a part of its own)."""
    test: str | None = None
    """Retrieval set that is scored before and after training, and never selects: a
    BEIR folder or "builtin"."""
    batch_size: int = 128
    """Queries in a batch, over all devices."""
    negatives: int = 0
    """Hard negatives of each query, drawn from neg."""
    query_length: int = 64
    """Tokens kept of a query."""
    passage_length: int = 256
    """Tokens kept of a passage."""
    buckets: tuple[int, ...] = (16, 32, 64, 96, 128, 192, 256, 384, 512)
    """Lengths that batches are padded to; each one that occurs is compiled once."""
    prompts: Prompts = field(default_factory=Prompts)
    """Text before queries and passages, in training and ever after."""
    workers: int = 1
    """Processes that prepare batches; 0 prepares them between steps."""


@dataclass(frozen=True)
class Data:
    """A training set with what it is measured on.

    Attributes:
        rows: training rows.
        dev: selects the best checkpoint; None when there is too little data for it.
        test: reported only.
    """

    rows: Sequence[Pairs]
    dev: Retrieval | None
    test: Retrieval | None


def open_data(config: DataConfig) -> Data:
    """Read and check everything that a run will need, before anything is trained.

    Args:
        config: where the data is.

    Returns:
        Training rows, dev set and test set.

    Raises:
        InputError: a file is missing or has a line that does not fit, or there are
            fewer rows than one batch.
    """
    if config.train == "builtin":
        rows, dev = builtin.pairs("train"), builtin.retrieval("dev")
        if config.dev is not None:
            dev = _retrieval(config.dev, "dev")
    else:
        rows = sources.read_pairs(config.train)
        if config.dev is None:
            rows, dev = sources.hold_out(rows)
        else:
            dev = _retrieval(config.dev, "dev")
    test = None if config.test is None else _retrieval(config.test, "test")
    if len(rows) < config.batch_size:
        raise InputError(
            f"at least one batch of {config.batch_size} training rows",
            f"{len(rows)}",
            where=config.train,
            do="Lower --data.batch-size.",
        )
    if len(dev.queries) < 2 or len(dev.corpus) < 2:
        print(
            f"warning: {len(dev.queries)} queries and {len(dev.corpus)} passages were "
            "held out, too few for a dev set: the last checkpoint is kept, not the "
            "best; --data.dev names a set to choose by",
            file=sys.stderr,
        )
        return Data(rows, None, test)
    return Data(rows, dev, test)


def _retrieval(name: str, part: Any) -> Retrieval:
    if name == "builtin":
        return builtin.retrieval(part)
    # A folder that has no judgements of its own for development is used as it is.
    split = part if (Path(name) / "qrels" / f"{part}.tsv").exists() else "test"
    return sources.read_beir(name, split)


def check_batch(config: DataConfig, mesh: Mesh, sub_batches: int) -> None:
    """Refuse a batch that the devices or the sub-batches do not divide.

    Raises:
        InputError: with the numbers, and what to change.
    """
    shards = batch_shards(mesh)
    if config.batch_size < 1 or config.batch_size % (shards * sub_batches):
        raise InputError(
            f"a batch that {shards} shards (data x fsdp) x {sub_batches} sub-batches "
            "divide",
            f"{config.batch_size}",
            where="data.batch_size",
            do=f"A multiple of {shards * sub_batches} fits.",
        )


def make_plan(
    config: DataConfig, rows: Sequence[Pairs], tokenizer: tokenize.Tokenizer, seed: int
) -> plan.Plan:
    """Measure every row with the tokenizer and sort the rows into buckets.

    Args:
        config: lengths and batch size.
        rows: the training set.
        tokenizer: of the model.
        seed: of every shuffle.

    Returns:
        The plan, equal on every host.
    """
    queries = np.zeros(len(rows), np.int64)
    passages = np.zeros(len(rows), np.int64)
    with progress.bar("measure", len(rows), "rows") as advance:
        for first in range(0, len(rows), 1_024):
            part = rows[first : first + 1_024]
            encoded = tokenize.encode(
                tokenizer,
                [batches.query_text(row, config.prompts) for row in part],
                max_length=config.query_length,
            )
            queries[first : first + len(part)] = [len(ids) for ids in encoded]
            texts = [
                config.prompts.passage + text
                for row in part
                for text in _candidates(row, config)
            ]
            lengths = iter(
                tokenize.encode(tokenizer, texts, max_length=config.passage_length)
            )
            passages[first : first + len(part)] = [
                max(len(next(lengths)) for _ in _candidates(row, config))
                for row in part
            ]
            advance(len(part))
    longest = max(config.query_length, config.passage_length)
    return plan.make_plan(
        queries,
        passages,
        edges=[edge for edge in config.buckets if edge < longest] + [longest],
        batch_size=config.batch_size,
        seed=seed,
    )


def _candidates(row: Pairs, config: DataConfig) -> tuple[str, ...]:
    """The texts that may come into a batch with a row."""
    return row.pos + row.neg if config.negatives else row.pos


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Places in the global batch that the devices of this host hold.

    Args:
        mesh: the devices.
        batch_size: rows in the global batch.

    Returns:
        int64 places, ascending.

    Example:
        >>> from m3jax.core.mesh import make_mesh
        >>> from m3jax.core.mesh_config import MeshConfig
        >>> local_rows(make_mesh(MeshConfig(), jax.devices()[:1]), 4).tolist()
        [0, 1, 2, 3]
    """
    here = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    places = np.arange(batch_size)
    return np.unique(
        np.concatenate([places[index] for index in here.values() if index])
    )


def stream(
    batcher: batches.Batcher, mesh: Mesh, *, start: int, stop: int, workers: int
) -> Generator[Batch]:
    """Batches of the steps `start` to `stop` on the devices, made ahead by workers.

    Args:
        batcher: makes the arrays of a step.
        mesh: where they go; rows over data and fsdp.
        start: first step.
        stop: the step after the last.
        workers: processes; 0 works in this one.

    Yields:
        One `Batch` a step.
    """
    steps = grain.MapDataset.range(start, stop).map(batcher)
    made = steps.to_iter_dataset(
        grain.ReadOptions(num_threads=0 if workers == 0 else 1, prefetch_buffer_size=2)
    )
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads absl's flags; we have none
        # Token ids are small: through a pipe, nothing stays in shared memory when a
        # process is killed.
        made = grain.experimental.WithOptionsIterDataset(
            made, grain.experimental.DatasetOptions(min_shm_size=2**40)
        )
        made = made.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4),
            worker_init_fn=_init_worker,
        )
    sharding = batch_sharding(mesh)
    size = batcher.plan.batch_size
    iterator = iter(made)
    try:
        for arrays in iterator:
            yield _on_devices(arrays, sharding, size)
    finally:
        iterator.close()


def _on_devices(
    arrays: dict[str, np.ndarray], sharding: NamedSharding, size: int
) -> Batch:
    placed = {
        name: jax.make_array_from_process_local_data(
            sharding, array, (size, *array.shape[1:])
        )
        for name, array in arrays.items()
    }
    return Batch(
        query=Tokens(placed["query.ids"], placed["query.mask"]),
        passage=Tokens(placed["passage.ids"], placed["passage.mask"]),
        where=placed["where"],
        query_ids=placed["query_ids"],
        passage_ids=placed["passage_ids"],
        row=placed["row"],
    )


def _init_worker(index: int, count: int) -> None:
    """Keep a worker off the accelerators and off the other workers' cores."""
    del index, count
    # Ctrl-C reaches every process of a terminal; this one ends with its parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
