"""The first passes over a large file, and what every later start costs.

    python -m benchmarks.data_scan --tokenizer FOLDER [--rows 1000000] [--folder DIR]

Rows with a query, a positive and a negative are made of Python's own standard library,
1 KB each. Speeds are bytes of the file, or of the texts, over the time of a whole call,
processes started and results written. The bare tokenizer reads the texts of the first
rows, in lists of 1,000, with all cores. What a later start costs is measured in a new
process. FOLDER has a tokenizer.json; 1,000,000 rows need 1.1 GB of disk and some
minutes, most of them for the lengths.
"""

import argparse
import json
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.table import Row, show
from m3jax.data import builtin, layouts, tokenize
from m3jax.data.lengths import Lengths, measure
from m3jax.data.records import Pairs
from m3jax.data.scan import Scan, scan
from m3jax.data.sources.base import Read, records
from m3jax.data.sources.lines import LineRows, open_lines

_BARE_ROWS = 30_000
_READS = 20_000


def generate(path: Path, rows: int) -> None:
    """Write a JSONL file of about 1 KB a row, the same every time."""
    texts = (f"{row.query} {row.pos[0]}" for row in builtin.pairs("train"))
    words = " ".join(texts).split()
    rng = random.Random(0)

    def text(count: int) -> str:
        start = rng.randrange(len(words) - count)
        return " ".join(words[start : start + count])

    with open(path, "w", encoding="utf-8") as file:
        for number in range(rows):
            row = {"query": f"{number} {text(9)}", "pos": [f"{number} {text(48)}"]}
            file.write(json.dumps({**row, "neg": [text(48)]}) + "\n")


def rows(tokenizer: Path, count: int, folder: Path) -> Iterator[Row]:
    """Speeds of each pass, then time and memory of a later start."""
    path, root = folder / "rows.jsonl", folder / "cache"
    generate(path, count)
    size = path.stat().st_size / 1e6
    offsets, _ = _timed(lambda: open_lines(path, root=root))
    source = _open(path, root)
    hashes, found = _timed(lambda: scan(source, root=root))
    yield Row(f"byte offsets, {size:,.0f} MB", f"{size / offsets:,.0f} MB/s")
    yield Row(
        "byte offsets and content hashes",
        f"{size / (offsets + hashes):.0f} MB/s",
        target=">= 60 MB/s",
    )
    loaded = tokenize.load(tokenizer)
    texts = _texts(source, min(count, _BARE_ROWS))
    share = len(texts) / (3 * count)
    volume = sum(len(text.encode()) for text in texts) / 1e6
    before = volume / _bare(loaded, texts)
    seconds, _ = _timed(lambda: _lengths(source, found, loaded, root))
    after = volume / _bare(loaded, texts)
    ours, bare = volume / share / seconds, (before + after) / 2
    yield Row(
        "token lengths, beside the bare tokenizer",
        f"{ours:.2f} MB/s",
        f"{bare:.2f} MB/s",
        f"{ours / bare:.2f}",
        ">= 0.9",
    )
    yield _memory("memory of a process that scans or measures", _children())
    yield from _later(tokenizer, path, root)


def _later(tokenizer: Path, path: Path, root: Path) -> Iterator[Row]:
    code = (
        "import sys; from benchmarks import data_scan; data_scan.later(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, str(tokenizer), str(path), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    name = "a later start: tokenizer, offsets, scan, lengths"
    yield Row(name, f"{told['start']:.2f} s", target="< 2 s")
    yield Row("a random row", f"{told['row']:.0f} us", target="< 100 us")
    yield Row("a random record", f"{told['record']:.0f} us", target="< 100 us")
    yield _memory(f"memory after {_READS:,} random records", told["memory"])


def later(tokenizer: str, path: str, root: str) -> None:
    """Open what was measured before, read at random, and print what it took."""

    def start() -> tuple[Read, Lengths]:
        source = _open(Path(path), Path(root))
        found = scan(source, root=Path(root))
        loaded = tokenize.load(tokenizer)
        return source, _lengths(source, found, loaded, Path(root))

    seconds, (source, lengths) = _timed(start)
    rng = random.Random(0)
    numbers = [rng.randrange(len(source)) for _ in range(_READS)]
    each_row, _ = _timed(lambda: [_rows(source).row(i) and None for i in numbers])
    each_record, _ = _timed(lambda: [source[i] and None for i in numbers])
    assert int(lengths.query.max()) > 0
    facts = {"start": seconds, "memory": _peak(resource.RUSAGE_SELF)}
    each = {"row": each_row / _READS * 1e6, "record": each_record / _READS * 1e6}
    print(json.dumps(facts | each))


def _open(path: Path, root: Path) -> Read:
    opened = open_lines(path, root=root)
    return Read(opened, layouts.find("auto", (), opened.row(0)))


def _rows(source: Read) -> LineRows:
    assert isinstance(source.rows, LineRows)
    return source.rows


def _lengths(
    source: Read, found: Scan, tokenizer: tokenize.Tokenizer, root: Path
) -> Lengths:
    return measure(
        source,
        found,
        tokenizer,
        query_prompts=[""],
        passage_prompt="",
        negatives=True,
        root=root,
    )


def _texts(source: Read, count: int) -> list[str]:
    texts: list[str] = []
    for record in records(source, 0, count):
        assert isinstance(record, Pairs)
        texts += (record.query, *record.pos, *record.neg)
    return texts


def _bare(tokenizer: tokenize.Tokenizer, texts: list[str]) -> float:
    tokenizer.backend.no_truncation()
    start = time.perf_counter()
    for at in range(0, len(texts), 1000):
        tokenizer.backend.encode_batch_fast(texts[at : at + 1000])
    return time.perf_counter() - start


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _children() -> float:
    return _peak(resource.RUSAGE_CHILDREN)


def _peak(who: int) -> float:
    """Most memory that was resident, in MB; Linux counts it in KiB."""
    return resource.getrusage(who).ru_maxrss * 1024 / 1e6


def _memory(name: str, megabytes: float) -> Row:
    return Row(name, f"{megabytes:.0f} MB", target="< 600 MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    flags = parser.parse_args()
    print(f"Python {platform.python_version()}, {flags.rows:,} rows.\n")
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        show(rows(flags.tokenizer, flags.rows, Path(folder)))


if __name__ == "__main__":
    main()
