"""`python -m m3jax.inspect --config configs/NAME.py`: look at the data of a run."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from m3jax.core import cli
from m3jax.core.errors import InputError
from m3jax.pipeline import flags

PROG = "python -m m3jax.inspect"
DESCRIPTION = (
    "Show the data of a training as the model will read it: data sets, lengths, "
    "shapes, padding, rows left out, and some rows. Flags are those of "
    "python -m m3jax.train: name a --config to see them."
)


@dataclass(frozen=True)
class Program:
    """What to look at, and where to."""

    config: str
    """Python file with a function get_config, e.g. configs/quickstart.py."""
    size: str | None = None
    """Which of the config's sizes; its docstring lists them."""
    output: str | None = None
    """Folder for inspect.json and the plots [default: runs/inspect/CONFIG, or
    runs/inspect/CONFIG-SIZE]."""
    stage: str | None = None
    """Which of several stages [default: the first]."""
    samples: int = 3
    """Rows shown of each data set."""
    plot_steps: int | None = None
    """Steps drawn in mixture.png [default: those of the run, at most 2,000]."""
    devices: int | None = None
    """Devices that the run will have, for the sizes of its batches [default: those
    that are here, which are left alone where this is told]."""
    tokenizer: str | None = None
    """Folder with a tokenizer to count with [default: that of the run, which may have
    to be trained first]."""


def main() -> None:
    """Run the program."""
    program, made, name = flags.parse(
        Program, sys.argv[1:], prog=PROG, description=DESCRIPTION
    )
    folder = Path(program.output or Path("runs") / "inspect" / name)
    _check(program, folder)

    from m3jax.pipeline.stages import split  # takes longer than --help may

    stages, _ = split(made)
    if program.stage is not None and program.stage not in stages:
        known = ", ".join(stages)
        raise InputError(f"one of {known}", program.stage, where="--stage")
    chosen = program.stage or next(iter(stages))

    from m3jax.core import config, files
    from m3jax.pipeline.inspection import inspect
    from m3jax.pipeline.inspection_plots import write_plots
    from m3jax.pipeline.inspection_tables import show

    found, drawn = inspect(
        stages,
        chosen,
        tokenizer=program.tokenizer,
        devices=program.devices,
        samples=program.samples,
        steps=program.plot_steps,
    )
    show(found, program.samples)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(found), indent=2, ensure_ascii=False)
    files.write_text(folder / "inspect.json", f"{text}\n")
    write_plots(folder, drawn)
    print(f"\nnumbers and plots: {folder}")


def _check(program: Program, folder: Path) -> None:
    """Refuse values that nothing can be done with, before anything is read."""
    for name, found, least in (
        ("--samples", program.samples, 0),
        ("--plot-steps", program.plot_steps, 1),
        ("--devices", program.devices, 1),
    ):
        if found is not None and found < least:
            raise InputError(f"at least {least}", f"{found}", where=name)
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir():
        do = "Name another --output."
        raise InputError("a folder, or none yet", "a file", where=str(there), do=do)


if __name__ == "__main__":
    cli.run(main)
