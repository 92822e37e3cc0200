r"""Token weights as files that Pyserini indexes and searches by impact.

    python -m pyserini.index.lucene --collection JsonVectorCollection \
        --generator DefaultLuceneDocumentGenerator --input FOLDER --index INDEX \
        --impact --pretokenized --threads 8
    python -m pyserini.search.lucene --index INDEX --topics queries.tsv --impact \
        --hits 1000 --output run.txt

A weight w becomes the integer ceil(100 w) on both sides, so the scores of run.txt are
about 10,000 times those of `m3jax.scores.sparse`.
"""

import functools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.corpora import few
from m3jax.inference.encode import as_texts
from m3jax.inference.encoded import Encoded, require_own
from m3jax.inference.sparse_rows import SparseRows

PASSAGES = "passages.jsonl"
SCALE = 100  # of a weight; of a score it is the square
# The text of a query without weights, which may not be empty; in no vocabulary.
_NOTHING = "\ue000"
_INTEGER = re.compile(r"[+-]?\d+")


def write_passages(
    folder: str | os.PathLike[str],
    parts: Iterable[tuple[Sequence[str], Encoded]],
    *,
    token: Callable[[int], str] = str,
) -> None:
    r"""Write a collection folder for JsonVectorCollection.

    A line is `{"id": ..., "contents": "", "vector": {token: integer}}`. The folder is
    either whole or not there. One part is in memory at a time, and all ids.

    Args:
        folder: a new folder, or one that was written by this function.
        parts: ids and embeddings, some passages at a time.
        token: names a token by its id, without spaces, the same for the queries: by
            default the id itself, or e.g. `tokenizer.backend.id_to_token`.

    Raises:
        InputError: there is no passage or no sparse embedding, an id comes twice or has
            spaces in it, or a token has.
        OSError: the folder cannot be written to, or the disk is full.

    Source: BGE-M3's sparse evaluation, research/C_MTEB/MKQA of FlagEmbedding.

    Example:
        >>> import tempfile
        >>> rows = SparseRows.from_flat([5, 7], [0.251, 1], [0, 2], 10)
        >>> folder = Path(tempfile.mkdtemp(), "collection")
        >>> write_passages(folder, [(["p"], Encoded(sparse=rows))])
        >>> (folder / PASSAGES).read_text()
        '{"id": "p", "contents": "", "vector": {"5": 26, "7": 100}}\n'
    """
    folder = Path(folder)
    require_own(folder, {PASSAGES})
    name = functools.cache(functools.partial(_token, token))
    seen: set[str] = set()
    again: dict[str, None] = {}
    with files.new_folder(folder) as new:
        with open(new / PASSAGES, "w", encoding="utf-8", newline="\n") as file:
            for ids, encoded in parts:
                rows = _rows(ids, encoded)
                for i, passage in enumerate(_ids(ids)):
                    if passage in seen:
                        again[passage] = None
                    seen.add(passage)
                    line = {
                        "id": passage,
                        "contents": "",
                        "vector": _weights(rows, i, name),
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if again or not seen:
            found = f"{len(again):,} again: {few(again)}" if again else "no passage"
            raise InputError("a new id for each passage", found, where=str(folder))


def write_queries(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    encoded: Encoded,
    *,
    token: Callable[[int], str] = str,
) -> None:
    r"""Write topics: id, tab, and each token as often as its weight says.

    Pyserini counts the tokens of a line again. A query without weights is written, too,
    and finds nothing.

    Args:
        path: of a .tsv file.
        ids: of the queries.
        encoded: their embeddings.
        token: as of the passages.

    Raises:
        InputError: there is no query or no sparse embedding, an id comes twice or would
            be read as another one, or the name does not end in .tsv.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> rows = SparseRows.from_flat([5, 7], [0.011, 0.03], [0, 2], 10)
        >>> file = Path(tempfile.mkdtemp(), "queries.tsv")
        >>> write_queries(file, ["q"], Encoded(sparse=rows))
        >>> file.read_text()
        'q\t5 5 7 7 7\n'
    """
    path = Path(path)
    if path.suffix != ".tsv":
        expected = "a name that ends in .tsv, by which Pyserini knows the layout"
        raise InputError(expected, repr(path.name), where=str(path))
    rows, ids = _rows(ids, encoded), _ids(ids)
    again = [name for name, count in Counter(ids).items() if count > 1]
    if again or not ids:
        found = f"{len(again):,} again: {few(again)}" if again else "no query"
        raise InputError("a new id for each query", found, where=str(path))
    if all(map(_INTEGER.fullmatch, ids)):  # then Pyserini reads them as numbers
        for name in ids:
            if str(int(name)) != name:
                expected = f"the id {int(name)}, as Pyserini reads it"
                raise InputError(expected, repr(name), where=str(path))
    name = functools.cache(functools.partial(_token, token))
    lines = []
    for i, query in enumerate(ids):
        words = " ".join(Counter(_weights(rows, i, name)).elements())
        lines.append(f"{query}\t{words or _NOTHING}\n")
    files.write_text(path, "".join(lines))


def _weights(rows: SparseRows, row: int, name: Callable[[int], str]) -> dict[str, int]:
    """Token -> ceil(100 w) of one text."""
    part = slice(*rows.matrix.indptr[row : row + 2])
    # In float32, as FlagEmbedding: 0.07 is 7 there, and 8 in float64.
    impact = np.ceil(rows.matrix.data[part] * np.float32(SCALE)).astype(np.int64)
    keep = impact > 0
    ids = rows.matrix.indices[part][keep].tolist()
    found = {name(i): n for i, n in zip(ids, impact[keep].tolist(), strict=True)}
    if len(found) != len(ids):
        raise InputError("another name for each token", "one twice", where="token")
    return found


def _token(token: Callable[[int], str], number: int) -> str:
    name = token(number)
    if not name or name.split() != [name]:
        where = f"token({number})"
        raise InputError("a name without spaces", repr(name), where=where)
    return name


def _ids(ids: Sequence[str]) -> list[str]:
    checked = as_texts(ids, where="ids")
    for name in checked:
        if name.split() != [name]:
            raise InputError("an id without spaces", repr(name), where="ids")
    return checked


def _rows(ids: Sequence[str], encoded: Encoded) -> SparseRows:
    if encoded.sparse is None:
        expected, do = "sparse embeddings", 'Encode with outputs=("sparse",).'
        raise InputError(expected, "none", where="impact", do=do)
    if len(ids) != len(encoded):
        expected = f"{len(encoded):,} ids, one a text"
        raise InputError(expected, f"{len(ids):,}", where="impact")
    return encoded.sparse
