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

from m3jax.core import progress
from m3jax.core.errors import InputError
from m3jax.hub.model_files import place_all
from m3jax.merging import trees
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.measure import Measure, Measured, require_finite
from m3jax.pipeline.merges.parents import Parent, differences
from m3jax.pipeline.merges.recipe import WITH_BASE, make_recipe
from m3jax.pipeline.merges.run import Opened
from m3jax.pipeline.run import facts

_MOST = 1_000


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
        parts = [float(x) for x in numbers.split(":" if ":" in numbers else ",")]
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
    field = "weights" if name == "t" and config.method != "slerp" else name
    if getattr(config, field) != getattr(Merge(), field):
        found = f"{getattr(config, field)} beside {text}"
        raise InputError(f"no {field} of its own in a sweep", found, where=field)
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
    dev: Measure,
    test: Measure,
    *,
    mesh: Mesh | None = None,
    known: Sequence[Point] = (),
    each: Callable[[Sequence[Point]], None] = lambda points: None,
) -> list[Point]:
    """Measure the models, and what they are merged to at every value.

    All models are in memory, and one merged one beside them. Every model alone is
    measured with its own prompts and heads, a merged one with those of the first.

    Args:
        given: the models.
        sweep: what is tried.
        dev: measures on the sets that select.
        test: measures on the sets that do not.
        mesh: devices that hold the models; None = the default one.
        known: points that were measured before, by an interrupted sweep.
        each: is told of all points so far, after every one.

    Returns:
        The points, the models alone first.

    Raises:
        InputError: a value is refused by the method, or a model holds NaN.
    """
    config, first, labels = given.config, given.models[0], _labels(given.models)
    recipes = {
        value: make_recipe(at(config, sweep, value), len(config.models))
        for value in sweep.values
    }
    alone = [point for point in known if point.value is None]
    merged = {point.value: point for point in known if point.value is not None}
    to = "device" if mesh is None else mesh
    held = [place_all(one.parts, to, dtype="float32") for one in given.parents]
    for one, params in zip(given.parents, held, strict=True):
        require_finite(one, params)
    base, models = (held[0], held[1:]) if config.method in WITH_BASE else (None, held)
    found: list[Point] = []
    with progress.bar("sweep", len(models) + len(recipes), "models") as advance:

        def add(point: Point) -> None:
            found.append(point)
            each(found)
            advance(1)

        for number, (one, params) in enumerate(zip(given.models, models, strict=True)):
            if number < len(alone):
                add(alone[number])
                continue
            scores = dev(one, params), test(one, params)
            add(Point(labels[number], None, *scores))
        ends = {0.0: found[0], 1.0: found[-1]} if _ends_alone(given, sweep) else {}
        for value, recipe in recipes.items():
            label = f"{sweep.name} = {value:g}"
            if value in ends:
                add(dataclasses.replace(ends[value], label=label, value=value))
                continue
            if value in merged:
                add(merged[value])
                continue
            params = trees.merge(
                recipe.method,
                models,
                recipe.setting,
                per=config.per,
                keep=config.keep,
                base=base,
            )
            add(Point(label, value, dev(first, params), test(first, params)))
    return found


def about(
    given: Opened,
    sweep: Sweep,
    sets: Mapping[str, Mapping[str, Measured]],
    *,
    max_length: int,
) -> dict[str, Any]:
    """What the points of a sweep depend on, as JSON values.

    Args:
        given: the models, with fingerprints.
        sweep: what is tried.
        sets: dev and test: title -> set.
        max_length: tokens kept of each text.

    Returns:
        The same for two sweeps whose points are the same at the same values.
    """
    config = dataclasses.asdict(given.config)
    del config[sweep.name]
    prints = {
        part: {title: facts(one)["fingerprint"] for title, one in each.items()}
        for part, each in sets.items()
    }
    told = {
        "name": sweep.name,
        "merge": config,
        "fingerprints": [one.fingerprint for one in given.parents],
        "sets": prints,
        "max_length": max_length,
    }
    return json.loads(json.dumps(told))


def _ends_alone(given: Opened, sweep: Sweep) -> bool:
    """Whether t = 0 and t = 1 are the models themselves, bit for bit."""
    config = given.config
    mixed = config.keep or config.t_at or config.weights_at
    return sweep.name == "t" and not mixed and not differences(given.models)


def _labels(models: Sequence[Parent]) -> list[str]:
    """What models are called in a table."""
    names = [_short(one.name) for one in models]
    return names if len({*names}) == len(names) else [one.name for one in models]


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
