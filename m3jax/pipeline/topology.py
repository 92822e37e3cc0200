"""Does a stage fit on a slice of TPUs, and how fast could it be: without a TPU."""

import json
from collections.abc import Iterator, Mapping

import jax
from jax.sharding import Mesh

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh
from m3jax.data import presets
from m3jax.data.prompts import Prompts
from m3jax.data.shapes import Shape
from m3jax.data.training_sets import datasets
from m3jax.nn import zoo
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import fit
from m3jax.pipeline.origin import in_shape_of
from m3jax.pipeline.stage import SCRATCH, Train, check
from m3jax.pipeline.topology_tables import show, to_json
from m3jax.training import chips, flops
from m3jax.training.abstract import abstract_batch, lengths_read
from m3jax.training.objectives.contrastive import ContrastiveConfig
from m3jax.training.objectives.make import make_objective
from m3jax.training.objectives.momentum import MomentumConfig
from m3jax.training.objectives.texts import parts
from m3jax.training.objectives.unified import UnifiedConfig
from m3jax.training.optimizer import make_optimizer, make_schedule, moving
from m3jax.training.state import abstract_state, starting
from m3jax.training.step import make_step
from m3jax.training.topology import BucketReport, compile_report, devices


def tell(stages: Mapping[str, Train], topology: str, *, as_json: bool) -> bool:
    """Check every stage for a slice, and print what was found.

    Args:
        stages: name -> config, in their order.
        topology: name of the slice.
        as_json: print JSON, in place of tables.

    Returns:
        Whether all of it fits.
    """
    found = {}
    for name, stage in in_shape(stages).items():
        found[name] = reports = check_topology(stage, topology)
        if not as_json:
            print(f"stage {name}")
            show(reports, stage, topology)
    if as_json:
        shaped = in_shape(stages)
        told = {name: to_json(reports, shaped[name]) for name, reports in found.items()}
        print(json.dumps(told, indent=2))
    return all(one.fits for reports in found.values() for one in reports)


def check_topology(stage: Train, topology: str) -> list[BucketReport]:
    """Compile the step of every bucket of a stage for a slice of TPUs.

    No data is opened: shapes are those of the buckets or the preset, or one of the
    whole query_length and passage_length.

    Args:
        stage: the config, in the shape of its model; see `in_shape`.
        topology: name of the slice, such as v5e:4x4.

    Returns:
        A report a bucket, shortest first.

    Raises:
        InputError: no such slice, a mesh that does not multiply to its chips, a batch
            that they do not divide, or a model that the zoo does not know.
    """
    return list(each_bucket(stage, topology))


def each_bucket(stage: Train, topology: str) -> Iterator[BucketReport]:
    """As `check_topology`, each report as soon as it is there."""
    check(stage)
    found = devices(topology)
    chip, mesh = chips.find(topology), make_mesh(stage.mesh, found)
    assert isinstance(stage.model, EmbeddingConfig)  # `in_shape` refuses others
    module = EmbeddingModule(stage.model)
    objective = make_objective(stage.objective, module, mesh, stage.sub_batches)
    start = starting(module, fit.pairs(stage), auxiliary=objective.auxiliary)
    optimizer = fit.optimizer(stage)
    tx = make_optimizer(optimizer, stage.steps)
    schedule = make_schedule(optimizer, stage.steps)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    step = make_step(
        objective,
        tx,
        schedule,
        mesh,
        like,
        trainable=optimizer.trainable,
        groups=optimizer.groups,
    )
    teacher = any(one.teacher_scores for one in datasets(stage.data))
    for shape, rows in buckets(stage, mesh):
        group = 1 + stage.data.negatives
        query, passage = shape.query_length, shape.passage_length
        batch = abstract_batch(
            mesh,
            rows,
            group,
            **lengths_read(objective.reads, query, passage),
            teacher_scores=teacher,
        )
        counted = count(stage, shape, rows, mesh)
        yield compile_report(step, like, batch, chip, counted, chips=mesh.size)


