"""What can be measured on: folders and files by what is in them, benchmarks by name."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.corpora import JSON_LINES
from m3jax.data.fields import json_object
from m3jax.data.lines import lines, near_name
from m3jax.evaluation.benchmarks.open import names, open_benchmark

BENCHMARK = "benchmark"
SPLIT = "test"  # of what is no benchmark, if none is named
_LAYOUTS = (
    "a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv; with train.jsonl "
    "and test.jsonl of text and label; with test.jsonl of sentence1, sentence2, score; "
    "with a .jsonl of two texts a row for each language; a folder of such folders; "
    "or a benchmark, e.g. beir/scifact"
)


@dataclass(frozen=True)
class TestSet:
    """Something to measure on.

    Attributes:
        name: what tables call it.
        kind: "retrieval", "labelled", "sts", "bitext" or "benchmark".
        parts: language or subset -> folder or file; "" where there is only one.
    """

    name: str
    kind: str
    parts: dict[str, Path]

    # So that pytest does not take it for a test.
    __test__ = False


def find(name: str, split: str | None = None) -> TestSet:
    """Find out what a folder, a file or a name is.

    Args:
        name: a path, or a benchmark of `benchmarks.open.names`.
        split: of the judgements and rows that are measured on; None = test, and of a
            benchmark the one that is reported.

    Returns:
        The set; nothing but first lines was read.

    Raises:
        InputError: there is nothing of that name, nothing to measure on in it, or no
            such split of a benchmark.

    Example:
        >>> find("mldr/de").kind
        'benchmark'
    """
    path = Path(name)
    if not path.exists():
        if name in names():
            open_benchmark(name, split=split)  # a split is refused before all else
            return TestSet(name, BENCHMARK, {"": path})
        near = difflib.get_close_matches(name, names(), n=1)
        do = f"Did you mean {near[0]}?" if near else near_name(path)
        raise InputError(_LAYOUTS, "nothing of that name", where=name, do=do)
    title, split = _title(path), split or SPLIT
    kind = _kind(path, split)
    if kind is not None:
        return TestSet(title, kind, {"": path})
    if path.is_dir():
        kinds = {
            one: _kind(one, split) for one in sorted(path.iterdir()) if one.is_dir()
        }
        found = {one: kind for one, kind in kinds.items() if kind is not None}
        if len(set(found.values())) == 1:
            parts = {one.name: one for one in found}
            return TestSet(title, next(iter(found.values())), parts)
        if found:
            said = ", ".join(f"{one.name}: {kind}" for one, kind in found.items())
            raise InputError("folders of one kind", said, where=name)
    found = "another file"
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir())
        found = f"a folder of {', '.join(inside[:5]) or 'nothing'}"
    raise InputError(_LAYOUTS, found, where=name)


def find_all(data: Sequence[str], split: str | None = None) -> list[TestSet]:
    """Find out what several are; see `find`.

    Raises:
        InputError: as `find`, there is none, or two would have one name.

    Example:
        >>> [one.name for one in find_all(["mldr/de", "beir/scifact"])]
        ['mldr/de', 'beir/scifact']
    """
    if not data:
        raise InputError(_LAYOUTS, "nothing", where="--data")
    found = [find(name, split) for name in data]
    titles = [one.name for one in found]
    for title in titles:
        if titles.count(title) > 1:
            expected = "sets of different names"
            raise InputError(expected, f"{title} twice", where="--data")
    return found


def part_file(folder: Path, stem: str) -> Path | None:
    """The file of a part, plain or packed; the path itself if it is a file."""
    if folder.is_file():
        return folder
    paths = [folder / f"{stem}{ending}" for ending in JSON_LINES]
    return next((path for path in paths if path.exists()), None)


def rows_file(path: Path, split: str) -> Path:
    """The file of a split; see `part_file`.

    Raises:
        InputError: the folder has none.
    """
    file = part_file(path, split)
    if file is None:
        raise InputError(f"{split}.jsonl", "none", where=str(path))
    return file


def _kind(path: Path, split: str) -> str | None:
    """What one folder or file is."""
    if path.is_dir() and part_file(path, "corpus") and (path / "qrels").is_dir():
        return "retrieval"
    file = part_file(path, split)
    if file is not None:
        keys = _keys(file)
        if {"sentence1", "sentence2", "score"} <= keys:
            return "sts"
        if {"text", "label"} <= keys:
            return "labelled" if path.is_dir() and part_file(path, "train") else None
        return "bitext" if path.is_file() and len(keys) == 2 else None
    if path.is_dir():
        files = [one for one in path.iterdir() if one.name.endswith(JSON_LINES)]
        # Of rows with two texts alone; those of training sets have other keys.
        if files and all(_two_texts(one) for one in files):
            return "bitext"
    return None


def _two_texts(path: Path) -> bool:
    keys = _keys(path)
    return len(keys) == 2 and not keys & {"_id", "label", "pos", "neg", "score"}


def _keys(path: Path) -> set[str]:
    """Of the first row."""
    if not path.name.endswith(JSON_LINES):
        return set()
    for where, line in lines(path):
        return set(json_object(line, where=where))
    return set()


def _title(path: Path) -> str:
    name = path.resolve().name
    for ending in JSON_LINES:
        name = name.removesuffix(ending)
    return name
