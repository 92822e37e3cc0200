"""Rankings as TREC run files, which trec_eval, Pyserini and ranx read."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.fields import as_string, utf8
from m3jax.data.lines import lines
from m3jax.data.records import Retrieval
from m3jax.evaluation.retrieval import Results, ranked

_GAP = re.compile(r"[\s\0]")


def write_run(
    path: Path,
    results: Mapping[str, Mapping[str, float]]
    | Iterable[tuple[str, Mapping[str, float]]],
    *,
    tag: str,
) -> None:
    """Write a ranking, one line a passage: `query Q0 passage rank score tag`.

    Ranks begin at 1 and are those that trec_eval gives. Scores are written so that
    their float32 is read again. A query without passages leaves no line.

    Args:
        path: the file, whole or not there; its folder must exist.
        results: query id -> passage id -> score; or such pairs one by one, of which
            only one is held at a time.
        tag: name of the system.

    Raises:
        InputError: an id or the tag is empty or holds white space, a query comes
            twice, or a score is not finite.
        OSError: the folder cannot be written to, or the disk is full.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "dense.trec"
        >>> write_run(path, {"q": {"a": 0.1, "b": 0.7}}, tag="dense")
        >>> print(path.read_text(), end="")
        q Q0 b 1 0.7 dense
        q Q0 a 2 0.1 dense
    """
    _check_name(tag, "tag")
    # A mapping is an iterable as well, of its keys.
    pairs: Any = results.items() if isinstance(results, Mapping) else results
    seen: set[str] = set()
    with files.new_file(path) as file:
        for query, row in pairs:
            where = f"query {query!r}"
            _check_name(query, where)
            if query in seen:
                raise InputError("each query once", "it again", where=where)
            seen.add(query)
            for passage in row:
                _check_name(passage, f"{where}: passage {passage!r}")
            try:
                best = ranked(row)
            except InputError as error:
                raise error.at(where) from None
            # str of a float32 has as many digits as it takes to tell it from others.
            file.writelines(
                f"{query} Q0 {passage} {rank} {score!s} {tag}\n"
                for rank, (passage, score) in enumerate(best, start=1)
            )


def check_ids(data: Retrieval) -> None:
    """Refuse ids that no run file could hold, before anything is searched.

    Args:
        data: of it the judged queries and the passages.

    Raises:
        InputError: names the first id that is empty or holds white space.

    Example:
        >>> check_ids(Retrieval({"q": "2 + 2?"}, {"a 1": "4"}, {"q": {"a 1": 1}}))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: passage 'a 1': expected a name without white \
space, which parts the columns of a run file, found ' '
    """
    for what, names in (("query", data.qrels), ("passage", data.corpus)):
        for name in names:
            if not name or _GAP.search(name):
                _check_name(name, f"{what} {name!r}")


def read_run(path: str | Path) -> Results:
    r"""Read a TREC run file, plain or as `.gz` or `.zst`.

    Only ids and scores count, as in trec_eval: the order is that of the scores, and
    the rank is not read. Lines of one query need not stand together.

    Args:
        path: the file.

    Returns:
        Query id -> passage id -> score.

    Raises:
        InputError: there is no such file, or a line is bad or repeats a passage.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "other.trec"
        >>> _ = path.write_text("q Q0 a 0 12.5 bm25\n")
        >>> read_run(path)
        {'q': {'a': 12.5}}
    """
    found: Results = {}
    for where, query, passage, score in _rows(path):
        _add(found.setdefault(query, {}), passage, score, where)
    return found


def stream_run(path: str | Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Read a TREC run file that is larger than memory, query by query.

    Args:
        path: the file, in which the lines of one query stand together.

    Yields:
        Query id, and passage id -> score.

    Raises:
        InputError: as `read_run`, or the lines of a query stand apart.
    """
    seen: set[str] = set()
    now: str | None = None
    row: dict[str, float] = {}
    for where, query, passage, score in _rows(path):
        if query != now:
            if now is not None:
                yield now, row
            if query in seen:
                raise InputError(
                    "the lines of a query together",
                    f"query {query!r} again",
                    where=where,
                    do="Sort the file by its first column.",
                )
            seen.add(query)
            now, row = query, {}
        _add(row, passage, score, where)
    if now is not None:
        yield now, row


def _rows(path: str | Path) -> Iterator[tuple[str, str, str, float]]:
    for where, line in lines(path):
        # Of bytes: only ASCII white space parts the columns, as for trec_eval.
        parts = line.split()
        if len(parts) != 6:
            raise InputError(
                "six columns: query Q0 passage rank score tag",
                f"{len(parts)}",
                where=where,
            )
        try:
            score = float(parts[4])
        except ValueError:
            score = np.nan
        if not np.isfinite(score):
            found = repr(utf8(parts[4], where=where))
            raise InputError("a finite number as score", found, where=where)
        yield where, utf8(parts[0], where=where), utf8(parts[2], where=where), score


def _add(row: dict[str, float], passage: str, score: float, where: str) -> None:
    if passage in row:
        found = f"passage {passage!r} again"
        raise InputError("each passage of a query once", found, where=where)
    row[passage] = score


def _check_name(name: str, where: str) -> None:
    as_string(name, where)
    gap = _GAP.search(name)
    if gap or not name:
        found = repr(gap[0]) if gap else "an empty one"
        raise InputError(
            "a name without white space, which parts the columns of a run file",
            found,
            where=where,
        )
