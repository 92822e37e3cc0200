"""Work on blocks of rows, in processes that know nothing of jax."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from m3jax.core.cores import cores
from m3jax.core.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Below this many rows, starting processes takes longer than the work.
FEW = 20_000
# Tasks given out ahead of the oldest result that is missing, a process.
_AHEAD = 3


def how_many(rows: int, processes: int | None) -> int:
    """How many processes to use.

    Args:
        rows: to work on.
        processes: as asked; None takes one a core, or none at all for few rows.

    Returns:
        Their number; 0 stands for this process.

    Example:
        >>> how_many(1000, None)
        0
    """
    if processes is not None:
        return processes
    return 0 if rows < FEW else cores()


def in_order(
    setup: Callable[..., Callable[[Task], Result]],
    arguments: tuple[Any, ...],
    tasks: Iterable[Task],
    *,
    processes: int,
) -> Iterator[Result]:
    """Do tasks in parallel; their results come in the order of the tasks.

    Args:
        setup: called once in each process; what it returns does a task. A function of a
            module, as all that goes to another process.
        arguments: of `setup`.
        tasks: taken as they are needed.
        processes: how many; 0 works in this process.

    Yields:
        The results.

    Raises:
        InputError: a process was killed, or cannot start.

    Example:
        >>> list(in_order(lambda base: lambda task: base + task, (10,), [1, 2],
        ...     processes=0))
        [11, 12]
    """
    if not processes:
        yield from map(setup(*arguments), tasks)
        return
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(setup, arguments),
    )
    waiting: deque[Any] = deque()
    try:
        rest = iter(tasks)
        for task in itertools.islice(rest, processes * _AHEAD):
            waiting.append(pool.submit(_do, task))
        while waiting:
            yield waiting.popleft().result()
            for task in itertools.islice(rest, 1):
                waiting.append(pool.submit(_do, task))
    except BrokenProcessPool:
        raise InputError(
            "processes that read the data to live",
            "one that was killed or could not start",
            where="data",
            do="Look for a lack of memory; a script of yours that calls this needs "
            'its work under if __name__ == "__main__".',
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any], Any] | None = None


def _start(setup: Callable[..., Callable[[Any], Any]], arguments: Any) -> None:
    global _work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are parallel
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = setup(*arguments)


def _end_with_parent() -> None:
    """No process is left behind by one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)
