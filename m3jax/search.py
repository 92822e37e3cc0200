"""`python -m m3jax.search --model RUN "join two path components"`: rank passages."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from m3jax.core import cli, config
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig
from m3jax.inference import answers
from m3jax.inference.answers import Found

if TYPE_CHECKING:
    from m3jax.inference.embedder import Embedder
    from m3jax.inference.index import Index
    from m3jax.inference.reranker import Reranker

PROG = "python -m m3jax.search"
DESCRIPTION = (
    "Find the passages that answer a query. The corpus is encoded once and kept, in "
    "the run or in the folder that --index names, where it also grows. Without a "
    "query, they are read from --queries, from the terminal or from a pipe.\n\n"
    f'{PROG} "what is slerp?" --model BAAI/bge-m3 --corpus corpus.jsonl --index wiki'
    "\n\nThe query goes before flags of several values, such as --weights."
)
_MIX = ("hybrid", "dense+sparse")  # modes that take weights


@dataclass(frozen=True)
class Search:
    """What to search with, and what for."""

    model: str
    """A finished run, a model folder, or a hub id."""
    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for; several words need no quotes."""
    queries: str | None = None
    """A text file with a query a line, a .jsonl file with _id and text, or a BEIR
    folder, whose queries.jsonl is read. Its ids are in --json as query_id."""
    top_k: int = 10
    """Passages to show."""
    corpus: str | None = None
    """What to search: a BEIR folder, a .jsonl or .jsonl.gz file with _id, text and
    perhaps title, or a text file with a passage a line [default: what the index has, or
    what the run was tested on, or else trained on]."""
    index: str | None = None
    """A folder that keeps the encoded corpus. One of any size is written to it part by
    part; after a stop, the same command goes on if it names the --corpus, and passages
    that are new are added. One with passages that have changed is refused, and built
    anew with --fresh; what is gone from the corpus stays [default: cache/index in the
    run]."""
    mode: (
        Literal["dense", "sparse", "multivec", "dense+sparse", "hybrid", "rrf"] | None
    ) = None
    """What ranks: one head of the model, the weighted mean of heads (hybrid), or
    reciprocal-rank fusion of their rankings (rrf). Multivec and hybrid score the
    passages that dense and sparse find [default: hybrid if the model has several
    heads]."""
    weights: tuple[float, float, float] | None = None
    """Of dense, sparse and multivec in hybrid. BGE-M3 takes 1 0.3 1 for short passages,
    and 0.15 0.5 0.35 for long documents [default: 1 0.3 1]."""
    rescored: int = 200
    """Passages that dense, and sparse, find for multivec and hybrid to score."""
    storage: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the vectors of a new index; int8 needs a quarter of the disk."""
    dim: int | None = None
    """Numbers kept of each dense vector of a new index (Matryoshka) [default: all]."""
    task: str | None = None
    """What the search is for, in a sentence; for a model that takes an instruction."""
    why: bool = False
    """Show what each head says of a passage, and which tokens match."""
    reranker: str | None = None
    """A model that reads query and passage together and orders what was found."""
    candidates: int = 100
    """Passages that the reranker reads."""
    recall: float | None = None
    """Search dense approximately (faster on TPU) with this share of the best passages
    found, e.g. 0.95; what share it was is said [default: exact]."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    fresh: bool = False
    """Encode the corpus again, in place of what is kept."""
    json: bool = False
    """Print one JSON object a passage."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Search, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    query = _checked(flags)

    from m3jax.core.mesh import inference_mesh
    from m3jax.data.run_corpus import require_finished
    from m3jax.inference.embedder import Embedder

    require_finished(Path(flags.model))
    queries = _queries(flags, query)
    embedder = Embedder.load(flags.model, mesh=inference_mesh(flags.mesh))
    index = _index(flags, embedder)
    _require_mode(flags, index)
    reranker = _reranker(flags)
    report = answers.print_json if flags.json else answers.print_table
    for name, text in queries:
        report(name, text, _find(flags, embedder, index, reranker, text))


def _checked(flags: Search) -> str:
    """The query, once all flags are known to be right that need no model."""
    from m3jax.data.fields import as_string

    for name in ("top_k", "rescored", "candidates"):
        number = getattr(flags, name)
        if number < 1:
            where = f"--{name.replace('_', '-')}"
            raise InputError("a positive number", f"{number}", where=where)
    query = as_string(" ".join(flags.query).strip(), "query")
    if flags.query and not query:
        raise InputError("words to look for", "none", where="query")
    if query and flags.queries:
        raise InputError("a query or --queries", "both", where=PROG)
    if flags.recall is not None and not 0 < flags.recall < 1:
        found = f"{flags.recall:g}"
        raise InputError("a share above 0 and below 1", found, where="--recall")
    return query


def _find(
    flags: Search,
    embedder: "Embedder",
    index: "Index",
    reranker: "Reranker | None",
    text: str,
) -> list[Found]:
    """The best passages for one query."""
    from m3jax.data.prompts import query_prompt
    from m3jax.inference.encode import collect_cuts

    about = index.about
    with collect_cuts() as cuts:
        encoded = embedder.encode_query(
            [text], outputs=about["outputs"], task=flags.task, dim=about["dim"]
        )
    if cuts:
        _say(f"the query is read up to {embedder.max_length:,} tokens")
    best = index.rank(
        encoded,
        k=max(flags.candidates if reranker else 0, flags.top_k),
        mode=flags.mode,
        weights=flags.weights,
        rescored=flags.rescored,
        mesh=embedder.mesh,
        recall_target=flags.recall,
    )
    at = [place for place in best.at[0].tolist() if place >= 0]
    scores = best.scores[0, : len(at)].tolist()
    if flags.recall is not None:
        share = index.recall(encoded, best, mesh=embedder.mesh)
        _say(f"approximate search: {share:.1%} of the exact best {len(at)} found")
    if reranker is not None:
        pairs = [(text, index.passage(place)[1]) for place in at]
        with collect_cuts() as cuts:
            scores = reranker.score(pairs, task=flags.task).tolist()
        if cuts:
            limit = f"{reranker.max_length:,} tokens"
            _say(f"{sum(cuts):,} of {len(pairs):,} pairs are reranked up to {limit}")
    ranked = sorted(zip(scores, at, strict=True), key=lambda one: -one[0])
    found = []
    for score, place in ranked[: flags.top_k]:
        why = None
        if flags.why:
            from m3jax.inference.explain import explain

            asked = query_prompt(embedder.prompts, flags.task) + text
            why = explain(embedder, index, asked, encoded, place)
        found.append(Found(score, *index.passage(place), why))
    return found


def _passages(name: str) -> Iterator[tuple[str, str]]:
    """Passage id and text; in a text file the number of the line is the id."""
    from m3jax.data import builtin, corpora

    if name == "builtin":
        return iter([(entry.name, entry.passage) for entry in builtin.entries("all")])
    return corpora.passages(name)


def _corpus(flags: Search) -> str:
    """The name of what is to be encoded."""
    from m3jax.data.lines import near_name
    from m3jax.data.run_corpus import run_corpus

    try:
        return flags.corpus or run_corpus(Path(flags.model))
    except InputError:
        if flags.index is None or Path(flags.index).exists():
            raise
        raise InputError(
            "an index, or a --corpus to make one of",
            "nothing of that name",
            where=flags.index,
            do=near_name(Path(flags.index)),
        ) from None


def _index(flags: Search, embedder: "Embedder") -> "Index":
    """Open the corpus encoded by this very model, or encode and keep it."""
    from m3jax.inference.index import Index
    from m3jax.inference.index_folder import Unfinished

    index = None if flags.index is None else Path(flags.index)
    if (
        index is not None
        and index.exists()
        and flags.corpus is None
        and not flags.fresh
    ):
        opened = Index.open(index)
        opened.require(embedder)
        _require_settings(flags, opened)
        return opened
    name = _corpus(flags)
    if index is not None:
        return _grown(flags, embedder, name, index)
    rows = dict(_passages(name))
    folder = _kept(flags, embedder, rows)
    said = f"encoding {len(rows):,} passages"
    if folder.exists() and not flags.fresh:
        try:
            return Index.open(folder)
        except Unfinished:  # by a command that was stopped
            said = f"encoding what {folder} does not have yet"
        except (OSError, InputError) as error:
            _say(f"{error}; encoding the corpus again")
            flags = dataclasses.replace(flags, fresh=True)
    _say(said)
    try:
        return _build(flags, embedder, rows.items(), folder)
    except OSError as error:
        _say(f"the encoded corpus could not be kept: {error}")
        return _build(flags, embedder, rows.items(), None)


def _grown(flags: Search, embedder: "Embedder", name: str, folder: Path) -> "Index":
    """Add to an index what it does not have, and say how much that was."""
    from m3jax.inference import index_folder

    before = [] if flags.fresh else index_folder.names(folder)
    if not before:
        _say(f"encoding {name}")
    index = _build(flags, embedder, _passages(name), folder)
    new = sum(len(segment) for segment in index.segments[len(before) :])
    _say(f"{folder}: {len(index):,} passages, {new:,} new")
    return index


def _require_settings(flags: Search, index: "Index") -> None:
    """Refuse what is asked of a new index and this one has not."""
    storage = None if flags.storage == Search.storage else flags.storage
    for name, asked in (("dim", flags.dim), ("storage", storage)):
        has = index.about[name]
        if asked is not None and asked != has:
            raise InputError(
                f"{has}, as {index.folder} was built with",
                f"{asked}",
                where=f"--{name}",
                do="Build it anew (--corpus, with --fresh).",
            )


def _kept(flags: Search, embedder: "Embedder", rows: dict[str, str]) -> Path:
    """The folder of an index of these passages by this model."""
    from m3jax.core.cache import user_folder
    from m3jax.data.run_corpus import run_of
    from m3jax.inference.index_about import NAME, describe

    about = describe(embedder, dim=flags.dim, storage=flags.storage)
    del about[NAME]  # the same model by another name
    found = blake2b(json.dumps(about).encode(), digest_size=8)
    for row in rows.items():
        found.update(json.dumps(row).encode())
    model = Path(flags.model)
    # A model of the hub has no folder of ours.
    cache = run_of(model) / "cache" if model.exists() else user_folder()
    return cache / "index" / found.hexdigest()


def _build(
    flags: Search,
    embedder: "Embedder",
    rows: Iterable[tuple[str, str]],
    folder: Path | None,
) -> "Index":
    """Encode what the folder does not have yet."""
    from m3jax.data.corpora import few
    from m3jax.inference import index_folder
    from m3jax.inference.encode import collect_cuts
    from m3jax.inference.index import Index
    from m3jax.inference.index_about import describe

    describe(embedder, dim=flags.dim, storage=flags.storage)
    blank: list[str] = []
    rows = _noting_blank(rows, blank)
    first = list(itertools.islice(rows, 1))
    # By now it is known that there is something to replace it by.
    if folder is not None and flags.fresh:
        index_folder.remove(folder)
    with collect_cuts() as cuts:
        index = Index.build(
            embedder,
            itertools.chain(first, rows),
            folder=folder,
            dim=flags.dim,
            storage=flags.storage,
            progress=True,
        )
    if cuts:
        length = f"{embedder.max_length:,} tokens, as far as the model was trained"
        _say(f"{_passages_are(sum(cuts))} read up to {length}")
    if blank:
        _say(f"{_passages_are(len(blank))} blank: {few(blank)}")
    return index


def _noting_blank(
    rows: Iterable[tuple[str, str]], blank: list[str]
) -> Iterator[tuple[str, str]]:
    """The same passages; the ids of those without a word are noted."""
    for name, text in rows:
        if not text.strip():
            blank.append(name)
        yield name, text


def _passages_are(count: int) -> str:
    return "1 passage is" if count == 1 else f"{count:,} passages are"


def _require_mode(flags: Search, index: "Index") -> None:
    """Refuse a mode that the index has not, and what the mode does not take."""
    modes, several = index.modes, len(index.about["outputs"]) > 1
    mode = flags.mode or ("hybrid" if several else modes[0])
    if mode not in modes:
        known = f"one of {', '.join(modes)}, as the index has them"
        only = f"{modes[0]}, all that the index has"
        raise InputError(known if several else only, mode, where="--mode")
    if flags.weights is not None and mode not in _MIX:
        expected = f"--mode {' or '.join(_MIX)}, which take weights"
        raise InputError(expected, f"--mode {mode}", where="--weights")
    if flags.recall is not None and mode != "dense":
        expected = "--mode dense, which can be approximate"
        raise InputError(expected, f"--mode {mode}", where="--recall")


def _reranker(flags: Search) -> "Reranker | None":
    if flags.reranker is None:
        return None
    from m3jax.core.mesh import inference_mesh
    from m3jax.inference.reranker import Reranker

    return Reranker.load(flags.reranker, mesh=inference_mesh(flags.mesh))


def _queries(flags: Search, query: str) -> Iterable[tuple[str | None, str]]:
    """Id and text: of the one query, of a file, or as they are typed."""
    from m3jax.data import queries

    if query:
        return [(None, query)]
    if flags.queries is None:
        return ((None, text) for text in queries.typed())
    return queries.read_queries(flags.queries, say=_say)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
