"""Where rows come from: JSON-lines files, BEIR folders, a held-out share."""

import codecs
import difflib
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.records import (
    Pairs,
    Retrieval,
    content_hash,
    json_object,
    parse,
    string,
    utf8,
)

QRELS_HEADER = ["query-id", "corpus-id", "score"]
STDIN = "-"


def lines(path: str | Path) -> Iterator[tuple[str, bytes]]:
    r"""Read a file line by line, also one that gzip has packed, whatever its name.

    Args:
        path: the file; "-" is the standard input, which goes by the name of stdin.

    Yields:
        Where the line stands (`name:number`, the name as given) and the line, without
        its line end; blank lines are passed over.

    Raises:
        InputError: there is no such file, it may not be read, or its gzip is damaged.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = file.write_text("1\n\n2\n")
        >>> [(Path(where).name, line) for where, line in lines(file)]
        [('a.jsonl:1', b'1'), ('a.jsonl:3', b'2')]
    """
    number, name = 0, _name(path)
    with _open(path) as file:
        try:
            for number, line in enumerate(_unpacked(file), start=1):
                if number == 1:  # some editors begin a UTF-8 file with this mark
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield f"{name}:{number}", line.rstrip(b"\r\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                "a whole gzip file",
                f"one that is damaged after line {number} ({error})",
                where=name,
                do="Copy or download it again.",
            ) from None


def passages(path: str | Path) -> Iterator[tuple[str, str]]:
    r"""Read a corpus of any size, passage by passage.

    No text is kept; of each `_id` 16 bytes are, to notice one that comes twice.

    Args:
        path: a BEIR folder; a .jsonl or .jsonl.gz file with `_id`, `text` and perhaps
            `title`, which goes before the text; any other file: a passage a line, and
            the number of the line is its id. "-" is the standard input, of either kind:
            JSON lines if the first begins with {.

    Yields:
        Id and text.

    Raises:
        InputError: the file cannot be read, holds no passage, or has a bad line.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.txt")
        >>> _ = file.write_text("salt\n\nsea\n")
        >>> list(passages(file))
        [('1', 'salt'), ('3', 'sea')]
    """
    path = corpus_file(path)
    json_lines = path.name.endswith((".jsonl", ".jsonl.gz"))
    seen: set[bytes] = set()
    where = ""
    for where, line in lines(path):
        if str(path) == STDIN and not seen:
            json_lines = line.lstrip().startswith(b"{")
        if json_lines:
            row = json_object(line, where=where)
            name, text = string(row, "_id", where=where), _passage(row, where)
        else:
            name, text = where.rpartition(":")[2], utf8(line, where=where)
        known = blake2b(name.encode(), digest_size=16).digest()
        if known in seen:
            raise InputError("a new _id", f"{name!r} again", where=f"{where}: _id")
        seen.add(known)
        yield name, text
    if not where:
        raise InputError("a passage a line", "an empty file", where=_name(path))


def count_lines(path: str | Path) -> int | None:
    """Count the passages of a corpus without reading them; None for a pipe.

    Raises:
        InputError: the file cannot be read.

    Example:
        >>> count_lines("-") is None
        True
    """
    path = corpus_file(path)
    regular = str(path) != STDIN and (path.is_file() or not path.exists())
    return sum(1 for _ in lines(path)) if regular else None


def corpus_file(path: str | Path) -> Path:
    """The file itself, or in a BEIR folder its corpus.

    Raises:
        InputError: the folder holds no corpus.

    Example:
        >>> corpus_file("a.txt").name
        'a.txt'
    """
    path = Path(path)
    return _json_lines(path, "corpus") if path.is_dir() else path


def read_pairs(path: str | Path) -> list[Pairs]:
    """Read a JSON-lines file of queries with their passages.

    Args:
        path: the file, plain or gzip; `records.parse` says what a line holds.

    Returns:
        One row a line, in the file's order.

    Raises:
        InputError: the file cannot be read, has no rows, or has a bad one.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "a.jsonl")
        >>> _ = file.write_text('{"query": "2 + 2?", "pos": ["4"]}')
        >>> read_pairs(file)[0].pos
        ('4',)
    """
    rows = [parse(line, where=where) for where, line in lines(path)]
    if not rows:
        raise InputError("a row a line", "an empty file", where=str(path))
    return rows


