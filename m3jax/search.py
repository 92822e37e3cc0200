"""`python -m m3jax.search --model RUN "join two path components"`: rank passages."""

import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from m3jax.core import cli, config, show
from m3jax.core.errors import InputError

if TYPE_CHECKING:
    from m3jax.inference.embedder import Embedder
    from m3jax.inference.index import Index

PROG = "python -m m3jax.search"
DESCRIPTION = (
    "Find the passages that answer a query. The corpus is encoded once and kept beside "
    "the model. Without a query, queries are read from the terminal or from a pipe, "
    "one a line."
)


@dataclass(frozen=True)
class Search:
    """What to search with, and what for."""

    model: str
    """A finished run, or a model folder."""
    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for; several words need no quotes."""
    top_k: int = 10
    """Passages to show."""
    corpus: str | None = None
    """What to search: a BEIR folder, a .jsonl or .jsonl.gz file with _id, text and
    perhaps title, or a text file with a passage a line [default: what the run was
    tested on, or else trained on]."""
    fresh: bool = False
    """Encode the corpus again, whatever is kept."""
    json: bool = False
    """Print one JSON object a passage."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Search, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    if flags.top_k < 1:
        raise InputError("a positive number", f"{flags.top_k}", where="--top-k")
    query = " ".join(flags.query).strip()
    if flags.query and not query:
        raise InputError("words to look for", "none", where="query")

    from m3jax.inference.embedder import Embedder

    model = Path(flags.model)
    _require_finished(model)
    embedder = Embedder.load(model)
    corpus = _read_corpus(flags.corpus or _searched_by_default(model))
    index = _index(embedder, corpus, _run(model) / "cache" / "index", flags.fresh)
    report = _print_json if flags.json else _print_table
    for text in [query] if query else _typed():
        found = index.search(embedder.encode_query([text]), k=flags.top_k)[0]
        report(text, [(score, name, corpus[name]) for name, score in found])


def _run(model: Path) -> Path:
    """The run that a model folder belongs to, else the folder itself."""
    inside = model.name == "model" and _stages(model.parent)
    return model.parent if inside else model


def _stages(folder: Path) -> list[dict[str, Any]]:
    """Data of each stage, in order; nothing if the folder is no run."""
    try:
        saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    stages = saved.values() if isinstance(saved, dict) else ()
    found = [stage.get("data") for stage in stages if isinstance(stage, dict)]
    return [data for data in found if isinstance(data, dict)]


def _require_finished(folder: Path) -> None:
    if _stages(folder) and not (folder / "model").is_dir():
        raise InputError(
            "a run that has ended",
            "no model/ in it yet",
            where=str(folder),
            do="Run the same training command again to continue it to its end.",
        )


def _searched_by_default(model: Path) -> str:
    """What the last stage of a run was tested on, or else trained on."""
    for data in _stages(_run(model))[-1:]:
        name = data.get("test") or data.get("train")
        if name == "builtin" or (name and Path(name).is_dir()):
            return name
    raise InputError(
        "a corpus to search",
        f"none that {model} was tested or trained on",
        where="--corpus",
        do="Name a BEIR folder, a .jsonl file, or a text file with a passage a line.",
    )


def _read_corpus(name: str) -> dict[str, str]:
    """Passage id -> text; in a text file the number of the line is the id."""
    from m3jax.data import builtin, corpora

    if name == "builtin":
        return {entry.name: entry.passage for entry in builtin.entries("all")}
    return dict(corpora.passages(name))


def _index(
    embedder: "Embedder", corpus: dict[str, str], cache: Path, fresh: bool
) -> "Index":
    """Open the corpus encoded by this very model, or encode and keep it."""
    from m3jax.inference.index import Index, fingerprints

    about = fingerprints(embedder, corpus)
    folder = cache / blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()
    if folder.exists() and not fresh:
        try:
            return Index.open(folder)
        except (OSError, InputError) as error:
            _say(f"{error}; encoding the corpus again")
    _say(f"encoding {len(corpus):,} passages")
    from m3jax.inference.encode import collect_cuts

    with collect_cuts() as cuts:
        index = Index.build(embedder, corpus, progress=True)
    if cuts:
        length = f"{embedder.max_length:,} tokens, as far as the model was trained"
        _say(f"{sum(cuts):,} passages are read up to {length}")
    try:
        index.save(folder)
    except (OSError, InputError) as error:
        _say(f"the encoded corpus could not be kept: {error}")
    return index


def _typed() -> Iterator[str]:
    """Queries from a pipe, or from a terminal until an empty line or Ctrl-D."""
    from m3jax.data.fields import utf8

    terminal, asked = sys.stdin.isatty(), False
    for number in itertools.count(1):
        if terminal:
            print("query: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        text = utf8(line, where=f"stdin:{number}").strip()
        if not line or (terminal and not text):
            break
        if text:
            yield text
            asked = True
    if not asked and not terminal:
        raise InputError("a query a line", "none", where="stdin")


def _print_json(query: str, found: list[tuple[float, str, str]]) -> None:
    for rank, (score, name, text) in enumerate(found, start=1):
        row = {"query": query, "rank": rank, "score": score, "id": name, "text": text}
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _print_table(query: str, found: list[tuple[float, str, str]]) -> None:
    rows = (
        (str(rank), f"{score:.4f}", name, text)
        for rank, (score, name, text) in enumerate(found, start=1)
    )
    show.print_table(query, ("rank>", "score>", "id", "text"), rows)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
