"""Stages that train: from data to an exported, evaluated model."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import jax
from jax.sharding import Mesh

from m3jax.core import config as configs
from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh, shardings
from m3jax.core.types import Params
from m3jax.data import batching, overlap, tokenize
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import Data, open_data
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.data.words import stand_in, word_starts
from m3jax.hub.digest import digest
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.encoder import SHARDING
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import fit, report, run, trained
from m3jax.pipeline.build import begin, build
from m3jax.pipeline.learner import Learner, Measured, baseline, make_learner, size
from m3jax.pipeline.merges.stage import check_again, check_merge, run_merge
from m3jax.pipeline.origin import (
    Origin,
    check_prompts,
    choose_tokenizer,
    open_origin,
    overruled,
)
from m3jax.pipeline.stage import Stage, Train
from m3jax.pipeline.stages import Resolved, resolve, split
from m3jax.pipeline.teacher import check_teacher
from m3jax.training.objectives.make import check_objective, masks_words
from m3jax.training.optimizer import check_optimizer
from m3jax.training.writer import check_wandb, read

T = TypeVar("T")


def run_stages(
    stages: Mapping[str, Stage],
    folder: Path,
    *,
    fresh: bool = False,
    profile: tuple[int, int] | None = None,
) -> None:
    """Train, or go on training, until the run folder holds a finished model.

    Each stage goes on from the model of the one before; one that is finished is not
    run again. All are checked, and their data opened, before anything is written. The
    last one may merge what the others came to.

    Several processes (see `core.distributed`) all call this. They read the same data
    and share the run folder, in which the first one writes; of the checkpoints, every
    process writes its part.

    Args:
        stages: name -> config, in their order.
        folder: the run folder.
        fresh: start anew, whatever is there.
        profile: first and last step that are traced, of every stage.

    Raises:
        InputError: config, data and run folder do not fit together, in one process or
            between them; or a loss is not finite.
        OSError: the run folder cannot be written to.
    """
    if jax.process_count() != distributed.count():
        raise InputError(
            "processes that jax.distributed.initialize has joined",
            f"{jax.process_count()} processes that have not met",
            where="jax.distributed",
        )
    trains, merge = split(stages)
    found = resolve(trains, folder, then=0 if merge is None else 1)
    if merge is not None:
        check_merge(*merge, found)
    _check_profile(trains, profile)
    for one in found if distributed.first() else ():
        goes_on = one.origin is not None or one.parent is not None
        if goes_on and (told := overruled(trains[one.name], one.stage)):
            name = "" if len(found) == 1 else f"{one.name}: "
            whose = one.parent or one.stage.init
            said = f"{name}{whose} decides, and not the config: {', '.join(told)}"
            print(said, file=sys.stderr)
    # Of a model to go on from, what it is and not what the config would have made.
    config = {one.name: configs.to_dict(one.stage) for one in found}
    if merge is not None:
        config[merge[0]] = configs.to_dict(merge[1])
    begun = run.has_begun(folder)
    # What is merged in the end decides nothing before it.
    later = [] if merge is None else [merge[0]]
    run.check_folder(folder, config, fresh=fresh or not begun, later=later)
    if merge is not None and begun and not fresh:
        check_again(*merge, folder)
    # Nothing is lost where nothing was trained, under whatever config.
    fresh = fresh or not begun
    meshes = {one.name: _at(one, found, _check) for one in found}
    left = [one for one in found if fresh or not report.is_finished(one.logs)]
    data = {one.name: _at(one, found, _open) for one in left}
    lineage = {
        one.name: run.describe(data[one.name], one.parent or one.stage.init)
        for one in left
    }
    if merge is not None:
        lineage[merge[0]] = {"parent": list(merge[1].models), "data": {}}
    facts = {"data": {name: each["data"] for name, each in lineage.items()}}
    facts = {"stages that are not finished": list(lineage), **configs.flatten(facts)}
    distributed.require_same(
        configs.flatten(config) | facts,
        do="All processes need the same command, the same files and one run folder.",
    )
    if distributed.first():
        with run.locked(folder):  # not from under another program
            weights = {
                one.name: functools.partial(digest, str(one.stage.init))
                for one in left
                if one.origin is not None
            }
            run.open_folder(folder, config, lineage, fresh=fresh, weights=weights)
    distributed.wait("the run folder")
    run.require_shared(folder)
    with run.locked(folder):
        for one in found:
            if one not in left:
                what = folder if len(stages) == 1 else f"{folder}: stage {one.name}"
                told = f"{what} is finished; --fresh starts it anew."
                print(told, flush=True)
                continue
            if len(stages) > 1:
                print(f"stage {one.name}", flush=True)
            later = [
                (other, data[other.name], meshes[other.name])
                for other in (left[1:] if one is left[0] else [])
            ]
            _train(one, data[one.name], meshes[one.name], found, profile, later)
        logs = {one.name: one.logs for one in found}
        if merge is not None:
            logs[merge[0]] = folder / merge[0]
            run_merge(*merge, found, folder)
        if distributed.first() and len(logs) > 1:
            report.summarize(folder, logs)
    if distributed.first():
        reranks = isinstance(found[-1].stage.model, RerankerConfig)
        report.show(folder, logs, reranks=reranks)


def _check_profile(
    stages: Mapping[str, Train], profile: tuple[int, int] | None
) -> None:
    """Refuse a trace of steps that no stage has, as far as their number is known."""
    counted = all(x.epochs is None and x.examples is None for x in stages.values())
    most = max(one.steps for one in stages.values())
    if profile is not None and counted and profile[0] > most:
        raise InputError(
            f"some of the steps 1 to {most}",
            f"{profile[0]}:{profile[1]}",
            where="--profile",
        )


def _at(one: Resolved, stages: list[Resolved], do: Callable[[Resolved], T]) -> T:
    """Do something with a stage, whose errors name it where it is not the only one."""
    try:
        return do(one)
    except InputError as error:
        raise error if len(stages) == 1 else error.at(one.name) from None


def _check(one: Resolved) -> Mesh:
    """Refuse what shows without data; returns the mesh of the stage."""
    stage = one.stage
    mesh = make_mesh(stage.mesh)
    # The tokenizer may not be there yet.
    words = stand_in(stage.model.encoder.vocab_size)
    objective, start = begin(stage, mesh, words)
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), None))
    check_objective(objective, start, mesh, stage.sub_batches)
    shardings(mesh, shapes, SHARDING)  # the mesh divides every parameter
    check_optimizer(shapes, trained.optimizer(stage))
    build(stage, mesh, words, steps=2)  # nor does it leave a rest of anything else
    check_wandb(stage.wandb)
    if stage.teacher.model:
        check_teacher(stage)
    batching.check_sizes(stage.data, batch_shards(mesh) * stage.sub_batches.count)
    return mesh


def _open(one: Resolved) -> Data:
    data = open_data(one.stage.data)
    fit.check_data(one.stage, data)
    if distributed.first():
        # What is shipped has dev and test sets of its own, apart from the training set.
        own = tuple(each for each in data.sets if each.config.path != "builtin")
        found = overlap.count_overlap(dataclasses.replace(data, sets=own))
        if one.stage.data.dev is None:  # held out by queries, which may share a passage
            found.pop("dev", None)
        for line in overlap.told(found):
            print(line, file=sys.stderr)
    if one.parent is None:
        _check_tokenizer(one)
    return data


def _check_tokenizer(one: Resolved) -> None:
    """Refuse, before anything is written, a tokenizer that does not do."""
    stage, own = one.stage, one.stage.tokenizer.pretrained
    found = None if one.origin is None else one.origin.tokenizer
    if found is None and own is not None:
        found = tokenize.load(own)
    masks = masks_words(stage.objective)
    if found is not None:
        check_prompts(stage, found)
        if masks:
            word_starts(found)
    elif masks and not stage.tokenizer.mask:
        raise InputError(
            f"True, because {type(stage.objective).__name__} masks words",
            "False",
            where="tokenizer.mask",
        )


def _train(
    one: Resolved,
    data: Data,
    mesh: Mesh,
    stages: list[Resolved],
    profile: tuple[int, int] | None,
    later: Sequence[tuple[Resolved, Data, Mesh]],
) -> None:
    origin = one.origin
    if one.parent is not None:
        parent = next(other for other in stages if other.name == one.parent)
        given = dataclasses.replace(
            one.stage, init=str(parent.model), tokenizer=TokenizerConfig()
        )
        origin = open_origin(given)
    tokenizer = _tokenizer(one.stage, data, one.folder / "tokenizer", origin)
    check_prompts(one.stage, tokenizer)
    _check_later(tokenizer, origin, later)
    stage = _with_tokenizer(one.stage, tokenizer, origin)
    learner = _agreeing(make_learner(stage, tokenizer, mesh))
    sets = {"dev": data.dev, "test": data.test}
    measured = {name: each for name, each in sets.items() if each is not None}

    def fitted(one: Resolved) -> tuple[int, Params]:
        return fit.fit(
            stage,
            data,
            learner,
            tokenizer,
            mesh,
            logs=one.logs,
            folder=one.folder,
            given=None if origin is None else origin.read,
            profile=profile,
        )

    step, params = _at(one, stages, fitted)
    lines = read(one.logs) if distributed.first() else []
    results = {
        name: {
            "before training": report.scores_at(lines, name, step=0),
            f"after training (step {step})": learner.score(params, each),
            **distributed.share("baseline", functools.partial(baseline, each)),
        }
        for name, each in measured.items()
    }
    sizes = {name: size(each) for name, each in measured.items()}
    learner.save(params, one.model, report.card(results, sizes))
    histogram = None
    if measured:
        histogram = learner.histogram(params, list(measured.values())[-1])
    if distributed.first():
        report.plot(one.logs, histogram, lines=lines, selected=step)
        # Last of all: it says that everything else is there.
        sets = {name: run.facts(each)["fingerprint"] for name, each in measured.items()}
        found = {"step": step, "results": results, "sizes": sizes, "sets": sets}
        report.finish(one.logs, found)
    distributed.wait(f"the end of stage {one.name}")


def _check_later(
    tokenizer: Tokenizer,
    origin: Origin | None,
    later: Sequence[tuple[Resolved, Data, Mesh]],
) -> None:
    """Refuse later stages that do not fit into memory, before the first is trained."""
    for one, data, mesh in later:
        if one.origin is not None:
            origin, tokenizer = one.origin, one.origin.tokenizer
        elif one.parent is None:
            return  # its tokenizer is made when its turn comes
        stage = _with_tokenizer(one.stage, tokenizer, origin)
        learner = make_learner(stage, tokenizer, mesh)
        try:
            fit.check_later(stage, data, learner, tokenizer, mesh)
        except InputError as error:
            raise error.at(one.name) from None


def _agreeing(learner: Learner) -> Learner:
    """Its scores in all processes those of the first: they decide what is done next."""

    def score(params: Params, data: Measured) -> dict[str, float]:
        found = learner.score(params, data)
        return distributed.share("scores", lambda: found)

    return dataclasses.replace(learner, score=score)


def _with_tokenizer(stage: Train, tokenizer: Tokenizer, origin: Origin | None) -> Train:
    """The model as large as the tokenizer's vocabulary, or as that which it goes on."""
    model = stage.model
    encoder = dataclasses.replace(model.encoder, vocab_size=tokenizer.vocab_size)
    if origin is not None:
        size = origin.config.encoder.vocab_size
        encoder = dataclasses.replace(model.encoder, vocab_size=size)
    model = dataclasses.replace(model, encoder=encoder)
    if isinstance(model, EmbeddingConfig) and model.sparse and not model.special_ids:
        model = dataclasses.replace(model, special_ids=tokenizer.special_ids)
    return dataclasses.replace(stage, model=model)


def _tokenizer(
    stage: Train, data: Data, folder: Path, origin: Origin | None
) -> Tokenizer:
    """The tokenizer of this stage; the first start makes it, later ones open it."""
    if distributed.first() and not folder.exists():
        if origin is None and stage.tokenizer.pretrained is None:
            size = stage.tokenizer.vocab_size
            print(f"trains a tokenizer of up to {size:,} pieces", file=sys.stderr)
        made = choose_tokenizer(stage, data, origin)
        with files.new_folder(folder) as temporary:
            longest = max(stage.data.query_length, stage.data.passage_length)
            tokenize.save(made, temporary, max_length=longest)
    distributed.wait("the tokenizer")
    found = tokenize.load(folder)
    content = found.backend.to_str().encode()
    digest = blake2b(content, digest_size=8).hexdigest()
    distributed.require_same({f"tokenizer in {folder}": digest})
    return found
