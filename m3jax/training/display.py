"""What a training shows while it runs."""

import sys
import time
from collections import deque

from rich import progress
from rich.console import Console

from m3jax.core import distributed


class Display:
    """A progress bar on a terminal, now and then a line elsewhere.

    Args:
        steps: updates in all.
        first: updates made before.
    """

    def __init__(self, steps: int, first: int) -> None:
        self._steps = steps
        self._every = max(steps // 20, 1)
        self._since = time.perf_counter()
        self._recent: deque[tuple[float, float, float, float]] = deque(maxlen=10)
        self._seconds, self._waited, self._updates = 0.0, 0.0, 0
        self._quiet = not distributed.first()
        self._console = Console(stderr=True, soft_wrap=True, quiet=self._quiet)
        self._live = self._console.is_terminal and not self._quiet
        self._bar = progress.Progress(
            progress.TextColumn("train"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[said]}"),
            progress.TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=steps, completed=first, said="")

    def __enter__(self) -> "Display":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is, and say whether the data was fast enough."""
        self._bar.stop()
        if self._updates and not self._quiet:
            share = self._waited / self._seconds
            print(
                f"{self._updates} updates in {self._seconds:,.0f} s, "
                f"{share:.1%} of it waiting for data",
                file=sys.stderr,
            )

    def update(
        self,
        step: int,
        values: dict[str, float],
        *,
        queries: int,
        padded_tokens: int,
        wait: float,
    ) -> dict[str, float]:
        """Show a step whose results are known.

        Args:
            step: updates made so far.
            values: its metrics.
            queries: queries in its batch.
            padded_tokens: tokens in its batch, padding included.
            wait: seconds until its batch was there.

        Returns:
            Queries and tokens a second and the share of the time spent waiting for
            data, over the last ten steps at most, and the share of the tokens in this
            batch that are real.
        """
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._seconds, self._updates = self._seconds + seconds, self._updates + 1
        self._waited += wait
        self._recent.append((seconds, queries, values["tokens"], wait))
        spent, asked, read, idle = (sum(x) for x in zip(*self._recent, strict=True))
        speed = {
            "queries_per_second": asked / spent,
            "tokens_per_second": read / spent,
            "data_wait_share": idle / spent,
            "padding_efficiency": values["tokens"] / padded_tokens,
        }
        said = (
            f"loss {values['loss']:.4f}  "
            f"{speed['queries_per_second']:,.0f} queries/s  "
            f"{speed['tokens_per_second']:,.0f} tokens/s  "
            f"padding efficiency {speed['padding_efficiency']:.2f}"
        )
        self._bar.update(self._task, completed=step, said=said)
        if (
            not self._live
            and not self._quiet
            and (step % self._every == 0 or step == 1)
        ):
            left = self._seconds / self._updates * (self._steps - step)
            said += f"  {left:,.0f} s left"
            print(f"step {step}/{self._steps}  {said}", file=sys.stderr, flush=True)
        return speed

    def say(self, step: int, results: dict[str, float]) -> None:
        """Print the results of an evaluation above the bar."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in results.items())
        self._console.print(f"step {step}: {text}", highlight=False)

    def resume(self) -> None:
        """Start the clock again after an evaluation."""
        self._since = time.perf_counter()
