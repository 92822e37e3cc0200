"""The stage that trains: from data to an exported, evaluated model."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax
from jax.sharding import Mesh

from m3jax.core import config as configs
from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh, shardings
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Params
from m3jax.data import batches, pipeline, tokenize, vocabulary
from m3jax.data.pipeline import Data, DataConfig
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.evaluation import bm25, retrieval
from m3jax.hub.folder import Model, open_model, save
from m3jax.losses.contrastive import BLOCKS
from m3jax.nn import lora
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.nn.lora import LoraConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.pipeline import report, run
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.loop import Loop, train
from m3jax.training.objectives import (
    DENSE_PARAMETERS,
    ContrastiveConfig,
    contrastive,
)
from m3jax.training.optimizer import (
    OptimizerConfig,
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


@dataclass(frozen=True)
class Train:
    """One stage of training."""

    init: str | None = None
    """Model to go on from: a hub id, a model folder or a finished run; by default
    parameters are random. It brings its tokenizer, its prompts and its shape; of
    `model` only dtype and remat hold, and pooling where the folder states none."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=0))
    objective: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: int = 1_000
    """Updates in all."""
    evaluate_every: int = 100
    """Updates between two evaluations on the dev set, each with a checkpoint."""
    seed: int = 0
    """Decides the first parameters, the order of the data and the dropout."""


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
    stage, source = _source(stage)
    _check(stage)
    # Of a model to go on from, what it is and not what the config would have made.
    config = {STAGE: configs.to_dict(stage)}
    run.check_folder(folder, config, fresh=fresh)
    mesh = make_mesh(stage.mesh)
    start = starting(EmbeddingModule(stage.model), _pairs(stage))
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), None))
    shardings(mesh, shapes, SHARDING)  # the mesh divides every parameter
    check_trainable(shapes, _trainable(stage))
    pipeline.check_batch(stage.data, mesh, stage.objective.sub_batches)
    data = pipeline.open_data(stage.data)
    if stage.init is None and stage.tokenizer.pretrained is not None:
        tokenize.load(stage.tokenizer.pretrained)  # it is there, before we write
    run.open_folder(folder, config, run.describe(data), fresh=fresh)
    if report.is_finished(folder):
        print(f"{folder} is finished; --fresh starts it anew.")
    else:
        _train(stage, data, mesh, folder, source)
    report.show(folder)


@dataclass(frozen=True)
class _Source:
    """The model to go on from."""

    tokenizer: Tokenizer
    read: Callable[[Mesh], Params]


def _source(stage: Train) -> tuple[Train, _Source | None]:
    """The stage in the shape of the model that it goes on from, and that model."""
    if stage.init is None:
        return stage, None
    if stage.tokenizer.pretrained is not None:
        raise InputError(
            "the tokenizer of the model to go on from",
            stage.tokenizer.pretrained,
            where="tokenizer.pretrained",
            do="Leave it out with --init.",
        )
    model, read = open_model(stage.init, default_pooling=stage.model.pooling)
    wanted = stage.model.encoder
    encoder = dataclasses.replace(
        model.config.encoder, dtype=wanted.dtype, remat=wanted.remat
    )
    prompts = stage.data.prompts
    if prompts == Prompts():
        prompts = model.prompts
    stage = dataclasses.replace(
        stage,
        model=dataclasses.replace(model.config, encoder=encoder),
        data=dataclasses.replace(stage.data, prompts=prompts),
    )
    return stage, _Source(model.tokenizer, read)


def _pairs(stage: Train) -> LoraConfig | None:
    return stage.lora if stage.lora.rank else None


def _trainable(stage: Train) -> str:
    """What is trained: by the config, else low-rank pairs, else what the loss sees."""
    if stage.optimizer.trainable:
        return stage.optimizer.trainable
    if stage.lora.rank:
        return lora.TRAINABLE
    # Heads without a gradient would only decay.
    return DENSE_PARAMETERS if len(stage.model.outputs) > 1 else ""


