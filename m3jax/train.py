"""`python -m m3jax.train --config configs/NAME.py`: train, evaluate, export."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from m3jax.core import cli, config
from m3jax.core.errors import InputError

PROG = "python -m m3jax.train"
DESCRIPTION = (
    "Train a text-embedding model as a config file says, evaluate it and export it. "
    "The same command run again goes on where it stopped. Every field of the config "
    "is a flag: name a --config to see them."
)


@dataclasses.dataclass(frozen=True)
class Program:
    """What to run and where; no part of a run's identity."""

    config: str
    """Python file with a function get_config, e.g. configs/quickstart.py."""
    size: str | None = None
    """Which of the config's sizes; its docstring lists them."""
    run_dir: str | None = None
    """Folder of the run [default: runs/CONFIG, or runs/CONFIG-SIZE]."""
    fresh: bool = False
    """Remove what an earlier run left in the folder, and start anew."""


def main() -> None:
    """Run the program."""
    import tyro

    args = sys.argv[1:]
    path, size = _word(args, "--config"), _word(args, "--size")
    if path is None:
        # Either this prints the help and ends, or it says that --config is needed.
        config.parse_flags(Program, args, prog=PROG, description=DESCRIPTION)
        raise InputError("a value", "none", where="--config")
    get_config = config.load(path)
    stage = config.call(get_config, size=size, where=path)

    from m3jax.core.cache import keep_compiled
    from m3jax.pipeline.train import Train, run_train

    if not isinstance(stage, Train):
        raise InputError(
            "get_config to return a Train", type(stage).__name__, where=path
        )
    bare: Any = tyro.conf.arg(name="")
    flags = dataclasses.make_dataclass(
        "Flags",
        [("program", Annotated[Program, bare]), ("stage", Annotated[Train, bare])],
        frozen=True,
    )
    parsed = config.parse_flags(
        flags,
        args,
        prog=PROG,
        description=DESCRIPTION,
        default=flags(Program(path, size), stage),
    )
    name = Path(path).stem if size is None else f"{Path(path).stem}-{size}"
    folder = Path(parsed.program.run_dir or Path("runs") / name)
    keep_compiled()
    run_train(parsed.stage, folder, fresh=parsed.program.fresh)


def _word(args: list[str], flag: str) -> str | None:
    """The value of a flag that decides what the other flags are."""
    for i, word in enumerate(args):
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
        if word == flag and i + 1 < len(args):
            return args[i + 1]
    return None


if __name__ == "__main__":
    cli.run(main)
