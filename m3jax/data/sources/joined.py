"""Several sources, one after another."""

import bisect
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from m3jax.core.errors import InputError
from m3jax.data.records import Record
from m3jax.data.sources.base import Source, records, where


@dataclass(frozen=True)
class Joined:
    """The rows of several sources, one source after another, as of a glob.

    Attributes:
        sources: at least one.
    """

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        """Of the first source, and how many more there are."""
        more = len(self.sources) - 1
        return f"{self.sources[0].name} and {more} more"

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(len(source) for source in self.sources))

    @property
    def fingerprint(self) -> str:
        """Of all sources and their order."""
        parts = [source.fingerprint for source in self.sources]
        return blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        """Rows of all."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        """Read one record."""
        source, inner = self._find(index)
        return source[inner]

    def block(self, start: int, stop: int) -> Iterator[Record | InputError]:
        """Read records one after another, as `base.records` does.

        Args:
            start: the first row.
            stop: the row after the last.

        Yields:
            A record, or the error of a bad row.
        """
        while start < stop:
            source, inner = self._find(start)
            count = min(stop - start, len(source) - inner)
            yield from records(source, inner, inner + count)
            start += count

    def where(self, index: int) -> str:
        """Where a row stands."""
        return where(*self._find(index))

    def check(self) -> None:
        """Raise an `InputError` if a source is no longer the one that was opened."""
        for source in self.sources:
            source.check()

    def _find(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        at = bisect.bisect_right(self._ends, index)
        return self.sources[at], index - (self._ends[at - 1] if at else 0)
