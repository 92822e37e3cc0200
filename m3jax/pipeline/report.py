"""What a finished run shows: a table, plots and the words on its model card."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation.table import by_head, table
from m3jax.hub.folder import Model
from m3jax.inference.encode import encode
from m3jax.inference.scores import dense
from m3jax.nn.embedding import EmbeddingModule
from m3jax.training.plots import write_plots, write_stages

RESULTS = "results.json"
# Set -> row of the table -> metric -> value.
Results = Mapping[str, Mapping[str, Mapping[str, float]]]


def is_finished(folder: Path) -> bool:
    """Whether a run has written everything that it was to write."""
    return (folder / RESULTS).exists()


def finish(folder: Path, results: dict[str, Any]) -> None:
    """Write the results; from now on the run counts as finished."""
    files.write_text(folder / RESULTS, json.dumps(results, indent=2) + "\n")


def scores_at(
    lines: Sequence[Mapping[str, Any]], name: str, *, step: int
) -> dict[str, float]:
    """Scores of one set at one step, from the lines of metrics.jsonl.

    Example:
        >>> scores_at([{"step": 0, "dev/mrr@10": 0.5}], "dev", step=0)
        {'mrr@10': 0.5}
    """
    prefix = f"{name}/"
    return {
        key.removeprefix(prefix): value
        for line in lines
        if line["step"] == step
        for key, value in line.items()
        if key.startswith(prefix)
    }


def show(folder: Path, stages: Mapping[str, Path], *, reranks: bool = False) -> None:
    """Print the tables of a finished run, and where its parts are.

    Args:
        folder: the run folder.
        stages: name of each stage -> folder of its results.
        reranks: whether its model is a reranker.

    Raises:
        InputError: a results.json is damaged.
    """
    found = _read_all(stages)
    console = Console(soft_wrap=True)
    for name, same in _measured_alike(found):
        last = list(same.values())[-1]
        title = f"{name} set"
        if len(_measured_alike(found, name)) > 1:
            title += f" of {', '.join(same)}"
        rows = last["results"][name]
        if len(found) > 1:
            rows = _after_each(same, name) | _others(last, name)
        console.print(table(rows, title, caption=last["sizes"][name]))
    print(f"model   {folder / 'model'}")
    for logs in dict.fromkeys([folder, *stages.values()]):
        if (logs / "plots").is_dir():
            print(f"plots   {logs / 'plots'}")
    tested_on = list(found.values())[-1]["sizes"].get("test", "")
    print(_next_command(folder, tested_on, reranks=reranks))


def _next_command(folder: Path, tested_on: str, *, reranks: bool) -> str:
    """How a finished model is asked something."""
    if reranks:
        command, rest = "rerank", '--query "your question" --passages FILE'
    else:
        # The corpus of a test set of queries and passages is searched by default.
        corpus = "" if "passages" in tested_on else "--corpus FILE "
        command, rest = "search", f'{corpus}"your question"'
    return f"{command}  python -m m3jax.{command} --model {folder} {rest}"


def _measured_alike(
    found: Mapping[str, Any], only: str = ""
) -> list[tuple[str, dict[str, Any]]]:
    """Sets that stages were measured on, dev before test, each with those stages."""
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for stage, one in found.items():
        for name, size in one["sizes"].items():
            key = (name, size, one["sets"].get(name, ""))
            groups.setdefault(key, {})[stage] = one
    ordered = sorted(groups.items(), key=lambda entry: entry[0][0])
    return [(key[0], same) for key, same in ordered if only in ("", key[0])]


def _after_each(same: Mapping[str, Any], name: str) -> dict[str, Mapping[str, float]]:
    """One row a stage, of those that were measured on the same set."""
    rows: dict[str, Mapping[str, float]] = {}
    for number, (stage, one) in enumerate(same.items()):
        before, after, *_ = one["results"][name].items()
        if number == 0:
            rows[f"before {stage}"] = before[1]
        step = f" (step {one['step']})" if one["step"] else ""  # a merge has none
        rows[f"after {stage}{step}"] = after[1]
    return rows


def _others(one: Mapping[str, Any], name: str) -> dict[str, Mapping[str, float]]:
    """What the model is compared with."""
    return dict(list(one["results"][name].items())[2:])


def summarize(folder: Path, stages: Mapping[str, Path]) -> None:
    """Put the results of several stages together: one file, and a plot for each set.

    Args:
        folder: the run folder.
        stages: name of each stage -> folder of its results.

    Raises:
        InputError: a results.json is damaged.
        OSError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> run, one = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
        >>> finish(one, {"step": 3, "results": {}, "sizes": {}})
        >>> summarize(run, {"one": one})
        >>> json.loads((run / RESULTS).read_text())["stages"]["one"]["step"]
        3
    """
    found = _read_all(stages)
    for name, same in _measured_alike(found):
        stage, last = list(same.items())[-1]
        alone = len(_measured_alike(found, name)) == 1
        if len(same) > 1:
            write_stages(
                folder / "plots" / (f"{name}.png" if alone else f"{name}-{stage}.png"),
                _after_each(same, name),
                _others(last, name),
                title=f"{name} set, {last['sizes'][name]}",
            )
    finish(folder, {"stages": found})


def _read_all(stages: Mapping[str, Path]) -> dict[str, Any]:
    return {name: _read(logs / RESULTS) for name, logs in stages.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: found[name] for name in ("step", "results", "sizes")}
        return {**kept, "sets": found.get("sets", {})}  # older runs do not tell
    except (ValueError, KeyError) as error:
        raise InputError("the results of a run", str(error), where=str(path)) from None


def card(results: Results, sizes: Mapping[str, str]) -> str:
    """The scores of a run in Markdown, for the model card.

    Args:
        results: set -> row -> metric -> value.
        sizes: set -> what it holds.

    Returns:
        One table a set.

    Example:
        >>> print(card({"dev": {"BM25": {"mrr@10": 0.5}}}, {"dev": "9 queries"}))
        ## Scores, dev set (9 queries)
        <BLANKLINE>
        | | mrr@10 |
        | --- | ---: |
        | BM25 | 0.5000 |
        <BLANKLINE>
    """
    lines = []
    for name, found in results.items():
        rows = by_head(found)
        metrics = list(dict.fromkeys(key for row in rows.values() for key in row))
        lines += [f"## Scores, {name} set ({sizes[name]})", ""]
        lines += [f"| | {' | '.join(metrics)} |"]
        lines += [f"| --- |{' ---: |' * len(metrics)}"]
        for row, values in rows.items():
            cells = (f"{values[x]:.4f}" if x in values else "" for x in metrics)
            numbers = " | ".join(cells)
            lines.append(f"| {row} | {numbers} |")
        lines.append("")
    return "\n".join(lines)


def plot(
    folder: Path,
    histogram: tuple[np.ndarray, np.ndarray] | None,
    *,
    lines: Sequence[Mapping[str, Any]],
    selected: int,
) -> None:
    """Draw the plots of a stage into its folder.

    Args:
        folder: of its metrics.
        histogram: scores of right and of other pairs.
        lines: of metrics.jsonl.
        selected: step whose parameters the model has.
    """
    positive, negative = histogram or (None, None)
    write_plots(
        folder / "plots",
        lines,
        selected=selected,
        positive=positive,
        negative=negative,
    )


def sample_scores(
    model: Model, data: Retrieval, mesh: Mesh, *, at_most: int = 300
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of queries with their answers, and with other passages.

    Args:
        model: any model.
        data: queries, passages and judgements.
        mesh: the devices.
        at_most: queries and passages that are taken, evenly spread.

    Returns:
        float32 cosines of judged pairs, and of all other pairs.
    """
    queries = _spread(list(data.qrels), at_most)
    answers = {p for q in queries for p, grade in data.qrels[q].items() if grade > 0}
    passages = sorted(answers | set(_spread(list(data.corpus), at_most)))
    texts = (
        [model.prompts.query + data.queries[q] for q in queries],
        [model.prompts.passage + data.corpus[p] for p in passages],
    )
    query, passage = (
        encode(
            EmbeddingModule(model.config),
            model.params,
            model.tokenizer,
            part,
            max_length=model.max_length,
            mesh=mesh,
        )
        for part in texts
    )
    scores = dense(query, passage)
    judged = np.array([[data.qrels[q].get(p, -1) for p in passages] for q in queries])
    return scores[judged > 0], scores[judged == -1]


def _spread(items: list[str], at_most: int) -> list[str]:
    return items[:: math.ceil(len(items) / at_most)]
