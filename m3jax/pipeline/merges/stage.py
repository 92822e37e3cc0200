"""The stage of a run that merges what the stages before it came to."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.data.training_sets import open_data
from m3jax.hub import kind as kinds
from m3jax.hub import opened, reranker
from m3jax.hub.layout import read_json
from m3jax.pipeline import report, run
from m3jax.pipeline.learner import Measured, baseline, make_learner, size
from m3jax.pipeline.merges import run as merges
from m3jax.pipeline.merges import steps
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.recipe import make_recipe
from m3jax.pipeline.stages import Resolved


def check_merge(name: str, merge: Merge, before: Sequence[Resolved]) -> None:
    """Refuse, before anything is trained, a merge that cannot be.

    Args:
        name: of the stage.
        merge: its config.
        before: the stages that train.

    Raises:
        InputError: an option is wrong, or a model is neither a stage nor there.
    """
    known = {one.name: one for one in before}
    try:
        make_recipe(merge, merge.last or len(merge.models))
        for model in (*merge.models, *([merge.base] if merge.base else [])):
            if model not in known:
                kinds.kind(model)  # it is there
        if merge.last is not None:
            stage = known.get(merge.models[0]) if len(merge.models) == 1 else None
            if stage is None:
                expected = f"one of the stages {', '.join(known)}"
                raise InputError(expected, ", ".join(merge.models), where="last")
            kept = stage.stage.checkpoints.keep_last
            if kept < merge.last:
                raise InputError(
                    f"checkpoints.keep_last of {merge.last} or more, for last",
                    f"{kept}",
                    where=stage.name,
                )
    except InputError as error:
        raise error.at(name) from None


def run_merge(
    name: str, merge: Merge, before: Sequence[Resolved], folder: Path, *, fresh: bool
) -> None:
    """Merge, measure and report, unless that has been done.

    Of several processes the first one merges; all measure.

    Args:
        name: of the stage.
        merge: its config; names of stages stand for their models.
        before: the stages that train, which have ended.
        folder: of the run, whose model this is.
        fresh: do it again.

    Raises:
        InputError: the models cannot be merged.
        OSError: the run folder cannot be written to.
    """
    logs = folder / name
    if report.is_finished(logs) and not fresh:
        print(f"{folder}: stage {name} is finished; --fresh starts it anew.")
        return
    print(f"stage {name}")
    logs.mkdir(parents=True, exist_ok=True)
    out, last = folder / "model", before[-1]
    if distributed.first():
        config = _with_paths(merge, before)
        with merges.opened(config, out) as given:
            merges.write(given, out)
    distributed.wait(f"the model of stage {name}")
    data = open_data(last.stage.data)
    parts = {"dev": data.dev, "test": data.test}
    sets = {title: one for title, one in parts.items() if one is not None}
    results, sizes = _measured(last, out, sets)
    if distributed.first():
        card = out / "README.md"
        text = card.read_text(encoding="utf-8")
        files.write_text(card, f"{text}\n{report.card(results, sizes)}".rstrip() + "\n")
        prints = {title: run.facts(one)["fingerprint"] for title, one in sets.items()}
        found = {"step": 0, "results": results, "sizes": sizes, "sets": prints}
        report.finish(logs, found)
    distributed.wait(f"the end of stage {name}")


def _with_paths(merge: Merge, before: Sequence[Resolved]) -> Merge:
    """Models in place of stages."""
    known = {one.name: one for one in before}
    if merge.last is not None:
        checkpoints = known[merge.models[0]].folder / "checkpoints"
        models = tuple(steps.last_of(checkpoints, merge.last))
    else:
        models = tuple(
            str(known[model].model) if model in known else model
            for model in merge.models
        )
    base = str(known[merge.base].model) if merge.base in known else merge.base
    return dataclasses.replace(merge, models=models, base=base, last=None)


def _measured(
    last: Resolved, out: Path, sets: dict[str, Measured]
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, str]]:
    """Scores of the merged model beside those of the last stage, and sizes of sets."""
    open_model = reranker.open_model if kinds.kind(out) == "reranker" else None
    model, read = (open_model or opened.open_model)(str(out))
    mesh = make_mesh(last.stage.mesh)
    stage = dataclasses.replace(last.stage, model=model.config)
    learner = make_learner(stage, model.tokenizer, mesh)
    params = read(mesh)
    before = read_json(last.logs / report.RESULTS)["results"]
    results = {}
    for title, one in sets.items():
        own = list(before.get(title, {}).values())
        results[title] = {
            f"after {last.name}": own[1] if len(own) > 1 else {},
            "after merging": learner.score(params, one),
            **distributed.share("baseline", functools.partial(baseline, one)),
        }
    return results, {title: size(one) for title, one in sets.items()}
