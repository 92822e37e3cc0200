"""A reranker that scores the passages of every batch while a model trains."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import einops
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, batch_shards
from m3jax.core.types import Batch, Params, Tokens
from m3jax.data.pairs import Pairing
from m3jax.data.training_sets import datasets
from m3jax.hub import reranker
from m3jax.hub.model_files import Where
from m3jax.nn.reranker import RerankerModule, score
from m3jax.pipeline.stage import Train
from m3jax.training.ahead import held
from m3jax.training.objectives.contrastive import ContrastiveConfig
from m3jax.training.objectives.texts import parts
from m3jax.training.objectives.unified import UnifiedConfig


@dataclass(frozen=True)
class Teacher:
    """A teacher, opened.

    Attributes:
        pairing: how it reads query and passage together.
        score: puts teacher_scores into a batch, in place of the pairs.
        held: bytes of its parameters on a device.
    """

    pairing: Pairing
    score: Callable[[Batch], Batch]
    held: int


def open_teacher(stage: Train, mesh: Mesh) -> Teacher | None:
    """Read the teacher of a stage onto the devices.

    Its scores are logits, float32; it computes in the dtype of the model that learns,
    in sub-batches by the same rule, and is divided over the mesh as that is.

    Args:
        stage: the config.
        mesh: the devices.

    Returns:
        The teacher; None where the stage has none.

    Raises:
        InputError: as `check_teacher`, or its weights are damaged.
    """
    if not stage.teacher.model:
        return None
    model, read = check_teacher(stage)
    params, module = read(mesh), RerankerModule(model.config)
    shards = batch_shards(mesh)

    def logits(params: Params, pair: Tokens, where: jax.Array) -> jax.Array:
        b, g, length = pair.ids.shape
        flat = jax.tree.map(lambda x: einops.rearrange(x, "b g l -> (b g) l"), pair)
        count = parts(stage.sub_batches, b * g, length, shards)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            found = score(module, params, flat, sub_batches=count)
        # What is not there has no score, whatever comes of an empty text.
        return jnp.where(where, found.reshape(b, g), 0.0)

    run = jax.jit(logits, out_shardings=batch_sharding(mesh))

    def scored(batch: Batch) -> Batch:
        found = run(params, batch.pair, batch.where)
        return dataclasses.replace(batch, teacher_scores=found, pair=None)

    task = reranker.TASK if model.config.head == "yes_no" else None
    return Teacher(
        Pairing(
            model.tokenizer,
            reranker.pair_format(model.config, task),
            stage.teacher.pair_length,
            own_tasks=False,
        ),
        scored,
        held(params),
    )


def check_teacher(
    stage: Train,
) -> tuple[reranker.Model, Callable[[Where], Params]]:
    """Open the teacher of a stage, without its weights.

    Args:
        stage: a config that names one.

    Returns:
        As `hub.reranker.open_model`.

    Raises:
        InputError: no such reranker, one that reads less, an objective that learns from
            no scores, or data that brings its own.
    """
    where = "teacher.model"
    if not isinstance(stage.objective, ContrastiveConfig | UnifiedConfig):
        raise InputError(
            "an objective that learns from a teacher: contrastive or unified",
            type(stage.objective).__name__,
            where=where,
        )
    for one in datasets(stage.data):
        if one.teacher_scores:
            raise InputError(
                "scores of the data, or of a teacher that is run",
                "both",
                where=where,
                do=f"{one.name or one.path} has teacher_scores on.",
            )
    dtype = stage.model.encoder.dtype
    try:
        model, read = reranker.open_model(stage.teacher.model, dtype=dtype)
    except InputError as error:
        raise error.at(where) from None
    most = model.config.encoder.max_length
    if stage.teacher.pair_length > most:
        raise InputError(
            f"at most {most} tokens, as {stage.teacher.model} reads",
            f"{stage.teacher.pair_length}",
            where="teacher.pair_length",
        )
    return model, read
