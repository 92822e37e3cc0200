"""Which models become one, and how."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Merge:
    """Which models become one, and how."""

    models: tuple[str, ...] = ()
    """Two or more: hub ids, model folders, finished runs (RUN), or checkpoints of a
    finished run (RUN/STAGE/checkpoints/STEP), in any mixture. The first one brings
    tokenizer, prompts and everything else that is no number."""
    method: Literal["slerp", "linear", "multi_slerp", "task_arithmetic", "ties"] = (
        "slerp"
    )
    """slerp: along the arc between two models. multi_slerp: the same for more. linear:
    weighted mean. task_arithmetic, ties: what the models learned beyond --base is added
    to it; ties drops what is small and what they disagree on."""
    t: float = 0.5
    """slerp: from 0, the first model, to 1, the second."""
    t_at: tuple[str, ...] = ()
    """slerp: another t for some tensors, as REGEX=T; the first regex that is found in a
    name, such as encoder.layers.7.mlp.up.kernel, decides."""
    weights: tuple[float, ...] = ()
    """Other methods: one a model [default: all the same; of linear and multi_slerp they
    sum to 1, of task_arithmetic and ties each is 1]."""
    weights_at: tuple[str, ...] = ()
    """Other weights for some tensors, as REGEX=W,W."""
    base: str | None = None
    """task_arithmetic, ties: what all models were trained from."""
    scale: float = 1.0
    """task_arithmetic, ties: of what is added to the base."""
    density: float = 0.2
    """ties: share of the numbers of each change that stays."""
    per: Literal["tensor", "tree", "row"] = "tensor"
    """What has one angle (slerp, multi_slerp) or one threshold (ties): every published
    tensor, the whole model, or every row of a tensor (not of ties)."""
    keep: tuple[str, ...] = ()
    """Regexes of tensors that stay as in the first model; others need not have them."""
    total: Literal["check", "normalise"] = "check"
    """Weights that do not sum to 1 are refused, or divided by their sum."""
    outside: Literal["refuse", "allow"] = "refuse"
    """A t below 0 or above 1 is refused, or goes on beyond the models."""
    last: int | None = None
    """Of one finished run: merge the last so many of the checkpoints that it kept."""
