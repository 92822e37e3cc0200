"""Which checkpoints stay: apart from `checkpoint`, so that configs need no orbax."""

from dataclasses import dataclass

from m3jax.core.errors import InputError


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay; the best by the dev metric always does."""

    keep_last: int = 2
    """So many of the last ones; 2 outlive a damaged one."""
    keep_every: int = 0
    """Also those whose step is a multiple of this; 0 = none."""


def check_checkpoints(config: CheckpointConfig) -> None:
    """Refuse numbers that no run can have.

    Raises:
        InputError: names the field.

    Example:
        >>> check_checkpoints(CheckpointConfig(keep_last=0))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: checkpoints.keep_last: expected at least 1, \
found 0
    """
    for name, least in (("keep_last", 1), ("keep_every", 0)):
        if getattr(config, name) < least:
            found = f"{getattr(config, name)}"
            raise InputError(f"at least {least}", found, where=f"checkpoints.{name}")
