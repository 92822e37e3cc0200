"""What a sweep leaves behind: a table, a curve, and numbers to go on from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.hub.layout import read_json
from m3jax.pipeline.merges.sweep import Point, Sweep, best_of

_NUMBERS = "sweep.json"


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

    return f"{in_line(best)}; the best model alone, {in_line(alone)}"


def in_line(point: Point) -> str:
    """The means of a model in a line.

    Example:
        >>> in_line(Point("t = 0.5", 0.5, {"a": 0.6}, {}))
        't = 0.5: dev 0.6000'
    """
    test = "" if point.tested is None else f", test {point.tested:.4f}"
    return f"{point.label}: dev {point.selects:.4f}{test}"


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


def read_points(folder: Path, about: Mapping[str, Any]) -> list[Point]:
    """Points that an earlier sweep of the same models on the same sets has measured.

    Args:
        folder: of the sweep; need not exist.
        about: see `about`.

    Returns:
        The points; none where it was another sweep.

    Raises:
        InputError: another file has the name of that of a sweep.
    """
    path = folder / _NUMBERS
    if not path.is_file():
        return []
    told = read_json(path)
    if "about" not in told or "points" not in told:
        do = "Name another --output."
        raise InputError(
            "the numbers of a sweep", "another file", where=f"{path}", do=do
        )
    if told["about"] != about:
        return []
    return [Point(**one) for one in told["points"]]


def write_points(
    folder: Path, about: Mapping[str, Any], points: Sequence[Point]
) -> None:
    """Write the numbers of a sweep so far: sweep.json.

    Args:
        folder: gets it.
        about: see `about`.
        points: what was found.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merged = any(x.value is not None for x in points)
    told = {
        "best": best_of(points).value if merged else None,
        "points": [dataclasses.asdict(point) for point in points],
        "about": about,
    }
    files.write_text(folder / _NUMBERS, json.dumps(told, indent=2) + "\n")


def write_curve(folder: Path, sweep: Sweep, points: Sequence[Point]) -> None:
    """Write the curve of a sweep: sweep.png.

    Args:
        folder: gets it.
        sweep: what was tried.
        points: what was found.

    Raises:
        OSError: the folder cannot be written to.
    """
    from m3jax.pipeline.merges.sweep_plot import write_plot

    write_plot(folder / "sweep.png", sweep.name, points, best_of(points))


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
