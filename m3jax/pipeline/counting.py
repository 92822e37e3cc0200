"""FLOPs of the steps of a stage, for its MFU and for a check ahead of time."""

import functools
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_shards
from m3jax.core.types import Batch, Reads
from m3jax.data.shapes import Shape
from m3jax.pipeline import trained
from m3jax.pipeline.stage import Train
from m3jax.training import chips, flops
from m3jax.training.objectives.momentum import MomentumConfig
from m3jax.training.objectives.texts import parts
from m3jax.training.optimizer import moving
from m3jax.training.state import starting


def count(
    stage: Train,
    shape: Shape,
    rows: int,
    mesh: Mesh,
    *,
    group: int,
    reads: Reads = "apart",
) -> flops.Flops:
    """FLOPs of a step of a stage over all chips.

    Args:
        stage: the config, its model in its own sizes.
        shape: of the batch; its passage_length is that of what is read together.
        rows: queries.
        mesh: the devices.
        group: passages of each query.
        reads: what the objective is given of a row.

    Returns:
        Model's and hardware's.
    """
    shards = batch_shards(mesh)

    def texts(number: int, length: int, learns: bool = True) -> flops.Texts:
        n = parts(stage.sub_batches, number, length, shards)
        return flops.Texts(number, length, n, learns)

    learns = not isinstance(stage.objective, MomentumConfig)
    read = [texts(rows * group, shape.passage_length, learns)]
    if reads == "apart":
        read.insert(0, texts(rows, shape.query_length))
    return flops.step(
        stage.objective,
        stage.model,
        tuple(read),
        rows=rows,
        group=group,
        query_length=shape.query_length,
        passage_length=shape.passage_length,
        backward=backward(stage),
    )


def of_batches(stage: Train, mesh: Mesh, reads: Reads) -> Callable[[Batch], float]:
    """Count the model's FLOPs on a batch; each shape once.

    Args:
        stage: the config, its model in its own sizes.
        mesh: the devices.
        reads: what the objective is given of a row.

    Returns:
        Batch -> FLOPs over all devices.
    """

    @functools.cache
    def model(shape: Shape, rows: int, group: int) -> float:
        return count(stage, shape, rows, mesh, group=group, reads=reads).model

    def of_batch(batch: Batch) -> float:
        rows, group = batch.where.shape
        query = 0 if batch.query is None else batch.query.ids.shape[-1]
        texts = batch.pair if reads == "together" else batch.passage
        return model(Shape(query, texts.ids.shape[-1]), rows, group)

    return of_batch


def peak(mesh: Mesh) -> float | None:
    """FLOPs a second of all devices together; None where the chip is not known.

    Example:
        >>> from m3jax.core.mesh import MeshConfig, make_mesh
        >>> peak(make_mesh(MeshConfig())) is None
        True
    """
    try:
        chip = chips.find(mesh.devices.flat[0].device_kind)
    except InputError:
        return None
    return chip.flops * mesh.size


def backward(stage: Train) -> float:
    """FLOPs of the encoder's backward pass by those of its forward pass."""
    if stage.lora.rank and not stage.optimizer.trainable:
        return 1.0  # the gradient goes through, and to the small pairs alone
    module = trained.module(stage)
    shapes = jax.eval_shape(lambda: starting(module)(jax.random.key(0), None))
    moves = tree.paths(moving(shapes, trained.trainable(stage), stage.optimizer.groups))
    encoder = any(found for name, found in moves.items() if name.startswith("encoder."))
    return 2.0 if encoder else 0.0
