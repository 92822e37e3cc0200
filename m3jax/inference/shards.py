"""A corpus larger than memory, encoded part by part into a folder; and back.

Three lines open what `python -m m3jax.encode` wrote:

    shards = open_shards("DIR")
    ids = [name for shard in shards for name in shard.ids]
    dense = shards[0].encoded.dense  # memory-mapped float32 [n e]

The folder holds `meta.json`, which says what was asked, and a folder for each shard,
00000 and so on, with `ids.jsonl`, `shard.json` and the arrays of `Encoded`.
"""

import functools
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from m3jax.core import config, files
from m3jax.core.errors import InputError
from m3jax.core.progress import Show
from m3jax.data.prompts import query_prompt
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import as_texts, collect_cuts
from m3jax.inference.encoded import Encoded
from m3jax.inference.fingerprint import fingerprint
from m3jax.nn.embedding import OUTPUTS, check_outputs

META, IDS, ABOUT = "meta.json", "ids.jsonl", "shard.json"
_NAME = re.compile(r"\d{5,}")
_LEFT = re.compile(r"\.(\d{5,}|meta\.json)\..*\.tmp")  # by a process that was killed
# Written when all is done, and so no part of what was asked.
_END = "texts"


@dataclass(frozen=True)
class Shard:
    """One part of an encoded corpus; its arrays are read when they are used.

    Attributes:
        folder: where it is.
        count: texts in it.
        cut: texts that were longer than the tokens that were kept.
        found: it was there already, and was not encoded again.
    """

    folder: Path
    count: int
    cut: int
    found: bool = False

    @property
    def ids(self) -> list[str]:
        """Ids of the texts, in their order; read anew with each use."""
        return _read_ids(self.folder / IDS, self.count)

    @functools.cached_property
    def encoded(self) -> Encoded:
        """Embeddings of the texts, memory-mapped."""
        encoded = Encoded.open(self.folder)
        if len(encoded) != self.count:
            raise InputError(
                f"{self.count:,} embeddings, as {ABOUT} says",
                f"{len(encoded):,}",
                where=str(self.folder),
            )
        return encoded


