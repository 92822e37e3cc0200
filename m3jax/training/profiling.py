"""A trace of a few steps, for TensorBoard or Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax

from m3jax.core.errors import InputError


def parse_profile(text: str) -> tuple[int, int]:
    """Read the value of `--profile`.

    Args:
        text: "first:last", steps counted from 1, both of them traced.

    Returns:
        The two.

    Raises:
        InputError: it is not so.

    Example:
        >>> parse_profile("10:13")
        (10, 13)
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(
            "first:last, steps counted from 1, e.g. 10:13", text, where="--profile"
        )
    return int(found[1]), int(found[2])


class Profile:
    """Traces the steps first to last, or those of them that are taken.

    Use it as a context: a training that ends or fails meanwhile leaves its trace.

    Args:
        steps: first and last; None = none.
        folder: gets the trace.

    Example:
        >>> with Profile(None, Path("unused")) as profile:
        ...     profile.before(1)
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._steps, self._folder = steps, folder
        self._on = False

    def __enter__(self) -> "Profile":
        """Nothing is traced yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the trace."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Begin the trace where this step is in it."""
        if self._steps and not self._on and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(self._folder)
            self._on = True

    def after(self, step: int, results: Any) -> None:
        """End the trace after its last step, when the devices are done with it."""
        if self._on and self._steps and step >= self._steps[1]:
            jax.block_until_ready(results)
            self.__exit__()
