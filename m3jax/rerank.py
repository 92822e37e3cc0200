"""`python -m m3jax.rerank --model M --query "..." --passages FILE`: score pairs."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from m3jax.core import cli, config, show
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig

PROG = "python -m m3jax.rerank"
DESCRIPTION = (
    "Sort passages by how probably they answer a query, by a model that reads both "
    "together. Example: python -m m3jax.search --model RUN --json what is slerp | "
    "python -m m3jax.rerank --model BAAI/bge-reranker-v2-m3"
)


@dataclass(frozen=True)
class Rerank:
    """What to score, and with what."""

    model: str
    """A hub id or a model folder: a cross-encoder with one logit, or Qwen3-Reranker."""
    query: str | None = None
    """One query, for all of --passages."""
    passages: str | None = None
    """What may answer it: a .jsonl file with _id and text, a BEIR folder, a text file
    with a passage a line, or - for a pipe."""
    input: str | None = None
    """Pairs in place of both: JSON lines with query, and passage or text, as search
    --json prints them [default: -, a pipe]."""
    top_k: int | None = None
    """Passages to show for each query [default: all]."""
    task: str | None = None
    """What the search is for, in a sentence; for Qwen3-Reranker."""
    max_length: int | None = None
    """Tokens kept of query and passage together [default: as the model says]."""
    batch_tokens: int | None = None
    """Tokens in a batch; fewer if the device runs out of memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; bfloat16 is faster on an accelerator."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    json: bool = False
    """Print one JSON object a passage: the line that was read, with score and rank in
    place of those it had."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Rerank, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    for name in ("top_k", "max_length", "batch_tokens"):
        number = getattr(flags, name)
        if number is not None and number < 1:
            where = f"--{name.replace('_', '-')}"
            raise InputError("a positive number", f"{number}", where=where)
    rows = list(_rows(flags))

    from m3jax.core.mesh import inference_mesh
    from m3jax.inference.encode import collect_cuts
    from m3jax.inference.reranker import Reranker

    reranker = Reranker.load(
        flags.model,
        dtype=flags.dtype,
        revision=flags.revision,
        mesh=inference_mesh(flags.mesh),
    )
    with collect_cuts() as cuts:
        scores = reranker.score(
            [(query, passage) for query, passage, _ in rows],
            task=flags.task,
            max_length=flags.max_length,
            batch_tokens=flags.batch_tokens,
            progress=True,
        )
    if cuts:
        print(f"{sum(cuts):,} pairs were too long and cut", file=sys.stderr)
    groups: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
    for (query, passage, row), score in zip(rows, scores.tolist(), strict=True):
        groups.setdefault(query, []).append((score, passage, row))
    for query, found in groups.items():
        best = sorted(found, key=lambda part: -part[0])[: flags.top_k]
        (_print_json if flags.json else _print_table)(query, best)


def _rows(flags: Rerank) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Query, passage, and what is printed beside the score."""
    one = flags.query is not None or flags.passages is not None
    if one and flags.input is not None:
        raise InputError("--query with --passages, or --input", "both", where=PROG)
    if not one:
        yield from _pairs(flags.input)
        return
    if flags.query is None or flags.passages is None:
        found = "--query" if flags.passages is None else "--passages"
        raise InputError("--query with --passages", f"only {found}", where=PROG)
    if not flags.query.strip():
        raise InputError("words to look for", "none", where="--query")

    from m3jax.data import corpora

    for name, text in corpora.passages(flags.passages):
        yield flags.query, text, {"query": flags.query, "id": name, "text": text}


def _pairs(path: str | None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    if path is None and sys.stdin.isatty():
        do = "Or pipe JSON lines with query and passage into it."
        raise InputError(
            "--query with --passages, or --input", "none", where=PROG, do=do
        )

    from m3jax.data.fields import json_object, string
    from m3jax.data.lines import STDIN, lines

    name = path or STDIN
    where = ""
    for where, line in lines(name):
        row = json_object(line, where=where)
        key = "text" if "text" in row and "passage" not in row else "passage"
        try:
            query, text = string(row, "query"), string(row, key)
        except InputError as error:
            raise error.at(where) from None
        yield query, text, row
    if not where:
        said = "stdin" if name == STDIN else name
        raise InputError("a query with a passage a line", "an empty file", where=said)


def _print_json(query: str, found: list[tuple[float, str, dict[str, Any]]]) -> None:
    for rank, (score, _, row) in enumerate(found, start=1):
        said = {**row, "rank": rank, "score": score}
        print(json.dumps(said, ensure_ascii=False), flush=True)


def _print_table(query: str, found: list[tuple[float, str, dict[str, Any]]]) -> None:
    rows = (
        (str(rank), f"{score:.4f}", text)
        for rank, (score, text, _) in enumerate(found, start=1)
    )
    show.print_table(query, ("rank>", "score>", "text"), rows)


if __name__ == "__main__":
    cli.run(main)
