"""How fast a training is, and where its time and memory go."""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import jax

from m3jax.core.types import Batch

_WINDOW = 10  # steps over which speeds are means


@dataclass(frozen=True)
class Cost:
    """What one step took of the host.

    Attributes:
        queries: in its batch.
        padded_tokens: in its batch, padding included.
        wait: seconds until its batch was there.
        dispatch: seconds in the call of the compiled step, which on most devices
            returns before the step is done.
        flops: of the model on this batch; NaN where nobody counts them.
    """

    queries: int
    padded_tokens: int
    wait: float
    dispatch: float
    flops: float = math.nan


class Speed:
    """Means over the last ten steps at most.

    A turn of the loop is: wait for a batch, call the step, wait for the results of the
    step before, and the rest, which is the loop's own: read, show and write them. Its
    share is what the loop costs at most; on a device that has been given the next step
    already, it costs nothing. A turn that compiles says nothing of the speed: the means
    are of the others.

    Args:
        peak_flops: a second, of all devices together; None where it is not known.
    """

    def __init__(self, peak_flops: float | None = None) -> None:
        self._peak = peak_flops
        self._recent: deque[tuple[float, ...]] = deque(maxlen=_WINDOW)
        self.seconds, self.waited, self.steps = 0.0, 0.0, 0
        self._even, self._compiles = (0.0, 0), False
        self.start()

    @property
    def per_step(self) -> float | None:
        """Seconds of a step that does not compile; None before the first."""
        seconds, steps = self._even
        return seconds / steps if steps else None

    def start(self) -> None:
        """Start the clock, at first or after an evaluation."""
        self._since = time.perf_counter()
        # Of the turn that runs: calls of the step, and waits for data and for devices.
        self._elsewhere = 0.0

    def spent(self, seconds: float) -> None:
        """Time of this turn that is not the loop's own."""
        self._elsewhere += seconds

    def compiled(self) -> None:
        """This turn had a batch of a new shape."""
        self._compiles = True

    def update(self, cost: Cost, tokens: float) -> dict[str, float]:
        """End a turn, in which the results of a step were read.

        Args:
            cost: of that step.
            tokens: in its batch, without padding.

        Returns:
            Metric -> value: queries and tokens a second, shares of the time, and where
            known the share of the devices' peak (MFU).
        """
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        own, self._elsewhere = max(seconds - self._elsewhere, 0.0), 0.0
        self.seconds, self.steps = self.seconds + seconds, self.steps + 1
        self.waited += cost.wait
        row = seconds, cost.queries, tokens, cost.wait, own, cost.dispatch, cost.flops
        if not self._compiles:
            self._recent.append(row)
            self._even = self._even[0] + seconds, self._even[1] + 1
        self._compiles = False
        sums = [sum(column) for column in zip(*(self._recent or [row]), strict=True)]
        total, queries, read, wait, own, dispatch, flops = sums
        found = {
            "queries_per_second": queries / total,
            "tokens_per_second": read / total,
            "data_wait_share": wait / total,
            "overhead_share": own / total,
            "dispatch_share": dispatch / total,
            "padding_efficiency": tokens / cost.padded_tokens,
            "data_wait_seconds": cost.wait,
        }
        if self._peak is not None and math.isfinite(flops):
            found["mfu"] = flops / total / self._peak
        return found | memory()


def memory() -> dict[str, float]:
    """Bytes in use and at the peak, of the fullest device of this host.

    Returns:
        Metric -> value; empty where the devices do not say.

    Example:
        >>> memory()
        {}
    """
    stats = [found for x in jax.local_devices() if (found := x.memory_stats())]
    names = {"bytes_in_use": "memory_bytes", "peak_bytes_in_use": "memory_peak_bytes"}
    return {
        name: float(max(found[key] for found in stats))
        for key, name in names.items()
        if stats and all(key in found for found in stats)
    }


def flops_of(count: Callable[[Batch], float] | None, batch: Batch) -> float:
    """What is counted for a batch; NaN where nobody counts."""
    return math.nan if count is None else count(batch)