def read_beir(folder: str | Path, split: str = "test") -> Retrieval:
    r"""Read a retrieval task from a folder in BEIR's layout.

    The folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`,
    `text`), each plain or as `.jsonl.gz`, and `qrels/{split}.tsv`. As in BEIR, a
    passage is its title, a space and its text, and a query stays only if some passage
    is judged above 0 for it.

    Args:
        folder: the folder.
        split: which file of judgements.

    Returns:
        The task.

    Raises:
        InputError: a file is missing, a line is bad, or nothing is left to score.

    Example:
        >>> import tempfile
        >>> task = Path(tempfile.mkdtemp())
        >>> (task / "qrels").mkdir()
        >>> passage = '{"_id": "p", "title": "Sum", "text": "It is 4."}'
        >>> _ = (task / "corpus.jsonl").write_text(passage)
        >>> query = '{"_id": "q", "text": "2 + 2?"}'
        >>> _ = (task / "queries.jsonl").write_text(query)
        >>> qrels = "query-id\tcorpus-id\tscore\nq\tp\t1\n"
        >>> _ = (task / "qrels" / "test.tsv").write_text(qrels)
        >>> read_beir(task).corpus
        {'p': 'Sum It is 4.'}
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing of that name"
        raise InputError(
            "a folder in BEIR's layout", found, where=str(folder), do=_hint(folder)
        )
    corpus_file = _json_lines(folder, "corpus")
    queries_file = _json_lines(folder, "queries")
    qrels_file = folder / "qrels" / f"{split}.tsv"
    if not qrels_file.exists():
        raise _no_split(qrels_file)
    corpus = _texts(corpus_file, _passage)
    if not corpus:
        raise InputError("a passage a line", "an empty file", where=str(corpus_file))
    queries = _texts(queries_file, _query)
    judged = _qrels(qrels_file, queries, corpus)
    qrels = {q: grades for q, grades in judged.items() if max(grades.values()) > 0}
    if not qrels:
        found = "no judgement above 0"
        raise InputError("a query with an answer", found, where=str(qrels_file))
    return Retrieval({query: queries[query] for query in qrels}, corpus, qrels)


def hold_out(
    rows: Sequence[Pairs], share: float = 0.02, at_most: int = 1000
) -> tuple[list[Pairs], Retrieval]:
    """Split off queries to select checkpoints with.

    A query is held out when the hash of its text falls below `share` of the range. So
    the choice depends on nothing but the text: not on the order of the rows, and a data
    set that grows keeps its held-out queries out of training. All rows of one query go
    together. A passage of a held-out query may still be read in training beside
    another query.

    Args:
        rows: the rows.
        share: how much of the queries to hold out, 0 to 1; of a handful it may be none.
        at_most: no more queries than this; those with the smallest hashes stay out.

    Returns:
        The rows left for training, in their order, and the held-out task: its corpus is
        every positive and negative of the held-out rows, its ids are content hashes in
        hex, and each positive has grade 1.

    Raises:
        InputError: `share` is no share.

    Example:
        >>> rows = [Pairs(f"query {i}", (f"answer {i}",)) for i in range(100)]
        >>> train, dev = hold_out(rows, share=0.1)
        >>> len(train), len(dev.queries)
        (88, 12)
    """
    if not 0 <= share <= 1:
        raise InputError("a share from 0 to 1", str(share), where="share")
    hashes = {content_hash(row.query): row.query for row in rows}
    low = sorted(h for h in hashes if int.from_bytes(h, "big") < share * 2**64)
    queries = {h.hex(): hashes[h] for h in low[:at_most]}
    chosen = set(queries.values())
    corpus: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {query: {} for query in queries}
    for row in (row for row in rows if row.query in chosen):
        corpus |= {content_hash(text).hex(): text for text in row.pos + row.neg}
        grades = {content_hash(text).hex(): 1 for text in row.pos}
        qrels[content_hash(row.query).hex()] |= grades
    train = [row for row in rows if row.query not in chosen]
    return train, Retrieval(queries, corpus, qrels)


def _name(path: str | Path) -> str:
    return "stdin" if str(path) == STDIN else str(path)


@contextmanager
def _open(path: str | Path) -> Iterator[io.BufferedReader]:
    if str(path) == STDIN:
        yield sys.stdin.buffer  # type: ignore[misc]
    else:
        with _open_file(path) as file:
            yield file


def _open_file(path: str | Path) -> io.BufferedReader:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        found, do = "nothing of that name", _hint(Path(path))
    except NotADirectoryError:
        found, do = "a file where its folder should be", ""
    except IsADirectoryError:
        found, do = "a folder", "Name the file in it."
    except PermissionError:
        found, do = "one that may not be read", "Check its permissions."
    raise InputError("a file", found, where=str(path), do=do)


def _unpacked(file: io.BufferedReader) -> Iterable[bytes]:
    magic = file.peek(2)[:2]  # a pipe cannot go back to its start
    return gzip.open(file) if magic == b"\x1f\x8b" else file


def _hint(path: Path) -> str:
    """The name nearest to a missing one, or the folder that is missing too."""
    if not path.parent.is_dir():
        return f"There is no folder {path.parent}."
    names = sorted(other.name for other in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {path.parent / near[0]}?" if near else ""


def _json_lines(folder: Path, stem: str) -> Path:
    names = [f"{stem}.jsonl", f"{stem}.jsonl.gz"]
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise InputError(" or ".join(names), "neither", where=str(folder))


def _no_split(path: Path) -> InputError:
    splits = sorted(file.stem for file in path.parent.glob("*.tsv"))
    do = f"Splits in this folder: {', '.join(splits)}." if splits else ""
    return InputError("a file of judgements", "none", where=str(path), do=do)


def _query(row: Mapping[str, object], where: str) -> str:
    return string(row, "text", where=where)


def _passage(row: Mapping[str, object], where: str) -> str:
    title = "" if row.get("title") is None else string(row, "title", where=where)
    return f"{title} {string(row, 'text', where=where)}".strip()


def _texts(
    path: Path, read: Callable[[Mapping[str, object], str], str]
) -> dict[str, str]:
    texts: dict[str, str] = {}
    for where, line in lines(path):
        row = json_object(line, where=where)
        name = string(row, "_id", where=where)
        if name in texts:
            raise InputError("a new _id", f"{name!r} again", where=f"{where}: _id")
        texts[name] = read(row, where)
    return texts


def _qrels(
    path: Path, queries: Mapping[str, str], corpus: Mapping[str, str]
) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    header = True
    for where, line in lines(path):
        columns = utf8(line, where=where).split("\t")
        if header:
            _require_header(columns, where)
            header = False
            continue
        query, passage, grade = _judgement(columns, where)
        _require_known(query, queries, "query", f"{where}: query-id")
        _require_known(passage, corpus, "passage", f"{where}: corpus-id")
        qrels.setdefault(query, {})[passage] = grade
    return qrels


def _require_header(columns: list[str], where: str) -> None:
    if columns != QRELS_HEADER:
        # Skipped unread, a first judgement would be lost without a word.
        raise InputError(
            f"the header {' '.join(QRELS_HEADER)!r}, with tabs",
            repr(" ".join(columns)),
            where=where,
        )


def _judgement(columns: list[str], where: str) -> tuple[str, str, int]:
    if len(columns) != 3:
        raise InputError("3 columns with tabs between", str(len(columns)), where=where)
    query, passage, grade = columns
    try:
        return query, passage, int(grade)
    except ValueError:
        where = f"{where}: score"
        raise InputError("an integer", repr(grade), where=where) from None


def _require_known(name: str, known: Mapping[str, str], what: str, where: str) -> None:
    if name not in known:
        raise InputError(f"the _id of a {what}", repr(name), where=where)
