"""Which t, or scale, or density: every one is measured, and the dev sets select."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from jax.sharding import Mesh
from rich.table import Table

from m3jax.core import files, progress
from m3jax.core.errors import InputError
from m3jax.core.types import Params
from m3jax.hub.model_files import place_all
from m3jax.merging import trees
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.recipe import WITH_BASE, make_recipe
from m3jax.pipeline.merges.run import Opened

_MOST = 1_000
Score = Callable[[Params], dict[str, float]]


@dataclass(frozen=True)
class Sweep:
    """What is tried.

    Attributes:
        name: t, scale or density.
        values: of it.
    """

    name: Literal["t", "scale", "density"]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """What one merged model scores.

    Attributes:
        label: for tables.
        value: of what is swept; None = a model alone.
        dev: title -> score.
        test: title -> score.
    """

    label: str
    value: float | None
    dev: Mapping[str, float]
    test: Mapping[str, float]

    @property
    def selects(self) -> float:
        """Mean over the dev sets."""
        return fmean(self.dev.values())

    @property
    def tested(self) -> float | None:
        """Mean over the test sets; None where there are none."""
        return fmean(self.test.values()) if self.test else None


def parse_sweep(text: str, config: Merge) -> Sweep:
    """Read NAME=FIRST:LAST:STEP, or NAME=VALUE,VALUE.

    Args:
        text: the words.
        config: whose method has to have such an option.

    Returns:
        The sweep.

    Raises:
        InputError: it says something else.

    Example:
        >>> parse_sweep("t=0:1:0.25", Merge()).values
        (0.0, 0.25, 0.5, 0.75, 1.0)
    """
    name, _, numbers = text.partition("=")
    known = {"ties": ("scale", "density"), "task_arithmetic": ("scale",)}
    names = known.get(config.method, ("t",))
    expected = f"{' or '.join(names)}=FIRST:LAST:STEP, or =VALUE,VALUE"
    wrong = InputError(expected, repr(text), where="sweep")
    if name not in names:
        raise wrong
    try:
        parts = [float(x) for x in numbers.replace(":", ",").split(",")]
    except ValueError:
        raise wrong from None
    if not all(map(math.isfinite, parts)):
        raise wrong
    if ":" in numbers:
        if len(parts) != 3 or parts[2] <= 0 or parts[1] < parts[0]:
            raise wrong
        first, last, step = parts
        count = int((last - first) / step + 1e-9) + 1
        if count > _MOST:
            raise InputError(f"at most {_MOST} values", f"{count}", where="sweep")
        parts = [round(first + n * step, 10) for n in range(count)]
    if config.method in ("linear", "multi_slerp") and len(config.models) != 2:
        expected = "two models, whose weights are 1 - t and t"
        raise InputError(expected, f"{len(config.models)}", where="sweep")
    return Sweep(name, tuple(dict.fromkeys(parts)))  # type: ignore[arg-type]


def at(config: Merge, sweep: Sweep, value: float) -> Merge:
    """The config of one value.

    Example:
        >>> at(Merge(method="linear"), Sweep("t", (0.25,)), 0.25).weights
        (0.75, 0.25)
    """
    if sweep.name == "t" and config.method != "slerp":
        return dataclasses.replace(config, weights=(1 - value, value))
    changes: dict[str, Any] = {sweep.name: value}
    return dataclasses.replace(config, **changes)


def run_sweep(
    given: Opened,
    sweep: Sweep,
    dev: Score,
    test: Score,
    *,
    mesh: Mesh | None = None,
) -> list[Point]:
    """Measure the models, and what they are merged to at every value.

    All models are in memory, and one merged one beside them; nothing is written.

    Args:
        given: the models.
        sweep: what is tried.
        dev: measures on the sets that select.
        test: measures on the sets that do not.
        mesh: devices that hold the models; None = the default one.

    Returns:
        The points, the models alone first.

    Raises:
        InputError: a value is refused by the method.
    """
    config = given.config
    recipes = {
        value: make_recipe(at(config, sweep, value), len(config.models))
        for value in sweep.values
    }
    to = "device" if mesh is None else mesh
    held = [place_all(one.parts, to, dtype="float32") for one in given.parents]
    base, models = (held[0], held[1:]) if config.method in WITH_BASE else (None, held)
    found: list[Point] = []
    with progress.bar("sweep", len(models) + len(recipes), "models") as advance:

        def measure(label: str, value: float | None, params: Params) -> None:
            found.append(Point(label, value, dev(params), test(params)))
            advance(1)

        for one, params in zip(given.models, models, strict=True):
            measure(_short(one.name), None, params)
        ends = {0.0: found[0], 1.0: found[-1]} if _ends_alone(config, sweep) else {}
        for value, recipe in recipes.items():
            label = f"{sweep.name} = {value:g}"
            if value in ends:
                found.append(dataclasses.replace(ends[value], label=label, value=value))
                advance(1)
                continue
            merged = trees.merge(
                recipe.method,
                models,
                recipe.setting,
                per=config.per,
                keep=config.keep,
                base=base,
            )
            measure(label, value, merged)
    return found


def _ends_alone(config: Merge, sweep: Sweep) -> bool:
    """Whether t = 0 and t = 1 are the models themselves, bit for bit."""
    return sweep.name == "t" and not (config.keep or config.t_at or config.weights_at)


def _short(name: str) -> str:
    """What a local model is called in a table; the folder `model` is a run's."""
    path = Path(name)
    if not path.exists():
        return name
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def best_of(points: Sequence[Point]) -> Point:
    """The merged model with the highest mean on the dev sets, the first of equals.

    Example:
        >>> points = [Point(f"{x}", x, {"a": x * (1 - x)}, {}) for x in (0, 0.5, 1)]
        >>> best_of(points).value
        0.5
    """
    return max((x for x in points if x.value is not None), key=lambda x: x.selects)


