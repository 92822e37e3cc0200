"""`python -m m3jax.train --config configs/NAME.py`: train, evaluate, export."""

import dataclasses
import sys
from pathlib import Path

from m3jax.core import cli, distributed
from m3jax.pipeline import flags

PROG = "python -m m3jax.train"
# One process does what these ask for, on a host of a pod too.
_ALONE = ("-h", "--help", "--topology")
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
    profile: str | None = None
    """Trace these steps for TensorBoard, e.g. 10:13."""
    topology: str | None = None
    """Train nothing: compile every step for a slice of TPUs, such as v5e:4x4, and say
    whether it fits and how fast it could be. Needs the extra tpu, and no TPU."""
    json: bool = False
    """With --topology: as JSON."""
    coordinator: str | None = None
    """Of several processes: HOST:PORT of the first. Without this and the next two
    flags, Slurm, Open MPI or a TPU pod says whether there are several."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""
    start_timeout: float = distributed.TIMEOUT
    """Seconds in which all have to come."""


def main() -> None:
    """Run the program."""
    args = sys.argv[1:]
    alone = any(word.partition("=")[0] in _ALONE for word in args)
    if not alone:
        # The config is Python, and may look at the devices.
        distributed.start(**distributed.from_args(args))
    program, stages, name = flags.parse(
        Program, args, prog=PROG, description=DESCRIPTION
    )

    if program.topology is not None:
        from m3jax.pipeline.stages import split
        from m3jax.pipeline.topology import tell

        trains, _ = split(stages)
        fits = tell(
            trains, program.topology, as_json=program.json, config=program.config
        )
        sys.exit(0 if fits else 1)

    from m3jax.core.cache import keep_compiled
    from m3jax.pipeline.train import run_stages
    from m3jax.training import notice, preemption
    from m3jax.training.profiling import parse_profile

    folder = Path(program.run_dir or Path("runs") / name)
    keep_compiled()
    profile = None if program.profile is None else parse_profile(program.profile)
    with preemption.leaving(), notice.listen():
        run_stages(stages, folder, fresh=program.fresh, profile=profile)


if __name__ == "__main__":
    cli.run(main)
