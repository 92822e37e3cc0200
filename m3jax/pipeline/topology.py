"""Does a stage fit on a slice of TPUs, and how fast could it be: without a TPU."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards, make_mesh
from m3jax.data import presets
from m3jax.data.shapes import Shape
from m3jax.data.training_sets import datasets
from m3jax.nn import lora, zoo
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule
from m3jax.nn.encoder import SHARDING
from m3jax.pipeline.stage import Train, check
from m3jax.training import chips, flops
from m3jax.training.abstract import abstract_batch, lengths_read
from m3jax.training.objectives.make import make_objective, trained_heads
from m3jax.training.objectives.momentum import MomentumConfig
from m3jax.training.objectives.texts import parts
from m3jax.training.optimizer import all_but, make_optimizer, make_schedule, moving
from m3jax.training.state import abstract_state, starting
from m3jax.training.step import make_step
from m3jax.training.topology import BucketReport, compile_report, devices


def check_topology(stage: Train, topology: str) -> list[BucketReport]:
    """Compile the step of every bucket of a stage for a slice of TPUs.

    No data is opened: shapes are those of the buckets or the preset, or one of the
    whole query_length and passage_length. Of a model to go on from, the sizes that
    `nn.zoo` knows.

    Args:
        stage: the config.
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
    stage = in_shape(stage)
    check(stage)
    found = devices(topology)
    chip, mesh = chips.find(topology), make_mesh(stage.mesh, found)
    module = EmbeddingModule(stage.model)
    objective = make_objective(stage.objective, module, mesh, stage.sub_batches)
    pairs = stage.lora if stage.lora.rank else None
    start = starting(module, pairs, auxiliary=objective.auxiliary)
    trainable = trained(stage)
    optimizer = dataclasses.replace(stage.optimizer, trainable=trainable)
    tx = make_optimizer(optimizer, stage.steps)
    schedule = make_schedule(optimizer, stage.steps)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    step = make_step(objective, tx, schedule, mesh, like, trainable=trainable)
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


def in_shape(stage: Train) -> Train:
    """The stage with the sizes of the model that it goes on from, by `nn.zoo`.

    Args:
        stage: the config.

    Returns:
        It, with the published model in place of `model`; dtype and remat stay.

    Raises:
        InputError: the zoo does not know the model.

    Example:
        >>> in_shape(Train(init="BAAI/bge-m3")).model.encoder.layers
        24
    """
    if stage.init is None:
        return stage
    try:
        config = zoo.find(stage.init).config
    except InputError as error:
        raise InputError(
            "a published model whose sizes are known",
            stage.init,
            where="init",
            do=f"Leave init out and set its sizes in model. {error.do}",
        ) from None
    if not isinstance(config, EmbeddingConfig):
        raise InputError("an embedding model", stage.init, where="init")
    wanted = stage.model.encoder
    encoder = dataclasses.replace(
        config.encoder, dtype=wanted.dtype, remat=wanted.remat
    )
    model = dataclasses.replace(config, encoder=encoder)
    return dataclasses.replace(stage, model=model)


def trained(stage: Train) -> str:
    """Regex of what is trained: by the config, else low-rank pairs, else what learns.

    Example:
        >>> trained(Train())
        ''
    """
    if stage.optimizer.trainable:
        return stage.optimizer.trainable
    if stage.lora.rank:
        return lora.TRAINABLE
    known = trained_heads(stage.objective)
    return all_but([name for name in stage.model.outputs if name not in known])


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
    module = EmbeddingModule(stage.model)
    shapes = jax.eval_shape(lambda: starting(module)(jax.random.key(0), None))
    moves = tree.paths(moving(shapes, trained(stage)))
    encoder = any(found for name, found in moves.items() if name.startswith("encoder."))
    return 2.0 if encoder else 0.0


