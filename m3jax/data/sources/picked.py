"""Some rows of another source."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.columns import column
from m3jax.data.records import Record
from m3jax.data.sources.base import Source, records, where


@dataclass(frozen=True)
class Picked:
    """Some rows of a source, such as the good ones.

    Attributes:
        source: of all rows.
        numbers: a .npy file of their numbers, int64, rising.
        count: how many they are.
    """

    source: Source
    numbers: str
    count: int

    @property
    def name(self) -> str:
        """Of the source."""
        return self.source.name

    @property
    def fingerprint(self) -> str:
        """Of the source and of which rows are picked."""
        digest = blake2b(column(self.numbers).data, digest_size=8)
        return f"{self.source.fingerprint}-{digest.hexdigest()}"

    def __len__(self) -> int:
        """Picked rows."""
        return self.count

    def __getitem__(self, index: int) -> Record:
        """Read one record."""
        return self.source[self._number(index)]

    def block(self, start: int, stop: int) -> Iterator[Record | InputError]:
        """Read records one after another, as `sources.base.records` does.

        Args:
            start: the first row.
            stop: the row after the last.

        Yields:
            A record, or the error of a bad row.
        """
        if start >= stop:
            return
        picked = column(self.numbers)[start:stop]
        first, last = int(picked[0]), int(picked[-1])
        wanted = np.zeros(last - first + 1, bool)
        wanted[picked - first] = True
        found = records(self.source, first, last + 1)
        for record, is_picked in zip(found, wanted.tolist(), strict=True):
            if is_picked:
                yield record

    def where(self, index: int) -> str:
        """Where a row stands."""
        return where(self.source, self._number(index))

    def check(self) -> None:
        """Raise an `InputError` if the rows are no longer those that were opened."""
        self.source.check()

    def _number(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return int(column(self.numbers)[index])
