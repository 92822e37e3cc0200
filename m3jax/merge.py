"""`python -m m3jax.merge --models A B --output C`: one model of several."""

import functools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from m3jax.core import cli, config
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig
from m3jax.pipeline.merges.config import Merge

if TYPE_CHECKING:
    from m3jax.pipeline.merges.run import Opened

PROG = "python -m m3jax.merge"
DESCRIPTION = (
    "Merge models of one architecture into one: slerp between two of them, a weighted "
    "mean, or what they learned added to their base. The files are read in blocks, so "
    "a model may be larger than the memory. Example: python -m m3jax.merge --method "
    "slerp --t 0.5 --models runs/a runs/b --output merged"
)
# Flags that only these read.
_READ_BY = {
    "temperature": ("examples",),
    "batch_tokens": ("sweep",),
    "max_length": ("sweep", "examples"),
    "mesh": ("sweep", "examples"),
}
Bare = Annotated[Merge, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Program:
    """Which models, how, and where to."""

    output: str
    """A new folder, or an earlier export, which is replaced."""
    merge: Bare = field(default_factory=Merge)
    sweep: str | None = None
    """Try many values and keep the best on --dev: t=0:1:0.1 of slerp, or of linear and
    multi_slerp of two models, whose weights are then 1 - t and t; scale=0.5:1.5:0.25 of
    task_arithmetic and ties; density=0.1,0.2,0.5 of ties. All models are in memory."""
    dev: tuple[str, ...] = ()
    """Sets that select: folders in BEIR's layout, graded pairs, or "builtin"."""
    test: tuple[str, ...] = ()
    """Sets that are measured, and never select."""
    examples: str | None = None
    """linear, multi_slerp: a file of a few rows of query, pos and neg; the better a
    model does on them, the larger its weight (LM-Cocktail)."""
    temperature: float = 5.0
    """Of --examples: weights are softmax(-loss / temperature)."""
    max_length: int = 512
    """Tokens kept of each text in a sweep, and of examples."""
    batch_tokens: int | None = None
    """Tokens in a batch of these; fewer if the device runs out of memory."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    pooling: Literal["cls", "mean", "last"] | None = None
    """How token states become one vector, for folders that do not say."""
    like: str | None = None
    """Hub id of a known model whose pooling and prompts hold for all models, e.g.
    intfloat/e5-base-v2."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(
        Program, sys.argv[1:], prog=PROG, description=DESCRIPTION
    )
    _check(flags)
    if flags.sweep is None and flags.examples is None:
        # Files are merged on the host: no device is taken from who else uses it.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    output = Path(flags.output)

    from m3jax.pipeline.merges.run import opened, write

    try:
        with opened(
            flags.merge, output, pooling=flags.pooling, like=flags.like
        ) as found:
            more = ""
            if flags.examples is not None:
                found = _weighed(flags, found)
            if flags.sweep is not None:
                found, more = _swept(flags, found, output)
            write(found, output, more=more)
    except InputError as error:
        raise _as_flag(error) from None
    print(f"{output}  {flags.merge.method} of {len(found.models)} models")


def _check(flags: Program) -> None:
    """Refuse flags that do not go together, before anything is read."""
    method = flags.merge.method
    if (flags.sweep is None) != (not flags.dev):
        found = "only one of them"
        raise InputError("--sweep with --dev, which selects", found, where=PROG)
    if flags.test and flags.sweep is None:
        raise InputError("--sweep", "--test alone", where=PROG)
    usual = Program(flags.output)
    for name, readers in _READ_BY.items():
        idle = all(getattr(flags, reader) is None for reader in readers)
        if idle and getattr(flags, name) != getattr(usual, name):
            expected = " or ".join(f"--{reader}" for reader in readers)
            flag = f"--{name.replace('_', '-')}"
            raise InputError(expected, "none", where=flag)
    if flags.examples is None:
        return
    if method not in ("linear", "multi_slerp") or flags.merge.weights or flags.sweep:
        raise InputError(
            "linear or multi_slerp, without --weights and --sweep",
            f"{method}" + (" with them" if method in ("linear", "multi_slerp") else ""),
            where="--examples",
        )


def _weighed(flags: Program, given: "Opened") -> "Opened":
    """With weights by examples."""
    from m3jax.core.mesh import inference_mesh
    from m3jax.pipeline.merges import examples
    from m3jax.pipeline.merges.run import changed

    found, weights = examples.example_weights(
        given.models,
        examples.read_examples(flags.examples or ""),
        temperature=flags.temperature,
        max_length=flags.max_length,
        mesh=inference_mesh(flags.mesh),
    )
    for one, loss, weight in zip(given.models, found, weights, strict=True):
        _say(f"{one.name}: loss {loss:.4f}, weight {weight:.4f}")
    return changed(given, weights=tuple(weights))


def _swept(flags: Program, given: "Opened", output: Path) -> tuple["Opened", str]:
    """The best of a sweep, and what the card says of it."""
    from rich.console import Console

    from m3jax.core.mesh import inference_mesh
    from m3jax.pipeline.merges import measure, sweep, sweep_report
    from m3jax.pipeline.merges.run import changed, identified

    asked = sweep.parse_sweep(flags.sweep or "", given.config)
    mesh = inference_mesh(flags.mesh)
    sets = {
        "dev": measure.open_sets(flags.dev, "dev"),
        "test": measure.open_sets(flags.test, "test"),
    }
    make = functools.partial(
        measure.scorer,
        max_length=flags.max_length,
        batch_tokens=flags.batch_tokens,
        mesh=mesh,
    )
    given = identified(given)
    about = sweep.about(given, asked, sets, max_length=flags.max_length)
    folder = output.with_name(f"{output.name}-sweep")
    both = set(about["sets"]["dev"].values()) & set(about["sets"]["test"].values())
    if both:
        _say("note: a test set is also a dev set, so its score was selected")
    known = sweep_report.read_points(folder, about)
    if known:
        _say(f"goes on from {len(known)} models measured before: {folder}")

    def each(points: Sequence[sweep.Point]) -> None:
        sweep_report.write_points(folder, about, points)
        if not sys.stderr.isatty():  # where there is no bar
            _say(sweep_report.in_line(points[-1]))

    points = sweep.run_sweep(
        given,
        asked,
        make(sets["dev"]),
        make(sets["test"]),
        mesh=mesh,
        known=known,
        each=each,
    )
    Console().print(sweep_report.sweep_table(points))
    sweep_report.write_curve(folder, asked, points)
    print(f"{folder / 'sweep.png'}  {sweep_report.verdict(points)}")
    best = sweep.at(given.config, asked, sweep.best_of(points).value or 0.0)
    options = {
        name: getattr(best, name) for name in ("t", "weights", "scale", "density")
    }
    return changed(given, **options), sweep_report.sweep_card(points)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _as_flag(error: InputError) -> InputError:
    """An error in a field, told as one in its flag."""
    names = (*Merge.__dataclass_fields__, "output", "sweep", "dev", "test")
    if error.where not in names:
        return error
    flag = f"--{error.where.replace('_', '-')}"
    do = error.do.replace("total=", "--total ").replace("outside=", "--outside ")
    expected = error.expected
    if expected.startswith("an option of"):
        expected = expected.replace("_at", "-at")
    return InputError(expected, error.found, where=flag, do=do)


if __name__ == "__main__":
    cli.run(main)
