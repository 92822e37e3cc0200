"""The stage of a run that merges what the stages before it came to."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from m3jax.core import config as configs
from m3jax.core import distributed, files, tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.data.training_sets import open_data
from m3jax.hub import kind as kinds
from m3jax.hub import opened, reranker
from m3jax.hub.layout import read_json
from m3jax.pipeline import report, run, trained
from m3jax.pipeline.learner import Measured, baseline, make_learner, size
from m3jax.pipeline.merges import run as merges
from m3jax.pipeline.merges import steps
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.recipe import check_names, make_recipe
from m3jax.pipeline.stage import Train
from m3jax.pipeline.stages import Resolved
from m3jax.training.state import starting


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
                there = steps.model_of(model) if steps.is_step(model) else model
                kinds.kind(there)
        if merge.last is not None:
            stage = known.get(merge.models[0]) if len(merge.models) == 1 else None
            if stage is None:
                expected = f"one of the stages {', '.join(known)}"
                raise InputError(expected, ", ".join(merge.models), where="last")
            _check_last(stage, merge.last)
        _check_shapes(merge, known)
    except InputError as error:
        raise error.at(name) from None


def check_again(name: str, merge: Merge, folder: Path) -> None:
    """Refuse another merge where one is finished.

    Args:
        name: of the stage.
        merge: its config.
        folder: of the run.

    Raises:
        InputError: the one that is finished had other values.
    """
    if not report.is_finished(folder / name):
        return
    old = read_json(folder / "config.json").get(name)
    rows = configs.difference(old, configs.to_dict(merge), name)
    if rows:
        raise InputError(
            "the config of the merge that is finished",
            f"other values of {'; '.join(rows)}",
            where=str(folder),
            do=f"Remove {folder / name} to merge anew; what was trained stays.",
        )


def _check_last(one: Resolved, last: int) -> None:
    """Refuse a stage that will not have so many checkpoints."""
    stage = one.stage
    kept = stage.checkpoints.keep_last
    if kept < last:
        expected = f"checkpoints.keep_last of {last} or more, for last"
        raise InputError(expected, f"{kept}", where=one.name)
    if stage.epochs is None and stage.examples is None:
        every = (stage.evaluate_every, stage.checkpoint_every or stage.evaluate_every)
        count = sum(
            step == stage.steps or any(step % each == 0 for each in every)
            for step in range(1, stage.steps + 1)
        )
        if count < last:
            expected = f"{last} checkpoints or more in {stage.steps} steps, for last"
            do = "evaluate_every and checkpoint_every say when one is written."
            raise InputError(expected, f"{count}", where=one.name, do=do)


def _check_shapes(merge: Merge, known: Mapping[str, Resolved]) -> None:
    """Refuse stages of other shapes, and regexes that are found in no name."""
    stages = {name: known[name].stage for name in merge.models if name in known}
    if not stages:
        return
    (name, first), *others = stages.items()
    for other, stage in others:
        rows = configs.difference(_encoder(first), _encoder(stage))
        if rows:
            found = f"other values of {'; '.join(rows)}"
            raise InputError(f"the architecture of {name}", found, where=other)
    if name != merge.models[0]:
        return
    start = starting(trained.module(first))
    shapes = tree.paths(jax.eval_shape(lambda: start(jax.random.key(0), None)))
    names = [x for path, y in shapes.items() for x in tree.published(path, y.shape)]
    recipe = make_recipe(merge, merge.last or len(merge.models))
    check_names(merge, recipe, names)


def _encoder(stage: Train) -> dict[str, Any]:
    """What decides names and shapes; the vocabulary may not be there yet."""
    encoder = configs.to_dict(stage.model)["encoder"]
    free = ("dtype", "remat", "dropout", "vocab_size")
    return {name: value for name, value in encoder.items() if name not in free}


def run_merge(
    name: str, merge: Merge, before: Sequence[Resolved], folder: Path
) -> None:
    """Merge, measure and report, unless that has been done.

    Of several processes the first one merges; all measure.

    Args:
        name: of the stage.
        merge: its config; names of stages stand for their models.
        before: the stages that train, which have ended.
        folder: of the run, whose model this is.

    Raises:
        InputError: the models cannot be merged.
        OSError: the run folder cannot be written to.
    """
    logs = folder / name
    if report.is_finished(logs):
        print(f"{folder}: stage {name} is finished; --fresh starts it anew.")
        return
    print(f"stage {name}")
    logs.mkdir(parents=True, exist_ok=True)
    out, last = folder / "model", before[-1]
    if distributed.first():
        config = _with_paths(merge, before)
        try:
            with merges.opened(config, out) as given:
                merges.write(given, out)
        except InputError as error:
            raise error.at(name) from None
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
