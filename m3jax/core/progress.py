"""A bar for long work; on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from m3jax.core import distributed

# Whether a bar is shown, or what is told of each finished part in place of a bar.
Show = bool | Callable[[int], None]


@contextmanager
def bar(
    description: str, total: int | None, unit: str, *, show: Show = True
) -> Iterator[Callable[[int], None]]:
    """Show how far a piece of work is, on stderr, and leave no trace of it.

    Args:
        description: what is being done.
        total: units in all; None = not known.
        unit: what is counted, e.g. "texts".
        show: False keeps quiet; a function gets the units in place of a bar.

    Yields:
        A function to call with the number of units that were just finished.

    Example:
        >>> with bar("encode", 3, "texts", show=False) as advance:
        ...     advance(3)
    """
    if callable(show):
        yield show
        return
    if not show or not sys.stderr.isatty() or not distributed.first():
        yield lambda units: None
        return
    from rich import progress
    from rich.console import Console

    class SpeedColumn(progress.ProgressColumn):
        def render(self, task: progress.Task) -> str:
            return "" if task.speed is None else f"{task.speed:,.0f}/s"

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn(unit),
        SpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(
        *columns, console=Console(stderr=True), transient=True
    ) as shown:
        task = shown.add_task(description, total=total)
        yield lambda units: shown.advance(task, units)
