"""How many tokens the texts of each row have, measured once and kept."""

import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core.progress import bar
from m3jax.data import cache
from m3jax.data.columns import column
from m3jax.data.processes import how_many, in_order
from m3jax.data.scan import Scan
from m3jax.data.sources.base import Source
from m3jax.data.token_counts import counter
from m3jax.data.tokenize import Tokenizer

BLOCK = 1000  # rows of a task: what a killed process loses of each of its workers
_FORMAT = 1


@dataclass(frozen=True)
class Lengths:
    """Tokens of each good row, special ones counted and nothing cut.

    Attributes:
        folder: where the columns are.
        rows: good rows of the data set.
    """

    folder: str
    rows: int

    @property
    def query(self) -> np.ndarray:
        """Tokens of each query under the longest of its prompts, int32."""
        return column(f"{self.folder}/query.npy")

    @property
    def passage(self) -> np.ndarray:
        """Tokens of the longest passage of each row, int32."""
        return column(f"{self.folder}/passage.npy")


def measure(
    source: Source,
    scan: Scan,
    tokenizer: Tokenizer,
    *,
    query_prompts: Sequence[str],
    passage_prompt: str | None,
    negatives: bool,
    root: Path,
    processes: int | None = None,
) -> Lengths:
    """Count the tokens of every good row, in parallel, and keep them in the cache.

    What was measured before the process was killed is not measured again.

    Args:
        source: the rows, good and bad.
        scan: of the source.
        tokenizer: of the model.
        query_prompts: what may stand before a query; the longest counts. A row's own
            prompt takes their place.
        passage_prompt: stands before each passage; None = the prompts of the query.
        negatives: whether negatives count as passages.
        root: the cache.
        processes: how many count; by default one a core, or this one if rows are few.

    Returns:
        Of Pairs the query and the longest passage, of Scored the first and the second
        text, of Text and Labelled the text as both.

    Raises:
        InputError: the source has changed since it was scanned.

    Example:
        >>> import tempfile
        >>> from tokenizers import Tokenizer as Backend
        >>> from tokenizers.models import WordLevel
        >>> from tokenizers.pre_tokenizers import Whitespace
        >>> from m3jax.data.records import Pairs
        >>> from m3jax.data.scan import scan
        >>> from m3jax.data.sources.listed import listed
        >>> backend = Backend(WordLevel({"?": 0}, unk_token="?"))
        >>> backend.pre_tokenizer = Whitespace()
        >>> source = listed("mine", [Pairs("what is it", ("salt", "sea salt"))])
        >>> root = Path(tempfile.mkdtemp())
        >>> found = measure(
        ...     source, scan(source, root=root), Tokenizer(backend, 0, {}), root=root,
        ...     query_prompts=["", "ask "], passage_prompt="", negatives=True)
        >>> found.query.tolist(), found.passage.tolist()
        ([4], [2])
    """
    backend = tokenizer.backend.to_str()
    prompts = tuple(query_prompts) or ("",), passage_prompt
    digest = blake2b(backend.encode(), digest_size=16).hexdigest()
    version = Path(scan.folder).name, digest, prompts, negatives, BLOCK, _FORMAT
    target = cache.entry(
        root / "lengths", source.name, source.fingerprint, scan.rows, *version
    )
    found = Lengths(str(target), scan.rows)
    if all(done for *_, done in _blocks(target, scan.rows)):
        return found
    with cache.claimed(target):
        target.mkdir(exist_ok=True)
        arguments = scan.good(source), backend, *prompts, negatives
        _measure_rest(target, arguments, source, scan.rows, processes)
    return found


def _measure_rest(
    target: Path,
    arguments: tuple[Any, ...],
    source: Source,
    rows: int,
    processes: int | None,
) -> None:
    blocks = list(_blocks(target, rows, what=f"lengths of {source.name}"))
    rest = [(start, stop) for start, stop, done in blocks if not done]
    query = _writable(target / "query.npy", rows, np.int32)
    passage = _writable(target / "passage.npy", rows, np.int32)
    marks = _writable(target / "marks.npy", len(blocks), np.uint64)
    before = rows - sum(stop - start for start, stop in rest)
    with bar(f"measure {source.name}", rows, "rows") as advance:
        advance(before)
        count = how_many(rows - before, processes)
        found = in_order(counter, arguments, rest, processes=count)
        for (start, stop), (queries, passages) in zip(rest, found, strict=True):
            source.check()
            query[start:stop], passage[start:stop] = queries, passages
            # Written last: a block without its mark is measured again.
            marks[start // BLOCK] = _mark(queries, passages)
            advance(stop - start)
    for array in (query, passage, marks):
        array.flush()


def _blocks(
    target: Path, rows: int, *, what: str = ""
) -> Iterator[tuple[int, int, bool]]:
    """Blocks of rows, and whether each is measured; damage is told if `what` is."""
    query = _readable(target / "query.npy", rows, np.int32)
    passage = _readable(target / "passage.npy", rows, np.int32)
    marks = _readable(target / "marks.npy", -(-rows // BLOCK), np.uint64)
    damaged = False
    for number, start in enumerate(range(0, rows, BLOCK)):
        stop = min(start + BLOCK, rows)
        mark = 0 if marks is None else int(marks[number])
        done = (
            query is not None
            and passage is not None
            and mark == _mark(query[start:stop], passage[start:stop])
        )
        damaged |= mark != 0 and not done
        yield start, stop, done
    if damaged and what:
        print(f"{what} are damaged: measured again", file=sys.stderr)


def _mark(query: np.ndarray, passage: np.ndarray) -> int:
    """Of a measured block: a checksum that is never 0."""
    return zlib.crc32(passage.tobytes(), zlib.crc32(query.tobytes())) | 1 << 32


def _readable(path: Path, count: int, dtype: Any, mode: Any = "r") -> Any:
    """The array of a file, None where there is no such array."""
    try:
        found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.shape == (count,) and found.dtype == dtype else None


def _writable(path: Path, count: int, dtype: Any) -> np.memmap:
    if _readable(path, count, dtype) is None:
        path.unlink(missing_ok=True)  # whoever reads the old file keeps it
        np.save(path, np.zeros(count, dtype))
    return _readable(path, count, dtype, "r+")
