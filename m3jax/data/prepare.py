"""Any source, converted to shards of token ids that every host can read at any row."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from m3jax.core.errors import InputError
from m3jax.core.files import in_bytes
from m3jax.core.progress import Show, bar
from m3jax.data import cache, tokenised
from m3jax.data.processes import how_many, in_order
from m3jax.data.records import Pairs, Record, content_hash
from m3jax.data.scan import OnBadRow, Scan, scan
from m3jax.data.shard_folder import ShardFolder
from m3jax.data.sources.array_records import FORMAT, Prepared, open_prepared
from m3jax.data.sources.base import Source, records
from m3jax.data.tokenize import Tokenizer, encode_counted

_ROWS = 100_000  # of a shard, where no number of shards is asked for
_BLOCK = 1000  # rows of a task
_SAMPLE = 200  # rows that tell how long the others are
_PLACE = 60  # bytes that a file needs for each record beside its content


@dataclass(frozen=True)
class Texts:
    """How texts become tokens.

    Attributes:
        query_prompt: goes before every query; a row's own prompt takes its place.
        passage_prompt: goes before every passage.
        query_length: tokens kept of a query.
        passage_length: tokens kept of a passage.
    """

    query_prompt: str = ""
    passage_prompt: str = ""
    query_length: int = 512
    passage_length: int = 512


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    root: Path,
    texts: Texts | None = None,
    shards: int | None = None,
    processes: int | None = None,
    on_bad_row: OnBadRow = "stop",
    fresh: bool = False,
    show: Show = True,
    say: Callable[[str], None] = lambda message: None,
) -> Prepared:
    """Write the tokens of a source as ArrayRecord shards.

    The first text of a record is read as a query, the others as passages: query and
    passages of Pairs, first and second of Scored, the text of Text and of Labelled. The
    label of a Labelled stays a text. The same call goes on where one was stopped.

    Args:
        source: records of any kind.
        tokenizer: makes the tokens.
        folder: a new one, an empty one, or one of the same call before.
        root: the cache, for what is learned when the source is read.
        texts: prompts and lengths.
        shards: files to write [one for every 100,000 rows].
        processes: that tokenise; 0 is this one [one a core, or this one for few rows].
        on_bad_row: a row that cannot be read ends the call, or is left out.
        fresh: remove what former calls wrote into the folder.
        show: a bar, nothing, or a function that is told of finished rows.
        say: is told in a sentence of each shard.

    Returns:
        The folder, opened.

    Raises:
        InputError: a row is bad, the source has changed since the folder was begun, the
            folder holds other files or other settings, or the disk has too little room.
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> from m3jax.data.sources.listed import listed
        >>> from m3jax.testing import TEXTS, tiny_tokenizer
        >>> source = listed("mine", [Pairs("what is bread?", TEXTS)])
        >>> root = Path(tempfile.mkdtemp())
        >>> found = prepare(source, tiny_tokenizer(), root / "out", root=root)
        >>> len(found), found.kind, found[0].pos[0].ids.dtype
        (1, 'pairs', dtype('int32'))
    """
    texts = texts or Texts()
    _check(source, tokenizer, texts, shards, processes)
    found = scan(source, root=root, on_bad_row=on_bad_row, processes=processes)
    for line in found.told(source.name):
        say(line)
    if shards is not None and shards > found.rows:
        expected = f"at most {found.rows:,}, one a row"
        raise InputError(expected, f"{shards:,}", where="shards")
    count = shards or -(-found.rows // _ROWS)
    settings = {
        **asdict(texts),
        "tokenizer": tokenised.tokenizer_digest(tokenizer),
        "shards": count,
        "on_bad_row": on_bad_row,
    }
    about = {"name": source.name, "fingerprint": source.fingerprint}
    asked = {"format": FORMAT, "source": about, "settings": settings}
    # One process at a time: another would take unfinished shards for left ones.
    with cache.claimed(cache.entry(root / "prepare", Path(folder).resolve())):
        out = ShardFolder(Path(folder), count)
        if out.claim(asked, fresh=fresh):
            say(f"{folder}: all shards were there")
            return open_prepared(folder)
        work = _Work(source, found, tokenizer, texts)
        rows = {at: _rows(at, count, found.rows) for at in range(count)}
        missing = {at: span for at, span in rows.items() if not out.has(at)}
        for at in rows.keys() - missing.keys():
            say(f"{out.shard(at).name}: was there")
        try:
            _require_room(out, work, missing.values())
        except InputError:
            out.give_back()
            raise
        _write(out, work, missing, how_many(found.rows, processes), show, say)
        source.check()
        end = tokenised.end_tokens(tokenizer)
        out.finish({**asked, **_summary(out, found), "end_tokens": end})
    return open_prepared(folder)


@dataclass(frozen=True)
class _Work:
    """What is read, and how it is tokenised; goes to every process."""

    source: Source
    found: Scan
    tokenizer: Tokenizer
    texts: Texts

    def block(self, rows: tuple[int, int]) -> "_Block":
        """Tokenise some of the good rows."""
        found = [_good(one) for one in records(self.good, *rows)]
        parts = [tokenised.texts_of(record) for record in found]
        queries = [
            _prompt(record, self.texts) + own[0]
            for record, own in zip(found, parts, strict=True)
        ]
        prompt = self.texts.passage_prompt
        passages = [prompt + text for own in parts for text in own[1:]]
        length = self.texts.query_length, self.texts.passage_length
        first, cut = encode_counted(self.tokenizer, queries, max_length=length[0])
        others, also = encode_counted(self.tokenizer, passages, max_length=length[1])
        written, at = [], 0
        for record, own, query in zip(found, parts, first, strict=True):
            ids = [query, *others[at : at + len(own) - 1]]
            at += len(own) - 1
            hashes = map(content_hash, own)
            new = map(tokenised.TokenText, ids, hashes)
            written.append(tokenised.encode(tokenised.with_texts(record, [*new])))
        tokens = {"queries": sum(map(len, first)), "passages": sum(map(len, others))}
        return _Block(written, {"queries": cut, "passages": also}, tokens)

    @property
    def good(self) -> Source:
        """Without the rows that are left out."""
        return self.found.good(self.source)


@dataclass(frozen=True)
class _Block:
    """Rows as they are written, and what was counted."""

    records: list[bytes]
    cut: dict[str, int]
    tokens: dict[str, int]


def _block_of(work: _Work) -> Callable[[tuple[int, int]], _Block]:
    return work.block


def _write(
    out: ShardFolder,
    work: _Work,
    missing: Mapping[int, tuple[int, int]],
    processes: int,
    show: Show,
    say: Callable[[str], None],
) -> None:
    total = sum(stop - start for start, stop in missing.values())
    tasks = (block for span in missing.values() for block in _blocks(*span))
    done = in_order(_block_of, (work,), tasks, processes=processes)
    with (
        bar("prepare", total, "rows", show=show) as advance,
        contextlib.closing(done),  # type: ignore[type-var]
    ):
        for at, span in missing.items():
            cut, tokens = Counter[str](), Counter[str]()
            with out.new_shard(at) as (write, counts):
                for _ in _blocks(*span):
                    block = next(done)
                    for record in block.records:
                        write(record)
                    cut.update(block.cut)
                    tokens.update(block.tokens)
                    advance(len(block.records))
                work.source.check()  # nothing is kept of one that has changed
                count = span[1] - span[0]
                counts |= {"rows": count, "cut": dict(cut), "tokens": dict(tokens)}
            longer = f"{cut['queries']:,} queries and {cut['passages']:,} passages"
            say(f"{out.shard(at).name}: {count:,} rows, {longer} were too long and cut")


def _summary(out: ShardFolder, found: Scan) -> dict[str, Any]:
    counts = [out.counts(at) for at in range(out.shards)]
    cut, tokens = Counter[str](), Counter[str]()
    for one in counts:
        cut.update(one["cut"])
        tokens.update(one["tokens"])
    names = (out.shard(at).name for at in range(out.shards))
    return {
        "kind": found.kind,
        "rows": found.rows,
        "bad_rows": {"count": found.bad, "reasons": list(found.reasons)},
        "languages": dict(found.languages),
        "cut": dict(cut),
        "tokens": dict(tokens),
        "shards": [
            {"file": name, "rows": one["rows"], "bytes": one["bytes"]}
            for name, one in zip(names, counts, strict=True)
        ],
    }


def _require_room(
    out: ShardFolder, work: _Work, missing: Collection[tuple[int, int]]
) -> None:
    """Refuse to begin what the disk has no room for, by the size of some rows."""
    if not missing:
        return
    rows = sum(stop - start for start, stop in missing)
    step = max(work.found.rows // _SAMPLE, 1)
    sample = range(0, work.found.rows, step)
    sizes = [len(work.block((at, at + 1)).records[0]) + _PLACE for at in sample]
    need = rows * sum(sizes) // len(sizes)
    free = shutil.disk_usage(out.path).free
    if need > free:
        raise InputError(
            f"about {in_bytes(need)} of free space",
            in_bytes(free),
            where=str(out.path),
            do="Make room, or name a folder on another disk.",
        )


def _check(
    source: Source,
    tokenizer: Tokenizer,
    texts: Texts,
    shards: int | None,
    processes: int | None,
) -> None:
    if isinstance(source, Prepared):
        found = "a folder that was prepared before"
        raise InputError("texts", found, where=source.name)
    least = tokenizer.backend.num_special_tokens_to_add(False) + 1
    for name in ("query_length", "passage_length"):
        length = getattr(texts, name)
        if length < least:
            expected = f"at least {least} tokens, the special ones and one more"
            raise InputError(expected, f"{length}", where=name)
    if shards is not None and shards < 1:
        raise InputError("a positive number", f"{shards}", where="shards")
    if processes is not None and processes < 0:
        raise InputError("a number, 0 for none", f"{processes}", where="processes")


def _rows(at: int, shards: int, rows: int) -> tuple[int, int]:
    return at * rows // shards, (at + 1) * rows // shards


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for at in range(start, stop, _BLOCK):
        yield at, min(at + _BLOCK, stop)


def _good(record: Record | InputError) -> Record:
    if isinstance(record, InputError):  # it was good when the source was scanned
        raise record
    return record


def _prompt(record: Record, texts: Texts) -> str:
    own = record.prompt if isinstance(record, Pairs) else None
    return texts.query_prompt if own is None else own
