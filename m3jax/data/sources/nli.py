"""Natural language inference: one record of all the hypotheses of a premise."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data import cache, fields, layout_names
from m3jax.data.columns import column, kept
from m3jax.data.records import Pairs, content_hash
from m3jax.data.sources.base import Rows, rows_between

FORMAT = 1
ENTAILED, CONTRADICTED, NEITHER = 1, 2, 0
# The annotators of a row with -1, "-" or null did not agree.
_VERDICTS = {0: ENTAILED, 1: NEITHER, 2: CONTRADICTED, -1: NEITHER} | {
    "entailment": ENTAILED,
    "neutral": NEITHER,
    "contradiction": CONTRADICTED,
    "-": NEITHER,
}


@dataclass(frozen=True)
class Grouped:
    """A source of one record a premise; see `open_nli`.

    Attributes:
        rows: premise, hypothesis and label of each row.
        columns: their names.
        folder: of the arrays that say which rows belong together.
        fingerprint: of the rows and of how they are read.
    """

    rows: Rows
    columns: tuple[str, ...]
    folder: Path
    fingerprint: str

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self.rows.name

    def __len__(self) -> int:
        """How many premises have an entailed hypothesis."""
        return len(self._array("positives"))

    def __getitem__(self, index: int) -> Pairs:
        """All rows of one premise, in the order in which premises come first."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, stop = self._array("starts")[index : index + 2].tolist()
        members = self._array("members")[start:stop].tolist()
        count = int(self._array("positives")[index])
        read = [self._read(member) for member in members]
        # Some hypotheses stand there twice, a few with both labels.
        pos = dict.fromkeys(hypothesis for _, hypothesis in read[:count])
        neg = dict.fromkeys(text for _, text in read[count:] if text not in pos)
        return Pairs(read[0][0], tuple(pos), tuple(neg))

    def where(self, index: int) -> str:
        """Where the first row of a premise stands; may be slow."""
        first = self._array("members")[int(self._array("starts")[index])]
        return self.rows.where(int(first))

    def check(self) -> None:
        """Raise an `InputError` if the rows are no longer those that were opened."""
        self.rows.check()

    def _read(self, number: int) -> tuple[str, str]:
        premise, hypothesis, _ = self.columns
        row = self.rows.row(number)
        try:
            return fields.text(row, premise), fields.text(row, hypothesis)
        except InputError as error:
            raise error.at(self.rows.where(number)) from None

    def _array(self, name: str) -> np.ndarray:
        return column(str(self.folder / f"{name}.npy"))


def open_nli(
    rows: Rows,
    root: Path,
    columns: Sequence[str] = (),
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
) -> Grouped:
    r"""Open rows of premise, hypothesis and label as one record a premise.

    The premise is the query, entailed hypotheses are positives, contradicted ones are
    negatives; neutral ones and rows without agreement (-1, "-" or null) are left out,
    and so is a premise that entails nothing. As SimCSE and E5 train on NLI:
    https://arxiv.org/abs/2104.08821, https://arxiv.org/abs/2212.03533

    Args:
        rows: the rows. A label is 0, 1, 2 or entailment, neutral, contradiction.
        root: the cache; which rows belong together is written there once.
        columns: of premise, hypothesis and label; empty = by their names.
        on_bad_row: a bad row is an error, or is counted, told and left out.

    Returns:
        The source.

    Raises:
        InputError: a row is bad, or no premise entails anything.

    Example:
        >>> import tempfile
        >>> from m3jax.data.sources.lines import open_lines
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = '{"premise": "A cat sits.", "hypothesis": "%s", "label": %d}'
        >>> lines = row % ("An animal sits.", 0), row % ("A cat runs.", 2)
        >>> _ = (folder / "a.jsonl").write_text("\n".join(lines))
        >>> open_nli(open_lines(folder / "a.jsonl", root=folder), folder)[0].neg
        ('A cat runs.',)
    """
    columns = tuple(columns) or _columns(rows)
    how = f"nli({','.join(columns)})-{on_bad_row}"
    folder = cache.entry(root / "nli", rows.name, FORMAT, rows.fingerprint, how)

    def build(folder: Path) -> Mapping[str, object]:
        premises, verdicts, bad = _scan(rows, columns, on_bad_row)
        for name, array in _group(premises, verdicts, rows.name).items():
            np.save(folder / f"{name}.npy", array)
        return {"bad": len(bad), "first": bad[:1]}

    facts = kept(folder, build, what=f"grouping of {rows.name}")
    if facts["bad"]:
        told = f"{facts['bad']} rows that cannot be read are left out"
        print(f"{rows.name}: {told}, first {facts['first'][0]}", file=sys.stderr)
    return Grouped(rows, columns, folder, f"{rows.fingerprint}-{how}")


