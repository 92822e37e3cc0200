"""The stage that trains: from data to an exported, evaluated model."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
from jax.sharding import Mesh

from m3jax.core import config as configs
from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh, shardings
from m3jax.core.types import Params
from m3jax.data import batching, pipeline, tokenize
from m3jax.data.batches import Batcher
from m3jax.data.plan import Plan
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import Data, measure, open_data
from m3jax.evaluation import bm25, retrieval
from m3jax.hub.folder import Model, save
from m3jax.nn import lora
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.nn.lora import LoraConfig
from m3jax.pipeline import report, run
from m3jax.pipeline.origin import Origin, check_prompts, choose_tokenizer, open_origin
from m3jax.pipeline.stage import Train, check, steps_of
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.loop import Loop, train
from m3jax.training.objectives.make import (
    check_objective,
    make_objective,
    trained_heads,
)
from m3jax.training.optimizer import (
    all_but,
    check_trainable,
    make_optimizer,
    make_schedule,
)
from m3jax.training.state import abstract_state, new_state, starting
from m3jax.training.step import make_step
from m3jax.training.writer import Writer, read

STAGE = "train"
SELECTS = "dev/ndcg@10"

Score = Callable[[Params, Retrieval], dict[str, float]]


def run_train(stage: Train, folder: Path, *, fresh: bool = False) -> None:
    """Train, or go on training, until the run folder holds a finished model.

    Args:
        stage: the config.
        folder: the run folder.
        fresh: start anew, whatever is there.

    Raises:
        InputError: config, data and run folder do not fit together, or the loss is
            not finite.
        OSError: the run folder cannot be written to.
    """
    if jax.process_count() > 1:
        raise InputError(
            "one process with all devices",
            f"{jax.process_count()} processes",
            where="jax.distributed",
            do="Training on several hosts is not there yet.",
        )
    stage, origin = open_origin(stage)
    check(stage)
    # Of a model to go on from, what it is and not what the config would have made.
    config = {STAGE: configs.to_dict(stage)}
    run.check_folder(folder, config, fresh=fresh)
    mesh = make_mesh(stage.mesh)
    module = EmbeddingModule(stage.model)
    objective = make_objective(stage.objective, module, mesh, stage.sub_batches)
    start = starting(module, _pairs(stage), auxiliary=objective.auxiliary)
    check_objective(objective, start, mesh)
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), None))
    shardings(mesh, shapes, SHARDING)  # the mesh divides every parameter
    check_trainable(shapes, _trainable(stage))
    batching.check_sizes(stage.data, _multiple(stage, mesh))
    data = open_data(stage.data)
    _check_objective(data)
    if stage.init is None and stage.tokenizer.pretrained is not None:
        tokenize.load(stage.tokenizer.pretrained)  # it is there, before we write
    run.open_folder(folder, config, run.describe(data), fresh=fresh)
    if report.is_finished(folder):
        print(f"{folder} is finished; --fresh starts it anew.")
    else:
        _train(stage, data, mesh, folder, origin)
    report.show(folder)


def _pairs(stage: Train) -> LoraConfig | None:
    return stage.lora if stage.lora.rank else None


def _trainable(stage: Train) -> str:
    """What is trained: by the config, else low-rank pairs, else what the loss sees."""
    if stage.optimizer.trainable:
        return stage.optimizer.trainable
    if stage.lora.rank:
        return lora.TRAINABLE
    # Heads without a gradient would only decay.
    trained = trained_heads(stage.objective)
    return all_but([name for name in stage.model.outputs if name not in trained])


def _train(
    stage: Train, data: Data, mesh: Mesh, folder: Path, origin: Origin | None
) -> None:
    tokenizer = _tokenizer(stage, data, folder / STAGE / "tokenizer", origin)
    encoder, config = stage.model.encoder, stage.model
    if origin is None:
        encoder = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size)
        special = tokenizer.special_ids if config.sparse else ()
        config = dataclasses.replace(config, encoder=encoder, special_ids=special)
    check_prompts(stage, tokenizer)
    module = EmbeddingModule(config)
    search = functools.partial(
        retrieval.dense,
        module,
        tokenizer=tokenizer,
        prompts=stage.data.prompts,
        query_length=stage.data.query_length,
        passage_length=stage.data.passage_length,
        mesh=mesh,
    )

    def score(params: Params, data: Retrieval) -> dict[str, float]:
        return retrieval.measure(search(params, data=data), data.qrels)

    sets = {"dev": data.dev, "test": data.test}
    measured = {name: one for name, one in sets.items() if one is not None}
    given = None if origin is None else origin.read
    step, params = _fit(stage, data, module, tokenizer, mesh, folder, score, given)
    lines = read(folder)
    results = {
        name: {
            "before training": report.scores_at(lines, name, step=0),
            f"after training (step {step})": score(params, one),
            "BM25": retrieval.measure(bm25.search(one), one.qrels),
        }
        for name, one in measured.items()
    }
    model = Model(
        config,
        params,
        tokenizer,
        max_length=max(stage.data.query_length, stage.data.passage_length),
        prompts=stage.data.prompts,
    )
    sizes = {
        name: f"{len(one.queries):,} queries, {len(one.corpus):,} passages"
        for name, one in measured.items()
    }
    save(model, folder / "model", card=report.card(results, sizes))
    report.plot(folder, model, measured, lines=lines, selected=step, mesh=mesh)
    # Last of all: it says that everything else is there.
    report.finish(folder, {"step": step, "results": results, "sizes": sizes})


def _tokenizer(
    stage: Train, data: Data, folder: Path, origin: Origin | None
) -> Tokenizer:
    """The tokenizer of this run; the first start makes it, later ones open it."""
    if not folder.exists():
        made = choose_tokenizer(stage, data, origin)
        with files.new_folder(folder) as temporary:
            longest = max(stage.data.query_length, stage.data.passage_length)
            tokenize.save(made, temporary, max_length=longest)
    return tokenize.load(folder)


def _check_objective(data: Data) -> None:
    """Refuse what the contrastive loss would read as something else."""
    for one in data.sets:
        if one.scan.kind == "scored":
            raise InputError(
                "pairs, texts or labels: the contrastive loss knows no scores",
                "graded pairs",
                where=one.name,
                do="--data.reading.columns names two columns to read as pairs.",
            )
        if one.config.teacher_scores:
            raise InputError(
                "no teacher_scores: the contrastive loss has no teacher",
                "some",
                where=one.name,
            )


def check_plan(path: Path, plan: Plan) -> None:
    """Keep what the first start planned; refuse to go on with other batches.

    Args:
        path: where it is kept.
        plan: of this start.

    Raises:
        InputError: with what differs.
    """
    now = json.loads(json.dumps(plan.facts()))
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if rows := configs.difference(old, now):
            raise InputError(
                "the batches that this run began with",
                f"a change of {'; '.join(rows)}",
                where=str(path),
                do="A preset and batch_tokens depend on the number of devices: use the "
                "same, or start the run anew with --fresh.",
            )
    else:
        files.write_text(path, json.dumps(now, indent=2) + "\n")


def _multiple(stage: Train, mesh: Mesh) -> int:
    """What the queries of a batch have to be a multiple of."""
    return batch_shards(mesh) * stage.sub_batches.count


def _fit(
    stage: Train,
    data: Data,
    module: EmbeddingModule,
    tokenizer: Tokenizer,
    mesh: Mesh,
    folder: Path,
    score: Score,
    given: Callable[[Mesh], Params] | None,
) -> tuple[int, Params]:
    """Train from the last checkpoint, or from the start; returns what dev selects."""
    objective = make_objective(stage.objective, module, mesh, stage.sub_batches)
    start = starting(module, _pairs(stage), auxiliary=objective.auxiliary)
    trainable = _trainable(stage)
    optimizer = dataclasses.replace(stage.optimizer, trainable=trainable)
    sets = measure(stage.data, data, tokenizer)
    plan = batching.make_plan(
        stage.data, sets, seed=stage.seed, multiple=_multiple(stage, mesh)
    )
    check_plan(folder / STAGE / "plan.json", plan)
    steps = steps_of(stage, plan)
    tx = make_optimizer(optimizer, steps)
    schedule = make_schedule(stage.optimizer, steps)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    dev = data.dev
    checkpoints = Checkpoints(folder / STAGE / "checkpoints", SELECTS if dev else None)
    state = checkpoints.restore_last(like)
    if state is None:
        params = None if given is None else given(mesh)
        state = new_state(start, objective, tx, like, stage.seed, params=params)
        del params
    first = int(state.step)
    writer = Writer(folder, first)
    if first == 0:
        scored = {"dev": dev, "test": data.test}
        for name, one in scored.items():
            if one is not None:
                found = score(state.params, one)
                writer.write(0, {f"{name}/{key}": x for key, x in found.items()})
    stream = pipeline.Stream(
        Batcher(
            sets,
            plan.lasting(steps),
            tokenizer,
            {size: pipeline.local_rows(mesh, size) for size in set(plan.sizes)},
        ),
        mesh,
        start=first,
        stop=steps,
        workers=stage.data.workers,
    )
    # Whatever happens, the workers end before this process does.
    with contextlib.closing(stream), contextlib.closing(writer):
        state = train(
            state,
            make_step(objective, tx, schedule, mesh, like, trainable=trainable),
            stream,
            Loop(
                steps=steps,
                evaluate_every=stage.evaluate_every,
                about={"config": configs.to_dict(stage)},
            ),
            evaluators=(
                {} if dev is None else {"dev": lambda params, step: score(params, dev)}
            ),
            checkpoints=checkpoints,
            writer=writer,
        )
    selected = checkpoints.restore_best(state)
    checkpoints.close()
    return selected