def advice(stage: Train, report: BucketReport) -> str:
    """What to change where a bucket does not fit; "" where it does.

    Args:
        stage: the config.
        report: of the bucket.

    Returns:
        One line.
    """
    if report.fits:
        return ""
    memory, held = report.chip.memory, report.params + report.optimizer
    lack = (report.memory - memory) / 1e9
    changes = []
    if held > memory / 2 and stage.mesh.fsdp < report.chips:
        changes.append(f"--mesh.fsdp {min(report.chips, 2 * max(1, stage.mesh.fsdp))}")
    if stage.model.encoder.remat != "full":
        changes.append("--model.encoder.remat full")
    if stage.sub_batches.preset:
        changes.append("--sub-batches.tokens 8192 in place of the preset")
    elif stage.sub_batches.tokens:
        half = max(1, stage.sub_batches.tokens // 2)
        changes.append(f"--sub-batches.tokens {half}")
    else:
        changes.append(f"--sub-batches.count {2 * stage.sub_batches.count}")
    changes.append("a smaller batch")
    return (
        f"passages of {report.passage_length:,} tokens lack {lack:.1f} GB a chip: "
        f"try {', then '.join(changes)}."
    )


def show(reports: Iterable[BucketReport], stage: Train, topology: str) -> None:
    """Print two tables, and a line for each bucket that does not fit.

    Args:
        reports: of the buckets.
        stage: the config.
        topology: name of the slice.
    """
    from rich.console import Console
    from rich.table import Table

    reports = list(reports)
    if not reports:
        return
    chip, console = reports[0].chip, Console()
    title = f"{topology}, {reports[0].chips} chips"
    memory = Table(title=f"{title}: memory of a chip in GB, of {chip.memory / 1e9:.0f}")
    speed = Table(title=f"{title}: a step, estimated (roofline)")
    tables = (memory, MEMORY), (speed, SPEED)
    for table, columns in tables:
        for name in columns:
            table.add_column(name, justify="right")
    for one in reports:
        memory.add_row(*memory_row(one))
        speed.add_row(*speed_row(one))
    for table, _ in tables:
        console.print(table)
    for one in reports:
        if told := advice(stage, one):
            console.print(told)


MEMORY = (
    "query, passage",
    "queries",
    "parameters",
    "optimizer",
    "extra, batch",
    "temporary",
    "output",
    "in all",
    "fits",
)
SPEED = (
    "query, passage",
    "queries",
    "TFLOP model / computed",
    "GB sent",
    "s arithmetic",
    "s links",
    "s step, none to all overlapped",
    "MFU",
    "loss",
    "links",
)


def memory_row(one: BucketReport) -> tuple[str, ...]:
    """Cells under `MEMORY`."""
    sizes = one.params, one.optimizer, one.extra, one.temporary, one.output
    cells = (f"{size / 1e9:.2f}" for size in (*sizes, one.memory))
    return (*_about(one), *cells, "yes" if one.fits else "no")


def speed_row(one: BucketReport) -> tuple[str, ...]:
    """Cells under `SPEED`; bytes by kind of collective."""
    computed = one.flops.hardware + one.flops.loss
    cells = f"{one.flops.model / 1e12:.1f} / {computed / 1e12:.1f}"
    if not one.compiled:
        return (*_about(one), cells, *["-"] * (len(SPEED) - 3))
    sent = ", ".join(f"{x} {n / 1e9:.2f}" for x, n in one.sent.items() if n > 5e6)
    return (
        *_about(one),
        cells,
        sent,
        f"{one.compute_seconds:.3f}",
        f"{one.communication_seconds:.3f}",
        f"{one.step_seconds:.3f} to {one.overlapped_seconds:.3f}",
        f"{one.mfu:.0%}",
        f"{one.loss_share:.1%}",
        f"{one.communication_share:.1%}",
    )


def _about(one: BucketReport) -> tuple[str, str]:
    return f"{one.query_length:,}, {one.passage_length:,}", f"{one.rows:,}"


def to_json(reports: Iterable[BucketReport], stage: Train) -> list[dict[str, Any]]:
    """Reports as plain values, with what is derived from them.

    Args:
        reports: of the buckets.
        stage: the config.

    Returns:
        What `json.dumps` takes.
    """
    derived = (
        "fits",
        "memory",
        "sent",
        "compute_seconds",
        "loss_seconds",
        "memory_seconds",
        "communication_seconds",
        "step_seconds",
        "overlapped_seconds",
        "mfu",
        "loss_share",
        "communication_share",
    )
    return [
        dataclasses.asdict(one)
        | {name: getattr(one, name) for name in derived}
        | {"advice": advice(stage, one)}
        for one in reports
    ]