def _columns(rows: Rows) -> tuple[str, ...]:
    row = rows.row(0) if len(rows) else {}
    columns = layout_names.columns("nli", tuple(row))
    if columns is None:
        known = " or ".join(", ".join(trio) for trio in layout_names.NLI)
        found = ", ".join(row) or "none"
        raise InputError(f"the columns {known}", found, where=rows.name)
    return columns


def _scan(
    rows: Rows, columns: tuple[str, ...], on_bad_row: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Hash of the premise and verdict of each row, and what is wrong with bad ones."""
    premises = np.zeros(len(rows), np.uint64)
    verdicts = np.full(len(rows), NEITHER, np.int8)
    bad: list[str] = []
    with bar(f"group {rows.name}", len(rows), "rows") as advance:
        for number, row in enumerate(rows_between(rows, 0, len(rows))):
            try:
                premise, verdicts[number] = _judged(rows, number, row, columns)
                premises[number] = int.from_bytes(content_hash(premise), "little")
            except InputError as error:
                if on_bad_row == "stop":
                    raise
                bad.append(str(error))
            if number % 1000 == 999:
                advance(1000)
    return premises, verdicts, bad


def _judged(
    rows: Rows,
    number: int,
    row: Mapping[str, object] | InputError,
    columns: tuple[str, ...],
) -> tuple[str, int]:
    premise, hypothesis, label = columns
    if isinstance(row, InputError):
        row = rows.row(number)  # raises the error that says where
    try:
        verdict = _verdict(fields.required(row, label), label)
        if verdict == NEITHER:  # never read
            return "", NEITHER
        fields.text(row, hypothesis)
        return fields.text(row, premise), verdict
    except InputError as error:
        raise error.at(rows.where(number)) from None


def _verdict(value: object, where: str) -> int:
    if value is None:
        return NEITHER
    key = value.lower() if isinstance(value, str) else value
    if isinstance(key, str | int) and not isinstance(key, bool) and key in _VERDICTS:
        return _VERDICTS[key]
    expected = "0, 1, 2, entailment, neutral, contradiction or -1"
    found = repr(value) if isinstance(value, str | int) else fields.kind_of(value)
    raise InputError(expected, found, where=where)


def _group(
    premises: np.ndarray, verdicts: np.ndarray, name: str
) -> dict[str, np.ndarray]:
    """Rows of each premise, entailed ones first; premises as they come first."""
    used = np.flatnonzero(verdicts != NEITHER)
    verdicts = verdicts[used]
    _, first, group = np.unique(premises[used], return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))
    group = rank[group]
    sizes = np.bincount(group, minlength=len(first))
    positives = np.bincount(group[verdicts == ENTAILED], minlength=len(first))
    if not positives.any():
        raise InputError("an entailed hypothesis", "none", where=name)
    order = np.lexsort((used, verdicts, group))
    order = order[positives[group[order]] > 0]
    sizes = sizes[positives > 0]
    return {
        "members": used[order],
        "starts": np.concatenate([[0], np.cumsum(sizes)]),
        "positives": positives[positives > 0],
    }
