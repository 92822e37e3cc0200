"""`python -m m3jax.search --model RUN "join two path components"`: rank passages."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from m3jax.core import cli, config, show
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig

if TYPE_CHECKING:
    from m3jax.inference.embedder import Embedder
    from m3jax.inference.explain import Match, Why
    from m3jax.inference.index import Index
    from m3jax.inference.reranker import Reranker

PROG = "python -m m3jax.search"
DESCRIPTION = (
    "Find the passages that answer a query. The corpus is encoded once and kept, in "
    "the run or in the folder that --index names, where it also grows. Without a "
    "query, they are read from --queries, from the terminal or from a pipe."
)
_MATCHES = 8  # shown of each passage, at most


@dataclass(frozen=True)
class Search:
    """What to search with, and what for."""

    model: str
    """A finished run, a model folder, or a hub id."""
    query: tyro.conf.Positional[tuple[str, ...]] = ()
    """What to look for; several words need no quotes."""
    queries: str | None = None
    """A text file with a query a line, or a .jsonl file with _id and text."""
    top_k: int = 10
    """Passages to show."""
    corpus: str | None = None
    """What to search: a BEIR folder, a .jsonl or .jsonl.gz file with _id, text and
    perhaps title, or a text file with a passage a line [default: what the index has, or
    what the run was tested on, or else trained on]."""
    index: str | None = None
    """A folder that keeps the encoded corpus. One of any size is written to it part by
    part; after a stop, the same command goes on, and passages that are new are added
    [default: cache/index in the run]."""
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
    """Encode the corpus again, whatever is kept."""
    json: bool = False
    """Print one JSON object a passage."""


@dataclass(frozen=True)
class Found:
    """One passage for one query."""

    score: float
    name: str
    text: str
    why: "Why | None" = None


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Search, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    for name in ("top_k", "rescored", "candidates"):
        number = getattr(flags, name)
        if number < 1:
            where = f"--{name.replace('_', '-')}"
            raise InputError("a positive number", f"{number}", where=where)
    query = " ".join(flags.query).strip()
    if flags.query and not query:
        raise InputError("words to look for", "none", where="query")
    if query and flags.queries:
        raise InputError("a query or --queries", "both", where=PROG)
    if flags.recall is not None and flags.mode != "dense":
        found = f"--mode {flags.mode}"
        raise InputError(
            "--mode dense, which can be approximate", found, where="--recall"
        )

    from m3jax.core.mesh import inference_mesh
    from m3jax.inference.embedder import Embedder

    model = Path(flags.model)
    _require_finished(model)
    embedder = Embedder.load(flags.model, mesh=inference_mesh(flags.mesh))
    index = _index(flags, embedder)
    _require_mode(index, flags.mode)
    reranker = _reranker(flags)
    report = _print_json if flags.json else _print_table
    for text in [query] if query else _queries(flags):
        report(text, _find(flags, embedder, index, reranker, text))


def _find(
    flags: Search,
    embedder: "Embedder",
    index: "Index",
    reranker: "Reranker | None",
    text: str,
) -> list[Found]:
    """The best passages for one query."""
    from m3jax.data.prompts import query_prompt

    encoded = embedder.encode_query(
        [text], outputs=index.about["outputs"], task=flags.task, dim=index.about["dim"]
    )
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
        scores = reranker.score(pairs, task=flags.task).tolist()
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


def _passages(name: str) -> Iterator[tuple[str, str]]:
    """Passage id and text; in a text file the number of the line is the id."""
    from m3jax.data import builtin, corpora

    if name == "builtin":
        return iter([(entry.name, entry.passage) for entry in builtin.entries("all")])
    return corpora.passages(name)


def _index(flags: Search, embedder: "Embedder") -> "Index":
    """Open the corpus encoded by this very model, or encode and keep it."""
    from m3jax.inference.index import Index

    model = Path(flags.model)
    index = None if flags.index is None else Path(flags.index)
    if (
        index is not None
        and index.exists()
        and flags.corpus is None
        and not flags.fresh
    ):
        opened = Index.open(index)
        opened.require(embedder)
        return opened
    name = flags.corpus or _searched_by_default(model)
    if index is not None:
        _say(f"encoding what {index} does not have yet")
        return _build(flags, embedder, _passages(name), index)
    rows = dict(_passages(name))
    folder = _kept(flags, embedder, rows)
    if folder.exists() and not flags.fresh:
        try:
            return Index.open(folder)
        except (OSError, InputError) as error:
            _say(f"{error}; encoding the corpus again")
            flags = dataclasses.replace(flags, fresh=True)
    _say(f"encoding {len(rows):,} passages")
    try:
        return _build(flags, embedder, rows.items(), folder)
    except OSError as error:
        _say(f"the encoded corpus could not be kept: {error}")
        return _build(flags, embedder, rows.items(), None)


def _kept(flags: Search, embedder: "Embedder", rows: dict[str, str]) -> Path:
    """The folder of an index of these passages by this model."""
    from m3jax.core.cache import user_folder
    from m3jax.inference.index_about import describe

    about = describe(embedder, dim=flags.dim, storage=flags.storage)
    found = blake2b(json.dumps(about).encode(), digest_size=8)
    for row in rows.items():
        found.update(json.dumps(row).encode())
    model = Path(flags.model)
    # A model of the hub has no folder of ours.
    cache = _run(model) / "cache" if model.exists() else user_folder()
    return cache / "index" / found.hexdigest()


def _build(
    flags: Search,
    embedder: "Embedder",
    rows: Iterable[tuple[str, str]],
    folder: Path | None,
) -> "Index":
    """Encode what the folder does not have yet."""
    import shutil

    from m3jax.inference import index_folder
    from m3jax.inference.encode import collect_cuts
    from m3jax.inference.index import Index

    if folder is not None and flags.fresh and folder.exists():
        index_folder.require_own(folder)
        shutil.rmtree(folder)
    with collect_cuts() as cuts:
        index = Index.build(
            embedder,
            rows,
            folder=folder,
            dim=flags.dim,
            storage=flags.storage,
            progress=True,
        )
    if cuts:
        length = f"{embedder.max_length:,} tokens, as far as the model was trained"
        _say(f"{sum(cuts):,} passages are read up to {length}")
    return index


def _require_mode(index: "Index", mode: str | None) -> None:
    """Refuse a mode that the model has no head for, before a query is read."""
    if mode is not None and mode not in index.modes:
        known = ", ".join(index.modes)
        raise InputError(f"one of {known}, as the model has them", mode, where="--mode")


def _reranker(flags: Search) -> "Reranker | None":
    if flags.reranker is None:
        return None
    from m3jax.core.mesh import inference_mesh
    from m3jax.inference.reranker import Reranker

    return Reranker.load(flags.reranker, mesh=inference_mesh(flags.mesh))


def _queries(flags: Search) -> Iterator[str]:
    """Queries from a file, from a pipe, or from a terminal."""
    if flags.queries is None:
        yield from _typed()
        return
    from m3jax.data import corpora

    for _, text in corpora.passages(flags.queries):
        yield text


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


def _print_json(query: str, found: list[Found]) -> None:
    for rank, one in enumerate(found, start=1):
        row: dict[str, Any] = {"query": query, "rank": rank, "score": one.score}
        row |= {"id": one.name, "text": one.text}
        if one.why is not None:
            row["why"] = dataclasses.asdict(one.why)
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _print_table(query: str, found: list[Found]) -> None:
    explained = any(one.why for one in found)
    columns = ("rank>", "score>", "id", *(("why",) if explained else ()), "text")
    rows = (
        (str(rank), f"{one.score:.4f}", one.name, *_said(one.why), one.text)
        for rank, one in enumerate(found, start=1)
    )
    show.print_table(query, columns, rows)


def _said(why: "Why | None") -> tuple[str, ...]:
    """A cell that says why; none where nobody asked."""
    if why is None:
        return ()
    said = ["  ".join(f"{head} {score:.3f}" for head, score in why.scores.items())]
    for head, matches in (("sparse", why.sparse), ("multivec", why.multivec)):
        if matches:
            shown = ", ".join(_match(match) for match in matches[:_MATCHES])
            said.append(f"{head}: {shown}{', ...' if matches[_MATCHES:] else ''}")
    return ("\n".join(said),)


def _match(match: "Match") -> str:
    """One match in words: salt 0.31, or sea~tide 0.72 where two tokens differ."""
    both = (match.query, match.passage)
    name = match.query if both[0] == both[1] else "~".join(both)
    return f"{name} {match.score:.2f}"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
