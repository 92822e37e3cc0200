"""When the machine is taken away: the training stops at a step, and can go on."""

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import jax

from m3jax.core import distributed

Stop = Callable[[int], bool]
_ENDED = b"preempted: what was saved stays; run the same command again to continue\n"
# How often all processes have asked, in all stages.
_asked = itertools.count(1)


def never(step: int) -> bool:
    """Go on to the end."""
    del step
    return False


@contextmanager
def watch() -> Iterator[Stop]:
    """Listen for SIGTERM, by which schedulers say that a process is to end.

    One process takes note of it and does not die. Of several, jax listens in each and
    they agree on a step; that needs `jax.distributed.initialize`. A signal that nobody
    has asked about when the block ends is raised again there.

    Yields:
        A function to ask after every step: (step) -> whether to save and stop there,
        the same in all processes.

    Example:
        >>> with watch() as stop:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     stop(3)
        True
    """
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        def reached(step: int) -> bool:
            # They agree on the highest number told so far and one more, which has to
            # come: those of a stage begin at 0 again.
            del step
            return multihost_utils.reached_preemption_sync_point(next(_asked))

        yield reached
        return
    if threading.current_thread() is not threading.main_thread():
        yield never  # Python lets only the main thread listen
        return
    told, answered = threading.Event(), threading.Event()

    def asked(step: int) -> bool:
        del step
        if told.is_set():
            answered.set()
        return told.is_set()

    # A second one changes nothing: some send it to a process and then to its group.
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
    if told.is_set() and not answered.is_set():
        # It came when no step was left to ask after.
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def leaving() -> Iterator[None]:
    """End at once on SIGTERM, with 0, where no step is at work: nothing is lost there.

    `watch` takes its place while it listens. Of several processes jax takes note of the
    signal, and they end at the next step.

    Example:
        >>> with leaving():
        ...     print("reads data, compiles, exports")
        reads data, compiles, exports
    """
    main = threading.current_thread() is threading.main_thread()
    if jax.process_count() > 1 or not main:
        yield
        return

    def end(*_: object) -> None:
        # Not by print, which may be at work.
        os.write(2, _ENDED)
        # As safe as SIGKILL, which may come at any time. An exception may not arrive:
        # code in C++ that calls back makes another one of it.
        os._exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave(step: int) -> NoReturn:
    """End the program after the state was saved, and say how to go on.

    Args:
        step: of the checkpoint.

    Raises:
        SystemExit: with 0.

    Example:
        >>> leave(7)
        Traceback (most recent call last):
        SystemExit: 0
    """
    if distributed.first():
        # At once: workers that are asked to end take a moment.
        print(
            f"preempted: step {step} is saved; run the same command again to continue",
            file=sys.stderr,
            flush=True,
        )
    sys.exit(0)
