"""The training of one stage, from its first or its last checkpoint."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from m3jax.core import config as configs
from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, batch_shards
from m3jax.core.types import Batch, Params
from m3jax.data import batching, pipeline
from m3jax.data.batches import Batcher
from m3jax.data.examples import TrainingSet
from m3jax.data.plan import Plan, first_of_each
from m3jax.data.records import Similarity
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import Data, measure
from m3jax.data.words import word_starts
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import counting
from m3jax.pipeline.build import Built, build
from m3jax.pipeline.learner import Learner, selects
from m3jax.pipeline.memory import check_memory, compiled_within
from m3jax.pipeline.stage import Train, steps_of
from m3jax.pipeline.teacher import open_teacher
from m3jax.training import preemption
from m3jax.training.ahead import memory_limit
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.loop import Loop, train
from m3jax.training.objectives.contrastive import ContrastiveConfig
from m3jax.training.objectives.make import masks_words, reads_of
from m3jax.training.objectives.reranking import RerankingConfig
from m3jax.training.objectives.unified import UnifiedConfig
from m3jax.training.state import new_state
from m3jax.training.writer import Silent, Writer


def check_data(stage: Train, data: Data) -> None:
    """Refuse data that the objective would read as something else.

    Args:
        stage: the config.
        data: its data, opened.

    Raises:
        InputError: names the data set.
    """
    for name, one in (("dev", data.dev), ("test", data.test)):
        if isinstance(stage.model, RerankerConfig) and isinstance(one, Similarity):
            raise InputError(
                "queries and passages to put into order, as a BEIR folder",
                "graded pairs",
                where=f"data.{name}",
            )
    if stage.patience and data.dev is None:
        raise InputError(
            "a dev set, whose scores say when to stop",
            "none",
            where="patience",
            do="Give one with data.dev; only pairs can be held out of training data.",
        )
    taught = ContrastiveConfig | UnifiedConfig | RerankingConfig
    for one in data.sets:
        if one.config.teacher_scores and not isinstance(stage.objective, taught):
            raise InputError(
                "no teacher_scores, which this objective does not read",
                "True",
                where=f"{one.name}: teacher_scores",
            )
    contrasts = isinstance(stage.objective, ContrastiveConfig)
    for one in data.sets:
        if one.scan.kind == "scored" and not contrasts:
            raise InputError(
                "pairs, texts or labels: this objective knows no grades",
                "graded pairs",
                where=one.name,
                do="The contrastive objective trains them with CoSENT; "
                "--data.reading.columns names two columns to read as pairs.",
            )


def planned(path: Path) -> dict[str, Any]:
    """What the first start planned; nothing where this is the first."""
    if not distributed.share("plan.json", path.exists):
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def check_plan(path: Path, plan: Plan, beside: Mapping[str, int]) -> None:
    """Keep what the first start planned; refuse to go on with other batches.

    Several processes have to have planned the same.

    Args:
        path: where it is kept.
        plan: of this start.
        beside: what else has to stay: name -> number.

    Raises:
        InputError: with what differs.
    """
    now = json.loads(json.dumps({**plan.facts(), **beside}))
    do = "It follows from the data: see that all processes read the same files."
    distributed.require_same({f"batches, {k}": x for k, x in now.items()}, do=do)
    if old := planned(path):
        if rows := configs.difference(old, now):
            raise InputError(
                "the batches that this run began with",
                f"a change of {'; '.join(rows)}",
                where=str(path),
                do="Sizes of a preset and of batch_tokens go by the devices: go on "
                "with a number (data x fsdp) that divides them, or start the run anew "
                "with --fresh.",
            )
    elif distributed.first():
        files.write_text(path, json.dumps(now, indent=2) + "\n")


def by_devices(stage: Train, mesh: Mesh) -> dict[str, int]:
    """Devices, where the loss goes by their number, as FlagEmbedding's does.

    Example:
        >>> from m3jax.core.mesh import make_mesh
        >>> by_devices(Train(), make_mesh(Train().mesh))
        {}
    """
    objective = stage.objective
    if not isinstance(objective, UnifiedConfig) or objective.compat == "none":
        return {}
    return {f"data x fsdp, because of compat {objective.compat}": batch_shards(mesh)}


def _as_it_is(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True)
class _Made:
    """What follows from a stage, its data and its tokenizer."""

    sets: tuple[TrainingSet, ...]
    plan: Plan
    steps: int
    built: Built


def _make(
    stage: Train,
    data: Data,
    learner: Learner,
    tokenizer: Tokenizer,
    mesh: Mesh,
    sizes: Sequence[int] | None = None,
) -> _Made:
    reads, pairing = reads_of(stage.objective), learner.pairing
    sets = measure(stage.data, data, tokenizer, reads=reads, pairing=pairing)
    multiple = batch_shards(mesh) * stage.sub_batches.count
    plan = batching.make_plan(
        stage.data, sets, seed=stage.seed, multiple=multiple, sizes=sizes
    )
    steps = steps_of(stage, plan)
    if (warmup := stage.optimizer.warmup_steps or 0) > steps:
        raise InputError(
            f"at most the {steps:,} updates that the data makes",
            f"{warmup:,}",
            where="optimizer.warmup_steps",
            do="A share of them, whatever they are, is optimizer.warmup.",
        )
    words = word_starts(tokenizer) if masks_words(stage.objective) else None
    return _Made(sets, plan, steps, build(stage, mesh, words, steps))


def check_later(
    stage: Train, data: Data, learner: Learner, tokenizer: Tokenizer, mesh: Mesh
) -> None:
    """Refuse, before an earlier stage is trained, one that will not fit into memory.

    Args:
        stage: the config, in the shape of its model.
        data: its data.
        learner: its model.
        tokenizer: that it will have.
        mesh: the devices.

    Raises:
        InputError: a shape of its batches that does not fit.
    """
    limit = memory_limit()
    if limit is None:
        return
    made = _make(stage, data, learner, tokenizer, mesh)
    lasting = made.plan.lasting(made.steps)
    batcher = Batcher(
        made.sets,
        lasting,
        tokenizer,
        {size: pipeline.local_rows(mesh, size) for size in set(lasting.sizes)},
        reads_of(stage.objective),
        learner.pairing,
    )

    def shaped(number: int) -> Batch:
        batch = pipeline.on_devices(batcher(number), batch_sharding(mesh))
        if stage.teacher.model:
            there = batch.where
            batch = dataclasses.replace(batch, teacher_scores=there.astype("float32"))
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), batch
        )

    batches = [shaped(x) for x in first_of_each(lasting, 0, made.steps)]
    check_memory(stage, made.built.step, made.built.like, batches, mesh, limit)


def fit(
    stage: Train,
    data: Data,
    learner: Learner,
    tokenizer: Tokenizer,
    mesh: Mesh,
    *,
    logs: Path,
    folder: Path,
    given: Callable[[Mesh], Params] | None,
    profile: tuple[int, int] | None = None,
) -> tuple[int, Params]:
    """Train from the last checkpoint, or from the start.

    Args:
        stage: the config, in the shape of its model.
        data: its data.
        learner: its model.
        tokenizer: of the model.
        mesh: the devices.
        logs: folder of metrics.
        folder: of checkpoints.
        given: reads the parameters to go on from; None = random ones.
        profile: first and last step of a trace.

    Returns:
        The step that the dev set selects, and its parameters, without what was trained
        beside the model.
    """
    reads, pairing = reads_of(stage.objective), learner.pairing
    teacher = open_teacher(stage, mesh)
    ready = _as_it_is if teacher is None else teacher.score
    begun = planned(folder / "plan.json")
    made = _make(stage, data, learner, tokenizer, mesh, begun.get("sizes"))
    sets, plan, steps, built = made.sets, made.plan, made.steps, made.built
    check_plan(folder / "plan.json", plan, by_devices(stage, mesh))
    dev = data.dev
    metric = None if dev is None else f"dev/{selects(dev, stage.objective)}"
    checkpoints = Checkpoints(folder / "checkpoints", metric, stage.checkpoints)
    if distributed.first():
        count = sum(x.size for x in jax.tree.leaves(built.like.params))
        print(
            f"parameters: {count:,}, devices: {mesh.size}, updates: {steps:,}, "
            f"shapes of batches to compile: {len(plan.shapes)}",
            flush=True,  # before what is said on stderr later, in a log too
        )
    state = checkpoints.restore_last(built.like)
    if state is None:
        if begun and distributed.first():
            print("nothing was saved yet: begins again", flush=True)
        params = None if given is None else given(mesh)
        state = new_state(
            built.start,
            built.objective,
            built.tx,
            built.like,
            stage.seed,
            params=params,
        )
        del params
    first = int(state.step)
    if first and distributed.first():
        print(f"goes on from step {first} of {steps}", flush=True)
    batcher = Batcher(
        sets,
        plan.lasting(steps),
        tokenizer,
        {size: pipeline.local_rows(mesh, size) for size in set(plan.sizes)},
        reads,
        pairing if teacher is None else teacher.pairing,
    )
    step = compiled_within(
        stage,
        built.step,
        state,
        batcher,
        mesh,
        start=first,
        stop=steps,
        ready=ready,
        beside=0 if teacher is None else teacher.held,
    )
    evaluated = first == 0 or metric is None or bool(checkpoints.results(first))
    writer = Silent()
    if distributed.first():
        writer = Writer(logs, first, evaluated=evaluated, wandb=stage.wandb)
    if first == 0:
        scored = {"dev": dev, "test": data.test}
        for name, one in scored.items():
            if one is not None:
                found = learner.score(state.params, one)
                writer.write(0, {f"{name}/{key}": x for key, x in found.items()})
    stream = pipeline.Stream(
        batcher, mesh, start=first, stop=steps, workers=stage.data.workers
    )
    evaluators = {}
    if dev is not None:
        evaluators["dev"] = lambda params, step: learner.score(params, dev)
    loop = Loop(
        steps=steps,
        evaluate_every=stage.evaluate_every,
        about={"config": configs.to_dict(stage)},
        checkpoint_every=stage.checkpoint_every,
        patience=stage.patience,
        folder=folder,
        profile=profile,
        flops_per_step=counting.of_batches(stage, mesh, reads),
        peak_flops=counting.peak(mesh),
    )
    with preemption.watch() as stop:
        # Whatever happens, the workers end before this process does.
        with contextlib.closing(stream), contextlib.closing(writer):
            end = train(
                state,
                step,
                map(ready, stream),
                loop,
                evaluators=evaluators,
                checkpoints=checkpoints,
                writer=writer,
                stop=stop,
            )
            if end.reason == "preempted":
                writer.flush()
                preemption.leave(int(end.state.step))
        best, params = checkpoints.restore_best(end.state)
        checkpoints.close()
    beside = jax.eval_shape(built.objective.auxiliary, jax.random.key(0))
    return best, {name: x for name, x in params.items() if name not in beside}