def in_shape(stages: Mapping[str, Train]) -> dict[str, Train]:
    """Stages in the shapes of the models that they go on from, by `nn.zoo`.

    Args:
        stages: name -> config, in their order.

    Returns:
        The same stages; nothing is read or fetched.

    Raises:
        InputError: the zoo does not know a model, or the check does not know a stage.

    Example:
        >>> stages = {"train": Train(init="BAAI/bge-m3")}
        >>> in_shape(stages)["train"].model.encoder.layers
        24
    """
    found: dict[str, Train] = {}
    before: Train | None = None
    for name, stage in stages.items():
        if stage.init is None and before is not None:
            stage = in_shape_of(stage, before.model, before.data.prompts)
        elif stage.init not in (None, SCRATCH):
            stage = in_shape_of(stage, _published(stage), Prompts())
        known = ContrastiveConfig | UnifiedConfig | MomentumConfig
        counted = isinstance(stage.objective, known)
        if not counted or not isinstance(stage.model, EmbeddingConfig):
            raise InputError(
                "an objective whose arithmetic is counted: contrastive, unified or "
                "momentum",
                type(stage.objective).__name__,
                where=f"--topology, stage {name}",
            )
        found[name] = before = stage
    return found


def _published(stage: Train) -> EmbeddingConfig | RerankerConfig:
    assert stage.init is not None
    try:
        return zoo.find(stage.init).config
    except InputError as error:
        raise InputError(
            "a published model whose sizes are known",
            stage.init,
            where="init",
            do=f"Leave init out and set its sizes in model. {error.do}",
        ) from None


def buckets(stage: Train, mesh: Mesh) -> list[tuple[Shape, int]]:
    """Shapes that batches of a stage come in, and their queries, without its data.

    Args:
        stage: the config.
        mesh: the devices.

    Returns:
        Those that texts of its lengths can come into; sizes of a preset and of a token
        budget are multiples of what the devices ask for.

    Raises:
        InputError: a size that the devices do not divide.

    Example:
        >>> from m3jax.core.mesh_config import MeshConfig
        >>> from m3jax.data.config import DataConfig
        >>> mesh, data = make_mesh(MeshConfig()), DataConfig(batch_size=64)
        >>> buckets(Train(data=data), mesh)
        [(Shape(query_length=64, passage_length=256), 64)]
    """
    data = stage.data
    multiple = batch_shards(mesh) * stage.sub_batches.count
    edges, sizes = data.buckets, data.bucket_sizes
    if data.preset:
        edges = presets.BGE_M3_LENGTHS
        sizes = presets.rounded_up(presets.SIZES[data.preset], multiple)
    edges = edges or (data.passage_length,)
    longest = max(data.query_length, data.passage_length)
    used = [i for i in range(len(edges)) if i == 0 or edges[i - 1] < longest]
    found = []
    for i in used:
        shape = Shape(min(data.query_length, edges[i]), edges[i])
        if sizes:
            rows = sizes[i]
        elif data.batch_tokens:
            fit = int(data.batch_tokens / shape.tokens(1 + data.negatives))
            rows = max(1, fit // multiple) * multiple
        else:
            rows = data.batch_size
        if rows % multiple:
            raise InputError(
                f"a batch that {multiple} shards (data x fsdp) x sub-batches divide",
                f"{rows}",
                where="data.batch_size",
                do=f"A multiple of {multiple} fits.",
            )
        found.append((shape, rows))
    return found


def count(stage: Train, shape: Shape, rows: int, mesh: Mesh) -> flops.Flops:
    """FLOPs of a step of a stage over all chips.

    Args:
        stage: the config, its model in its own sizes.
        shape: of the batch.
        rows: queries.
        mesh: the devices.

    Returns:
        Model's and hardware's.
    """
    assert isinstance(stage.model, EmbeddingConfig)
    group, shards = 1 + stage.data.negatives, batch_shards(mesh)

    def texts(number: int, length: int, learns: bool = True) -> flops.Texts:
        n = parts(stage.sub_batches, number, length, shards)
        return flops.Texts(number, length, n, learns)

    learns = not isinstance(stage.objective, MomentumConfig)
    return flops.step(
        stage.objective,
        stage.model,
        (
            texts(rows, shape.query_length),
            texts(rows * group, shape.passage_length, learns),
        ),
        rows=rows,
        group=group,
        query_length=shape.query_length,
        passage_length=shape.passage_length,
        backward=_backward(stage),
    )


def _backward(stage: Train) -> float:
    """FLOPs of the encoder's backward pass by those of its forward pass."""
    if stage.lora.rank and not stage.optimizer.trainable:
        return 1.0  # the gradient goes through, and to the small pairs alone
    assert isinstance(stage.model, EmbeddingConfig)
    module = EmbeddingModule(stage.model)
    shapes = jax.eval_shape(lambda: starting(module)(jax.random.key(0), None))
    moves = tree.paths(moving(shapes, fit.trainable(stage)))
    encoder = any(found for name, found in moves.items() if name.startswith("encoder."))
    return 2.0 if encoder else 0.0