def encode_to(
    embedder: Embedder,
    records: Iterable[tuple[str, str]],
    folder: str | os.PathLike[str],
    *,
    shard_size: int = 100_000,
    kind: str = "passage",
    outputs: Sequence[str] = OUTPUTS,
    task: str | None = None,
    dim: int | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    fresh: bool = False,
    progress: Show = False,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[Shard]:
    """Encode a stream of texts into a folder, shard by shard.

    No more than one shard of texts and embeddings is in memory. The same call again
    goes on where the last one stopped: a finished shard is not encoded again, but its
    texts are read, and must be those that it was made of.

    Args:
        embedder: the model.
        records: (id, text) in their order; ids should differ.
        folder: a new folder, an empty one, or one of a former call.
        shard_size: texts in a shard; the last one has fewer.
        kind: "passage" or "query".
        outputs: heads to compute.
        task: what the search is for; queries only.
        dim: numbers kept of each dense vector; None = all.
        max_length: tokens kept of each text; None = what the model says.
        batch_tokens: tokens in a batch; no part of what was asked.
        fresh: remove what former calls wrote into the folder.
        progress: show a bar for each shard; or a function that is told how many texts
            were just finished.
        say: is told in a sentence of a shard that has to be made again.

    Yields:
        Each shard, when it is whole on the disk.

    Raises:
        InputError: the folder holds other files or the answer to another question, the
            texts are not those of a finished shard, there is no text, or an option
            does not fit the model.
        OSError: the folder cannot be written to, or the disk is full.
    """
    if shard_size < 1:
        raise InputError("a positive number", f"{shard_size}", where="shard_size")
    if kind not in ("passage", "query"):
        raise InputError("passage or query", repr(kind), where="kind")
    if task is not None and kind == "passage":
        raise InputError("a task for queries only", repr(task), where="task")
    options: dict[str, Any] = {"outputs": tuple(outputs), "dim": dim}
    options |= {"max_length": max_length, "batch_tokens": batch_tokens}
    if kind == "query":
        encode = functools.partial(embedder.encode_query, task=task, **options)
        prompt = query_prompt(embedder.prompts, task)
    else:
        encode = functools.partial(embedder.encode_passage, **options)
        prompt = embedder.prompts.passage
    check_outputs(embedder.module.config, tuple(outputs))
    asked = {
        "model": fingerprint(embedder),
        "config": config.to_dict(embedder.module.config),
        "prompt": prompt,
        "outputs": sorted(outputs),
        "dim": dim,
        "max_length": embedder.max_length if max_length is None else max_length,
        "shard_size": shard_size,
    }
    folder = Path(folder)
    _claim(folder, asked, fresh)
    return _encode(encode, iter(records), folder, asked, progress, say)


def open_shards(folder: str | os.PathLike[str]) -> list[Shard]:
    """Open what `encode_to` wrote.

    Args:
        folder: an encoded corpus that is complete.

    Returns:
        The shards in the order of the texts; their arrays are not read yet.

    Raises:
        InputError: the folder is something else, is not complete, or is damaged.

    Example:
        >>> open_shards("no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no/meta.json: expected an encoded corpus, found \
none
    """
    folder = Path(folder)
    meta = _read_object(folder / META)
    if meta is None:
        raise InputError("an encoded corpus", "none", where=str(folder / META))
    names = _shard_names(folder)
    if _END not in meta:
        raise InputError(
            "an encoded corpus that is complete",
            f"{len(names)} shards and no end",
            where=str(folder),
            do="Run the same command again to continue it to its end.",
        )
    shards = [_open(folder / name)[0] for name in names]
    count = sum(shard.count for shard in shards)
    if count != meta[_END] or names != [_name(at) for at in range(len(names))]:
        raise InputError(
            f"shards of {meta[_END]} texts in all, as {META} says",
            f"{len(names)} shards of {count}",
            where=str(folder),
        )
    return shards


def _encode(
    encode: Callable[..., Encoded],
    records: Iterator[tuple[str, str]],
    folder: Path,
    asked: dict[str, Any],
    progress: Show,
    say: Callable[[str], None],
) -> Iterator[Shard]:
    total, at = 0, -1
    for at in itertools.count():
        rows = list(itertools.islice(records, asked["shard_size"]))
        if not rows:
            break
        as_texts((name for name, _ in rows), where="ids")
        as_texts((text for _, text in rows), where="texts")
        path = folder / _name(at)
        shard = _finished(path, rows, say)
        if shard is None:
            with collect_cuts() as cuts:
                encoded = encode([text for _, text in rows], progress=progress)
            shard = _write(path, rows, encoded, sum(cuts))
        elif callable(progress):
            progress(shard.count)
        total += shard.count
        yield shard
    if not total:
        raise InputError("a text to encode", "none", where="records")
    more = [name for name in _shard_names(folder) if int(name) >= at]
    if more:
        raise _other_texts(folder / more[0], "the end of the input")
    files.write_text(folder / META, json.dumps({**asked, _END: total}, indent=2) + "\n")


def _write(
    path: Path, rows: list[tuple[str, str]], encoded: Encoded, cut: int
) -> Shard:
    about = {"count": len(rows), "cut": cut, "texts": _hash(rows)}
    with files.new_folder(path) as new:
        encoded.write(new)
        lines = (json.dumps(name, ensure_ascii=False) + "\n" for name, _ in rows)
        (new / IDS).write_text("".join(lines), encoding="utf-8")
        files.write_text(new / ABOUT, json.dumps(about) + "\n")
    return Shard(path, len(rows), cut)


def _finished(
    path: Path, rows: list[tuple[str, str]], say: Callable[[str], None]
) -> Shard | None:
    """The shard of these texts, if it is there and whole."""
    if not path.exists():
        return None
    try:
        shard, texts = _open(path)
        whole = len(shard.ids) == len(shard.encoded) == shard.count
    except InputError as error:
        say(f"{error}; encoding this shard again")
        return None
    assert whole  # otherwise an InputError
    if texts != _hash(rows):
        raise _other_texts(path, "others")
    return Shard(shard.folder, shard.count, shard.cut, found=True)


def _other_texts(path: Path, found: str) -> InputError:
    return InputError(
        "the texts that this shard was made of",
        found,
        where=str(path),
        do="Give the same input as before, or another folder, or start anew (--fresh).",
    )


def _claim(folder: Path, asked: dict[str, Any], fresh: bool) -> None:
    """Make the folder, or check that it is of the same question."""
    if folder.exists():
        _require_ours(folder)
        if fresh:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    meta = _read_object(folder / META)
    if meta is None or not _shard_names(folder):  # nothing was answered yet
        files.write_text(folder / META, json.dumps(asked, indent=2) + "\n")
        return
    before = {key: value for key, value in meta.items() if key != _END}
    differs = config.difference(before, asked)
    if differs:
        raise InputError(
            "the question that this folder began with",
            "another: " + ", ".join(differs),
            where=str(folder),
            do="Ask the same, name another folder, or start anew (--fresh).",
        )


def _require_ours(folder: Path) -> None:
    found = None
    if not folder.is_dir():
        found = "a file"
    else:
        names = sorted(path.name for path in folder.iterdir())
        others = [name for name in names if not _is_ours(name)]
        if others:
            found = f"other files: {', '.join(others[:3])}"
        elif META not in names and any(map(_NAME.fullmatch, names)):
            found = f"shards and no {META}"
    if found is not None:
        expected = "a new or empty folder, or an encoded corpus"
        raise InputError(expected, found, where=str(folder), do="Name another folder.")


def _is_ours(name: str) -> bool:
    return name == META or bool(_NAME.fullmatch(name) or _LEFT.fullmatch(name))


def _shard_names(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(names, key=int)


def _name(at: int) -> str:
    return f"{at:05d}"


def _open(path: Path) -> tuple[Shard, str]:
    """A shard, and the hash of its ids and texts."""
    about = _read_object(path / ABOUT) or {}
    count, cut, texts = (about.get(key) for key in ("count", "cut", "texts"))
    if isinstance(count, int) and isinstance(cut, int) and isinstance(texts, str):
        return Shard(path, count, cut), texts
    found = "something else" if about else "none"
    raise InputError("what a shard says of itself", found, where=str(path / ABOUT))


def _read_ids(path: Path, count: int) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            ids = [json.loads(line) for line in file]
    except FileNotFoundError:
        raise InputError("ids of the texts", "none", where=str(path)) from None
    except ValueError as error:
        raise InputError("an id a line", str(error), where=str(path)) from None
    if len(ids) != count:
        raise InputError(f"{count:,} ids", f"{len(ids):,}", where=str(path))
    return ids


def _read_object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError("JSON", str(error), where=str(path)) from None
    if not isinstance(value, dict):
        raise InputError("a JSON object", type(value).__name__, where=str(path))
    return value


def _hash(rows: list[tuple[str, str]]) -> str:
    found = blake2b(digest_size=16)
    for row in rows:
        for part in row:
            data = part.encode()
            found.update(b"%d " % len(data))
            found.update(data)
    return found.hexdigest()