def verdict(points: Sequence[Point]) -> str:
    """In a sentence: the best merged model beside the best of the models alone.

    Example:
        >>> alone = Point("A", None, {"a": 0.5}, {"b": 0.4})
        >>> verdict([alone, Point("t = 0.5", 0.5, {"a": 0.6}, {"b": 0.45})])
        't = 0.5: dev 0.6000, test 0.4500; the best model alone, A: dev 0.5000, \
test 0.4000'
    """
    best = best_of(points)
    alone = max((x for x in points if x.value is None), key=lambda x: x.selects)

    def scores(point: Point) -> str:
        test = "" if point.tested is None else f", test {point.tested:.4f}"
        return f"{point.label}: dev {point.selects:.4f}{test}"

    return f"{scores(best)}; the best model alone, {scores(alone)}"


def sweep_table(points: Sequence[Point]) -> Table:
    """All points, and a star at the best.

    Args:
        points: of a sweep.

    Returns:
        The table, for a rich console to print.

    Example:
        >>> sweep_table([Point("t = 0", 0.0, {"a": 0.5}, {"b": 0.4})]).row_count
        1
    """
    header, rows = _cells(points)
    made = Table()
    for number, name in enumerate(header):
        made.add_column(
            name, justify="left" if number == 0 else "right", overflow="fold"
        )
    for row in rows:
        made.add_row(*row)
    return made


def sweep_card(points: Sequence[Point]) -> str:
    """All points in Markdown, for the model card.

    Example:
        >>> print(sweep_card([Point("t = 0", 0.0, {"a": 0.5}, {})]))
        ## Sweep
        <BLANKLINE>
        The dev sets selected the model (*).
        <BLANKLINE>
        | | dev: a |
        | --- | ---: |
        | t = 0 * | 0.5000 |
    """
    header, rows = _cells(points)
    lines = ["## Sweep", "", "The dev sets selected the model (*).", ""]
    lines.append(f"| {' | '.join(header)} |".replace("|  |", "| |"))
    lines.append(f"| --- |{' ---: |' * (len(header) - 1)}")
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def write_sweep(folder: Path, sweep: Sweep, points: Sequence[Point]) -> None:
    """Write numbers and curve: sweep.json and sweep.png.

    Args:
        folder: gets both.
        sweep: what was tried.
        points: what was found.

    Raises:
        OSError: the folder cannot be written to.
    """
    from m3jax.pipeline.merges.sweep_plot import write_plot

    folder.mkdir(parents=True, exist_ok=True)
    best = best_of(points)
    told = {
        "name": sweep.name,
        "best": best.value,
        "points": [dataclasses.asdict(point) for point in points],
    }
    files.write_text(folder / "sweep.json", json.dumps(told, indent=2) + "\n")
    write_plot(folder / "sweep.png", sweep.name, points, best)


def _cells(points: Sequence[Point]) -> tuple[list[str], list[list[str]]]:
    """Names of columns, and rows."""
    dev, test = points[0].dev, points[0].test
    header = ["", *(f"dev: {title}" for title in dev)]
    header += ["dev"] if len(dev) > 1 else []
    header += [f"test: {title}" for title in test]
    header += ["test"] if len(test) > 1 else []
    best = best_of(points)
    rows = []
    for point in points:
        numbers = [point.dev[title] for title in dev]
        numbers += [point.selects] if len(dev) > 1 else []
        numbers += [point.test[title] for title in test]
        numbers += [fmean(point.test.values())] if len(test) > 1 else []
        star = " *" if point is best else ""
        rows.append([point.label + star, *(f"{x:.4f}" for x in numbers)])
    return header, rows
