"""From a plan to batches on the devices, made ahead by worker processes."""

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grain
import grain.experimental
import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh, NamedSharding

from m3jax.core.mesh import batch_sharding
from m3jax.core.types import Batch, Tokens
from m3jax.data.batches import Batcher

_TOGETHER = 256  # rows that are tokenised together, in batches of fewer
_AHEAD = 3  # such pieces of work that each worker keeps ready
# Of a worker. Tokenising gives up Python's lock, so one can read and pack meanwhile.
_THREADS = 2
_END = 1.0  # seconds that a worker has to end by itself


@dataclass(frozen=True, eq=False)
class _Together:
    """Makes the batches of a few steps; each is what it would be alone."""

    batcher: Batcher
    count: int
    stop: int

    def __call__(self, step: int) -> list[dict[str, np.ndarray]]:
        last = min(step + self.count, self.stop)
        return self.batcher.batches(step, last)


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


class Stream(Iterator[Batch]):
    """Batches of a run's steps on the devices, made ahead by workers.

    Each worker makes every n-th step and keeps a few batches ready, so memory does not
    grow. Position in the data = step, so a stream can begin, and go on, anywhere, with
    any number of workers or hosts. Close it: the workers end with it.

    Args:
        batcher: makes the arrays of a step.
        mesh: where they go; rows over data and fsdp.
        start: first step.
        stop: the step after the last.
        workers: processes; 0 works in this one.
    """

    def __init__(
        self, batcher: Batcher, mesh: Mesh, *, start: int, stop: int, workers: int
    ) -> None:
        self._batcher = batcher
        self._sharding = batch_sharding(mesh)
        self._stop, self._workers = stop, workers
        self._ready: list[dict[str, np.ndarray]] = []
        self._step = start
        self._made = self._begin(start)

    def __next__(self) -> Batch:
        """The batch of the next step.

        Raises:
            InputError: a row cannot be read, or a source has changed.
            StopIteration: there are no more steps.
        """
        if not self._ready:
            self._ready = next(self._made)[::-1]
        self._step += 1
        return on_devices(self._ready.pop(), self._sharding)

    def state(self) -> dict[str, int]:
        """Where the stream stands: all that it takes to go on."""
        return {"step": self._step}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from a `state`, of this stream or of another one of the same plan."""
        self.close()
        self._ready = []
        self._step = state["step"]
        self._made = self._begin(self._step)

    def close(self) -> None:
        """End the workers."""
        self._made.close()

    def _begin(self, start: int) -> Any:
        least = min(map(len, self._batcher.local.values()))
        work = _Together(self._batcher, max(1, _TOGETHER // least), self._stop)
        steps = grain.MapDataset.range(start, self._stop, work.count).map(work)
        made = steps.to_iter_dataset(
            grain.ReadOptions(
                num_threads=_THREADS if self._workers else 0,
                prefetch_buffer_size=_THREADS,
            )
        )
        if self._workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # grain reads absl's flags; we have none
            # Token ids are small: through a pipe, nothing stays in shared memory when a
            # process is killed.
            made = grain.experimental.WithOptionsIterDataset(
                made, grain.experimental.DatasetOptions(min_shm_size=2**40)
            )
            _wait_less()
            made = made.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=_AHEAD
                ),
                worker_init_fn=_init_worker,
            )
        return iter(made)


def on_devices(arrays: Mapping[str, np.ndarray], sharding: NamedSharding) -> Batch:
    """Put what a `Batcher` made on the devices of this host.

    Args:
        arrays: the local rows of a batch, and its global size.
        sharding: of rows.

    Returns:
        The global batch.
    """
    size = int(arrays["size"])
    placed: dict[str, Any] = {
        name: jax.make_array_from_process_local_data(
            sharding, array, (size, *array.shape[1:])
        )
        for name, array in arrays.items()
        if name != "size"
    }
    texts: dict[str, Any] = {"query": None, "passage": None, "pair": None}
    for name in texts:
        parts = [f"{name}.{part}" for part in ("ids", "mask", "types")]
        if parts[0] in placed:
            ids, mask, types = (placed.pop(part, None) for part in parts)
            texts[name] = Tokens(ids, mask, types=types)
    return Batch(**texts, **placed)


def _wait_less() -> None:
    """Let grain kill a worker that does not end, after a second in place of 25.

    One whose pipe is full cannot end. Killed by us it would leave half a message, which
    grain would read for ever; what grain itself has killed it does not read.
    """
    name = "grain._src.python.dataset.transformations.process_prefetch"
    # A grain that has it elsewhere only takes longer.
    with contextlib.suppress(ImportError):
        module: Any = importlib.import_module(name)
        module._PROCESS_KILL_TIMEOUT_S = _END


def _init_worker(index: int, count: int) -> None:
    """Keep a worker off the accelerators, and its tokenizer in the calling thread."""
    del index, count
    # Ctrl-C reaches every process of a terminal, and a scheduler's SIGTERM every one of
    # a job, which still needs batches until its state is saved. This one ends with its
    # parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    jax.config.update("jax_platforms", "cpu")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