def _check(stage: Train) -> None:
    """Refuse numbers that no run can have, before anything is read."""
    data, encoder, objective = stage.data, stage.model.encoder, stage.objective
    lengths = (data.query_length, data.passage_length)
    at_least = {
        "steps": (stage.steps, 1),
        "evaluate_every": (stage.evaluate_every, 1),
        "seed": (stage.seed, 0),
        "data.negatives": (data.negatives, 0),
        "data.workers": (data.workers, 0),
        "data.batch_size": (data.batch_size, 1),
        "optimizer.learning_rate": (stage.optimizer.learning_rate, 0),
        "data.query_length": (data.query_length, 3),
        "data.passage_length": (data.passage_length, 3),
        "data.buckets": (min(data.buckets, default=0), 3),
        "tokenizer.vocab_size": (stage.tokenizer.vocab_size, 10),
        "model.encoder.hidden": (encoder.hidden, 1),
        "model.encoder.layers": (encoder.layers, 1),
        "model.encoder.heads": (encoder.heads, 1),
        "model.encoder.mlp": (encoder.mlp, 1),
        "objective.sub_batches": (objective.sub_batches, 1),
        "lora.rank": (stage.lora.rank, 0),
    }
    rules = [
        (found >= least, name, f"at least {least}", found)
        for name, (found, least) in at_least.items()
    ]
    rules += [
        (
            max(lengths) <= encoder.max_length,
            "data lengths",
            f"at most {encoder.max_length} tokens, by model.encoder.max_positions",
            max(lengths),
        ),
        (
            isinstance(encoder, QwenConfig)
            or encoder.hidden % max(encoder.heads, 1) == 0,
            "model.encoder.heads",
            f"a divisor of hidden={encoder.hidden}",
            encoder.heads,
        ),
        (
            isinstance(encoder, QwenConfig) or 0 <= encoder.dropout < 1,
            "model.encoder.dropout",
            "a share from 0 to below 1",
            getattr(encoder, "dropout", 0),
        ),
        (
            objective.temperature > 0,
            "objective.temperature",
            "above 0",
            objective.temperature,
        ),
        (
            bool(objective.negatives) and set(objective.negatives) <= set(BLOCKS),
            "objective.negatives",
            f"one or more of {', '.join(BLOCKS)}",
            ", ".join(objective.negatives) or "none",
        ),
        (
            0 <= stage.optimizer.warmup <= 1,
            "optimizer.warmup",
            "a share from 0 to 1",
            stage.optimizer.warmup,
        ),
    ]
    for holds, where, expected, found in rules:
        if not holds:
            raise InputError(expected, f"{found}", where=where)


def _train(
    stage: Train, data: Data, mesh: Mesh, folder: Path, source: _Source | None
) -> None:
    tokenizer = _tokenizer(stage, data, folder / STAGE / "tokenizer", source)
    encoder, config = stage.model.encoder, stage.model
    if source is None:
        encoder = dataclasses.replace(encoder, vocab_size=tokenizer.vocab_size)
        special = tokenizer.special_ids if config.sparse else ()
        config = dataclasses.replace(config, encoder=encoder, special_ids=special)
    _check_prompts(stage, tokenizer)
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
    given = None if source is None else source.read
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


def _check_prompts(stage: Train, tokenizer: Tokenizer) -> None:
    """Refuse prompts that leave no room for the text behind them."""
    data = stage.data
    for name, prompt, length in (
        ("query", data.prompts.query, data.query_length),
        ("passage", data.prompts.passage, data.passage_length),
    ):
        (row,) = tokenize.encode(tokenizer, [prompt], max_length=10**6)
        if len(row) >= length:
            raise InputError(
                f"more than the {len(row)} tokens of the {name} prompt",
                f"{length}",
                where=f"data.{name}_length",
            )


def _tokenizer(
    stage: Train, data: Data, folder: Path, source: _Source | None
) -> Tokenizer:
    """The tokenizer of this run; the first start makes it, later ones open it."""
    if not folder.exists():
        config = stage.tokenizer
        if source is not None:
            made = source.tokenizer
        elif config.pretrained is not None:
            made = tokenize.load(config.pretrained)
        else:
            texts = (text for row in data.rows for text in (row.query, *row.pos))
            made = vocabulary.train(texts, config)
        with files.new_folder(folder) as temporary:
            longest = max(stage.data.query_length, stage.data.passage_length)
            tokenize.save(made, temporary, max_length=longest)
    return tokenize.load(folder)


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
    objective = contrastive(module, mesh, stage.objective)
    start, trainable = starting(module, _pairs(stage)), _trainable(stage)
    optimizer = dataclasses.replace(stage.optimizer, trainable=trainable)
    tx = make_optimizer(optimizer, stage.steps)
    schedule = make_schedule(stage.optimizer, stage.steps)
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
        sets = {"dev": dev, "test": data.test}
        for name, one in sets.items():
            if one is not None:
                found = score(state.params, one)
                writer.write(0, {f"{name}/{key}": x for key, x in found.items()})
    batcher = batches.Batcher(
        rows=data.rows,
        plan=pipeline.make_plan(stage.data, data.rows, tokenizer, stage.seed),
        tokenizer=tokenizer,
        prompts=stage.data.prompts,
        negatives=stage.data.negatives,
        query_length=stage.data.query_length,
        passage_length=stage.data.passage_length,
        local=pipeline.local_rows(mesh, stage.data.batch_size),
    )
    stream = pipeline.stream(
        batcher, mesh, start=first, stop=stage.steps, workers=stage.data.workers
    )
    # Whatever happens, the workers end before this process does.
    with contextlib.closing(stream), contextlib.closing(writer):
        state = train(
            state,
            make_step(objective, tx, schedule, mesh, like, trainable=trainable),
            stream,
            Loop(
                steps=stage.steps,
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
