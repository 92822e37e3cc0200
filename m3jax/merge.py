"""`python -m m3jax.merge --models A B --output C`: one model of several."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from m3jax.core import cli, config
from m3jax.core.errors import InputError
from m3jax.pipeline.merges.config import MergeConfig

PROG = "python -m m3jax.merge"
DESCRIPTION = (
    "Merge models of one architecture into one: slerp between two of them, a weighted "
    "mean, or what they learned added to their base. The files are read in blocks, so "
    "a model may be larger than the memory. Example: python -m m3jax.merge --method "
    "slerp --t 0.5 --models runs/a runs/b --output merged"
)
Bare = Annotated[MergeConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Merge:
    """Which models, how, and where to."""

    output: str
    """A new folder, or an earlier export, which is replaced."""
    merge: Bare = field(default_factory=MergeConfig)
    pooling: Literal["cls", "mean", "last"] | None = None
    """How token states become one vector, for folders that do not say."""
    like: str | None = None
    """Hub id of a known model whose pooling and prompts hold for folders that do not
    say, e.g. intfloat/e5-base-v2."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(Merge, sys.argv[1:], prog=PROG, description=DESCRIPTION)
    # Files are merged on the host: no device is taken from who else uses it.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    output = Path(flags.output)

    from m3jax.pipeline.merges.run import opened, write

    try:
        with opened(
            flags.merge, output, pooling=flags.pooling, like=flags.like
        ) as found:
            write(found, output)
    except InputError as error:
        raise _as_flag(error) from None
    print(f"{output}  {flags.merge.method} of {len(found.models)} models")


def _as_flag(error: InputError) -> InputError:
    """An error in a field, told as one in its flag."""
    names = (*MergeConfig.__dataclass_fields__, "output")
    if error.where not in names:
        return error
    flag = f"--{error.where.replace('_', '-')}"
    do = error.do.replace("total=", "--total ").replace("outside=", "--outside ")
    return InputError(error.expected, error.found, where=flag, do=do)


if __name__ == "__main__":
    cli.run(main)
