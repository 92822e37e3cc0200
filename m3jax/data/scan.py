"""One pass over a data set: which rows are good, and hashes of their texts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data import cache
from m3jax.data.columns import column, growing, kept
from m3jax.data.processes import how_many, in_order
from m3jax.data.scan_rows import Kind, OnBadRow, Part, scanner
from m3jax.data.sources.base import Source, bad_row, where
from m3jax.data.sources.picked import Picked

BLOCK = 10_000  # rows of a task
_FORMAT = 2
_REASONS, _TOLD = 20, 3  # kept, and shown to the user


@dataclass(frozen=True)
class Scan:
    """What is known of every good row of a data set.

    Attributes:
        folder: where the columns are.
        kind: of all its records.
        rows: good ones.
        bad: rows that were left out.
        reasons: what is wrong with the first of them, each with its place.
        languages: language -> rows, of the rows that tell one.
        content: hex digits of all that they say, wherever they lie.
    """

    folder: str
    kind: Kind
    rows: int
    bad: int
    reasons: tuple[str, ...]
    languages: Mapping[str, int]
    content: str

    @property
    def query(self) -> np.ndarray:
        """Content hash of each query, text or first text, uint64."""
        return column(f"{self.folder}/query.npy")

    @property
    def partner(self) -> np.ndarray:
        """Content hash of the first positive, label or second text; 0 for Text."""
        return column(f"{self.folder}/partner.npy")

    @property
    def negatives(self) -> np.ndarray:
        """Negatives of each row, uint16; 65535 stands for that many or more."""
        return column(f"{self.folder}/negatives.npy")

    @property
    def row(self) -> np.ndarray | None:
        """Number of each good row in the source, int64; None where all are good."""
        return column(f"{self.folder}/row.npy") if self.bad else None

    def told(self, name: str) -> list[str]:
        """What a user is told of the rows that were left out, in lines.

        Args:
            name: of the source.

        Returns:
            Nothing where all rows are good.
        """
        if not self.bad:
            return []
        first = [f"skipped: {reason}" for reason in self.reasons[:_TOLD]]
        rest = f", the first {_TOLD} are above" if self.bad > _TOLD else ""
        of = f"{self.bad:,} of {self.rows + self.bad:,} rows of {name}"
        return [*first, f"skipped: {of}{rest}"]

    def good(self, source: Source) -> Source:
        """The good rows of a source.

        Args:
            source: that was scanned.

        Returns:
            The source itself if all its rows are good.
        """
        if not self.bad:
            return source
        return Picked(source, f"{self.folder}/row.npy", self.rows)


def scan(
    source: Source,
    *,
    root: Path,
    on_bad_row: OnBadRow = "stop",
    processes: int | None = None,
) -> Scan:
    """Read every row once, in parallel, and keep what is learned in the cache.

    Args:
        source: rows of one kind.
        root: the cache.
        on_bad_row: stop at the first, or skip and count them.
        processes: how many read; by default one a core, or this one if rows are few.

    Returns:
        What is known of the rows.

    Raises:
        InputError: a row is bad, all are or there is none, rows are of two kinds, or
            the source has changed since it was opened.

    Example:
        >>> import tempfile
        >>> from m3jax.data.records import Pairs
        >>> from m3jax.data.sources.listed import listed
        >>> source = listed("mine", [Pairs("2 + 2?", ("4",), ("5", "6"))])
        >>> found = scan(source, root=Path(tempfile.mkdtemp()))
        >>> found.kind, found.rows, found.negatives.tolist()
        ('pairs', 1, [2])
    """
    if not len(source):
        raise InputError("a row a line", "an empty file", where=source.name)
    version = source.fingerprint, on_bad_row, _FORMAT
    target = cache.entry(root / "scan", source.name, *version)
    build = partial(_build, source, on_bad_row, processes)
    facts = kept(target, build, what=f"scan of {source.name}")
    reasons = tuple(facts.pop("reasons"))
    return Scan(folder=str(target), reasons=reasons, **facts)


def _build(
    source: Source, on_bad_row: OnBadRow, processes: int | None, folder: Path
) -> dict[str, Any]:
    rows = len(source)
    tasks = ((at, min(at + BLOCK, rows)) for at in range(0, rows, BLOCK))
    kind, good, bad = None, 0, 0
    reasons: list[str] = []
    languages: Counter[str] = Counter()
    content = blake2b(digest_size=8)
    with (
        growing(folder / "query.npy", np.uint64) as add_query,
        growing(folder / "partner.npy", np.uint64) as add_partner,
        growing(folder / "negatives.npy", np.uint16) as add_negatives,
        growing(folder / "row.npy", np.int64) as add_row,
        bar(f"scan {source.name}", rows, "rows") as advance,
    ):
        setup = scanner, (source, on_bad_row)
        for part in in_order(*setup, tasks, processes=how_many(rows, processes)):
            kind = kind or next(iter(part.kinds), None)
            _require_one_kind(source, kind, part, on_bad_row)
            if part.bad and on_bad_row == "stop":
                raise bad_row(source, part.bad[0])
            for row in part.bad[: _REASONS - len(reasons)]:
                reasons.append(str(bad_row(source, row)))
            add_query(part.query)
            add_partner(part.partner)
            add_negatives(part.negatives)
            add_row(part.row)
            good += len(part.row)
            bad += len(part.bad)
            languages += part.languages
            content.update(part.content)
            advance(len(part.row) + len(part.bad))
    source.check()
    if not good:
        found = f"{bad} bad ones ({reasons[0]})"
        raise InputError("a row that can be read", found, where=source.name)
    if not bad:
        (folder / "row.npy").unlink()
    facts = {"kind": kind, "rows": good, "bad": bad, "content": content.hexdigest()}
    return {**facts, "reasons": reasons, "languages": dict(languages)}


def _require_one_kind(
    source: Source, kind: Kind | None, part: Part, on_bad_row: OnBadRow
) -> None:
    others = {other: row for other, row in part.kinds.items() if other != kind}
    for other, row in others.items():
        if on_bad_row == "stop" and part.bad and part.bad[0] < row:
            return  # of two errors the first is told
        raise InputError(
            f"rows of one kind, {kind} as before it",
            other,
            where=where(source, row),
            do="Give them as two data sets.",
        )
