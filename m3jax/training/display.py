"""What a training shows while it runs."""

import sys
import time

from rich import progress
from rich.console import Console

from m3jax.core import distributed
from m3jax.training.speed import Speed

# Columns of the bar, and of the rest but steps and what is said.
_BAR, _TIME = 12, 12
# Seconds without a line, where there is no terminal.
_SILENCE = 60.0


class Display:
    """A progress bar on a terminal; elsewhere a line every minute, or more often.

    Args:
        steps: updates in all.
        first: updates made before.
        speed: what is told of it.
    """

    def __init__(self, steps: int, first: int, speed: Speed) -> None:
        self._steps = steps
        self._every = max(steps // 20, 1)
        self._told = time.monotonic()
        self._speed = speed
        self._quiet = not distributed.first()
        self._console = Console(stderr=True, soft_wrap=True, quiet=self._quiet)
        self._live = self._console.is_terminal and not self._quiet
        self._bar = progress.Progress(
            progress.BarColumn(bar_width=_BAR),
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
        speed = self._speed
        if speed.steps and not self._quiet:
            share = speed.waited / speed.seconds
            print(
                f"{speed.steps} updates in {speed.seconds:,.0f} s, "
                f"{share:.1%} of it waiting for data",
                file=sys.stderr,
            )

    def update(
        self, step: int, values: dict[str, float], speed: dict[str, float]
    ) -> None:
        """Show a step whose results are known.

        Args:
            step: updates made so far.
            values: its metrics.
            speed: what `Speed.update` returned.
        """
        queries = speed["queries_per_second"]
        parts = [
            f"loss {values['loss']:.4f}",
            f"{queries:,.{int(queries < 10)}f} queries/s",
            f"{speed['tokens_per_second']:,.0f} tokens/s",
            f"{1 - speed['padding_efficiency']:.0%} padding",
        ]
        if "mfu" in speed:
            parts.append(f"MFU {speed['mfu']:.1%}")
        if self._live:  # a terminal may be too narrow for all of it
            room = self._console.width - _BAR - 2 * len(f"{self._steps}") - _TIME
            while len(parts) > 1 and len("  ".join(parts)) > room:
                parts.pop()
        said = "  ".join(parts)
        self._bar.update(self._task, completed=step, said=said)
        late = time.monotonic() - self._told > _SILENCE
        due = step % self._every == 0 or step == 1 or late
        if due and not self._live and not self._quiet:
            self._told = time.monotonic()
            if (each := self._speed.per_step) is not None:
                said += f"  {each * (self._steps - step):,.0f} s left"
            print(f"step {step}/{self._steps}  {said}", file=sys.stderr, flush=True)

    def say(self, step: int, results: dict[str, float]) -> None:
        """Print the results of an evaluation above the bar."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in results.items())
        self._console.print(f"step {step}: {text}", highlight=False)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, highlight=False)
