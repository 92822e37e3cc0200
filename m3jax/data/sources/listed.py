"""Records that are in memory already."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from m3jax.data.records import Record


@dataclass(frozen=True)
class Listed:
    """A source of records in memory; see `listed`."""

    name: str
    fingerprint: str
    records: tuple[Record, ...]

    def __len__(self) -> int:
        """How many records."""
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        """One record."""
        return self.records[index]

    def check(self) -> None:
        """Nothing can have changed."""


def listed(name: str, records: Sequence[Record]) -> Listed:
    """Make a source of records in memory.

    Args:
        name: for messages.
        records: the rows.

    Returns:
        The source.

    Example:
        >>> from m3jax.data.records import Text
        >>> len(listed("mine", [Text("a"), Text("b")]))
        2
    """
    content = blake2b(digest_size=8)
    for record in records:
        content.update(repr(record).encode())
    return Listed(name, content.hexdigest(), tuple(records))
