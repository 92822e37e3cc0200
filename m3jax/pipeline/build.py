"""From the config of a stage to its training step, for every program that needs one."""

from dataclasses import dataclass

import optax
from jax.sharding import Mesh

from m3jax.data.words import Words
from m3jax.nn.encoder import SHARDING
from m3jax.pipeline import trained
from m3jax.pipeline.stage import Train
from m3jax.training.objectives import Objective
from m3jax.training.objectives.make import make_objective
from m3jax.training.optimizer import make_optimizer, make_schedule
from m3jax.training.state import Start, TrainState, abstract_state, starting
from m3jax.training.step import Step, make_step


@dataclass(frozen=True)
class Built:
    """What trains a stage.

    Attributes:
        objective: what is minimised.
        start: makes the first parameters.
        tx: the optimizer.
        like: shapes and shardings of the state.
        step: not compiled yet.
    """

    objective: Objective
    start: Start
    tx: optax.GradientTransformation
    like: TrainState
    step: Step


def begin(stage: Train, mesh: Mesh, words: Words | None) -> tuple[Objective, Start]:
    """Objective and first parameters of a stage.

    Args:
        stage: the config, in the shape of its model.
        mesh: the devices.
        words: of the tokenizer, where the objective masks words.

    Returns:
        Both.

    Raises:
        InputError: as `make_objective`.
    """
    module, pairs = trained.module(stage), trained.pairs(stage)
    objective = make_objective(
        stage.objective, module, mesh, stage.sub_batches, words=words
    )
    return objective, starting(module, pairs, auxiliary=objective.auxiliary)


def build(stage: Train, mesh: Mesh, words: Words | None, steps: int) -> Built:
    """Everything that trains a stage; no array is made.

    Args:
        stage: the config, in the shape of its model.
        mesh: the devices.
        words: of the tokenizer, where the objective masks words.
        steps: length of the training.

    Returns:
        The step and what belongs to it.

    Raises:
        InputError: as `make_objective`, or the mesh does not divide what is trained.
    """
    objective, start = begin(stage, mesh, words)
    moves = trained.optimizer(stage)
    tx = make_optimizer(moves, steps)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    step = make_step(
        objective,
        tx,
        make_schedule(moves, steps),
        mesh,
        like,
        trainable=moves.trainable,
        groups=moves.groups,
    )
    return Built(objective, start, tx, like, step)
