"""What a stage of training is made of, and which values no run can have."""

import dataclasses
import math
from dataclasses import dataclass, field

from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig
from m3jax.data.plan import Plan
from m3jax.data.training_sets import datasets
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.lora import LoraConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline.merges.config import Merge
from m3jax.training.checkpoint_config import CheckpointConfig, check_checkpoints
from m3jax.training.objectives.contrastive import ContrastiveConfig
from m3jax.training.objectives.make import ObjectiveConfig
from m3jax.training.objectives.texts import SubBatches
from m3jax.training.optimizer import OptimizerConfig

# In place of a model to go on from: none, also where a stage came before.
SCRATCH = "scratch"


@dataclass(frozen=True)
class TeacherConfig:
    """A reranker that scores the passages of every batch while the stage trains.

    What an objective makes of teacher_scores in the data, it makes of its scores.
    """

    model: str = ""
    """Hub id or folder; by default there is none."""
    pair_length: int = 512
    """Tokens that it reads of a query and a passage together."""


@dataclass(frozen=True)
class Train:
    """One stage of training."""

    init: str | None = None
    """Model to go on from: a hub id, a model folder or a finished run; by default the
    stage before, and in a first stage none: parameters are random, as with "scratch".
    It brings its tokenizer, its prompts and its shape; of `model` hold dtype, remat and
    a Qwen's attention, heads that it does not have yet, and pooling where its folder
    states none. Its own share of dropout is changed by `dropout`."""
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: EmbeddingConfig | RerankerConfig = field(default_factory=EmbeddingConfig)
    dropout: float | None = None
    """Share of the units dropped in training, in place of what the model says, also of
    one to go on from."""
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=0))
    objective: ObjectiveConfig = field(default_factory=ContrastiveConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    sub_batches: SubBatches = field(default_factory=SubBatches)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: int = 1_000
    """Updates in all."""
    epochs: float | None = None
    """Passes over the data, in place of steps."""
    examples: int | None = None
    """Queries to train on in all, in place of steps."""
    evaluate_every: int = 100
    """Updates between two evaluations on the dev set, each with a checkpoint."""
    checkpoint_every: int | None = None
    """Updates between two checkpoints, beside those of evaluations; by default none."""
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    patience: int = 0
    """Evaluations in a row that do not raise the dev score, after which the stage ends;
    0 = never."""
    wandb: str = ""
    """Project of Weights & Biases that metrics go to, beside the run folder."""
    seed: int = 0
    """Decides the first parameters, the order of the data and the dropout."""


# What a config is made of: it may end in a merge.
Stage = Train | Merge


def with_dropout(stage: Train) -> Train:
    """A stage whose model drops what the stage says.

    Args:
        stage: the config, in the shape of its model.

    Returns:
        The stage.

    Raises:
        InputError: its model has no dropout.

    Example:
        >>> with_dropout(Train(dropout=0.25)).model.encoder.dropout
        0.25
    """
    encoder = stage.model.encoder
    if stage.dropout is None:
        return stage
    if isinstance(encoder, QwenConfig):
        raise InputError(
            "none, because a Qwen has no dropout", f"{stage.dropout}", where="dropout"
        )
    encoder = dataclasses.replace(encoder, dropout=stage.dropout)
    model = dataclasses.replace(stage.model, encoder=encoder)
    return dataclasses.replace(stage, model=model)


def check(stage: Train) -> None:
    """Refuse numbers that no run can have, before anything is read.

    Args:
        stage: the config.

    Raises:
        InputError: names the field.
    """
    data, encoder = stage.data, stage.model.encoder
    lengths = (data.query_length, data.passage_length, *_own_lengths(data))
    at_least = {
        "steps": (stage.steps, 1),
        "evaluate_every": (stage.evaluate_every, 1),
        "checkpoint_every": (stage.checkpoint_every or 1, 1),
        "patience": (stage.patience, 0),
        "data.pair_length": (data.pair_length, 3),
        "teacher.pair_length": (stage.teacher.pair_length, 3),
        "seed": (stage.seed, 0),
        "data.negatives": (data.negatives, 0),
        "data.workers": (data.workers, 0),
        "data.batch_size": (data.batch_size, 1),
        "data.batch_tokens": (data.batch_tokens, 0),
        "data.shapes": (data.shapes, 1),
        "data.length_multiple": (data.length_multiple, 1),
        "optimizer.learning_rate": (stage.optimizer.learning_rate, 0),
        "data.query_length": (data.query_length, 3),
        "data.passage_length": (data.passage_length, 3),
        "data.buckets": (min(data.buckets, default=3), 3),
        "tokenizer.vocab_size": (stage.tokenizer.vocab_size, 10),
        "model.encoder.hidden": (encoder.hidden, 1),
        "model.encoder.layers": (encoder.layers, 1),
        "model.encoder.heads": (encoder.heads, 1),
        "model.encoder.mlp": (encoder.mlp, 1),
        "sub_batches.count": (stage.sub_batches.count, 1),
        "sub_batches.tokens": (stage.sub_batches.tokens, 0),
        "lora.rank": (stage.lora.rank, 0),
    }
    rules = [
        (found >= least, name, f"at least {least}", found)
        for name, (found, least) in at_least.items()
    ]
    rules += [
        (
            0 <= data.homogeneity <= 1,
            "data.homogeneity",
            "a share from 0 to 1",
            data.homogeneity,
        ),
        (
            data.temperature is None or data.temperature > 0,
            "data.temperature",
            "above 0",
            data.temperature,
        ),
        (
            stage.epochs is None or stage.examples is None,
            "epochs",
            "epochs or examples",
            "both",
        ),
        (
            stage.epochs is None or 0 < stage.epochs < float("inf"),
            "epochs",
            "above 0",
            stage.epochs,
        ),
        (
            stage.examples is None or stage.examples > 0,
            "examples",
            "above 0",
            stage.examples,
        ),
        (
            stage.epochs is not None
            or stage.examples is not None
            or (stage.optimizer.warmup_steps or 0) <= stage.steps,
            "optimizer.warmup_steps",
            f"at most steps={stage.steps}",
            stage.optimizer.warmup_steps,
        ),
        (
            sum(
                value != default
                for value, default in (
                    (stage.sub_batches.count, 1),
                    (stage.sub_batches.tokens, 0),
                    (stage.sub_batches.preset, ""),
                )
            )
            <= 1,
            "sub_batches",
            "a count, tokens or a preset",
            "several of them",
        ),
        (
            max(lengths) <= encoder.max_length,
            "data lengths",
            f"at most {encoder.max_length} tokens, by model.encoder.max_positions",
            max(lengths),
        ),
        (
            not isinstance(stage.model, RerankerConfig)
            or data.pair_length <= encoder.max_length,
            "data.pair_length",
            f"at most {encoder.max_length} tokens, by model.encoder.max_positions",
            data.pair_length,
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
            0 <= stage.optimizer.warmup <= 1,
            "optimizer.warmup",
            "a share from 0 to 1",
            stage.optimizer.warmup,
        ),
    ]
    check_checkpoints(stage.checkpoints)
    for holds, where, expected, found in rules:
        if not holds:
            raise InputError(expected, f"{found}", where=where)


def _own_lengths(data: DataConfig) -> list[int]:
    """Lengths that data sets have in place of the common ones."""
    given = (
        x for one in datasets(data) for x in (one.query_length, one.passage_length)
    )
    return [length for length in given if length is not None]


def steps_of(stage: Train, plan: Plan) -> int:
    """Updates in all, also where epochs or examples are asked for.

    Args:
        stage: the config.
        plan: of its data.

    Returns:
        At least 1.
    """
    if stage.epochs is not None:
        return max(1, round(stage.epochs * plan.steps_per_epoch))
    if stage.examples is not None:
        each = plan.rows_per_epoch / plan.steps_per_epoch
        return max(1, math.ceil(stage.examples / each))
    return stage.steps
