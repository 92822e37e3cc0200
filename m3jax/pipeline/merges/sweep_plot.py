"""The curve of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m3jax.training.plots import save

if TYPE_CHECKING:
    from m3jax.pipeline.merges.sweep import Point

_NAMES = {"t": "t, from the first model to the second"}


def write_plot(path: Path, name: str, points: "Sequence[Point]", best: "Point") -> None:
    """Draw the score of every set over what was swept.

    Sets that select are dashed, sets that do not are solid, means are thick. What the
    models score alone is dotted, where no end of the curve shows it.

    Args:
        path: the PNG file.
        name: what was swept.
        points: of the sweep.
        best: which of them was selected.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib

    matplotlib.use("agg")  # no window, no display needed
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    by_value = {x.value: x for x in points if x.value is not None}
    values = sorted(by_value)
    merged = [by_value[value] for value in values]
    titles = list(dict.fromkeys([*best.dev, *best.test]))
    colors = {title: f"C{number}" for number, title in enumerate(titles)}
    for part, line in (("dev", "--"), ("test", "-")):
        known = getattr(best, part)
        for title in known:
            scores = [getattr(point, part)[title] for point in merged]
            axis.plot(
                values,
                scores,
                line,
                color=colors[title],
                marker=".",
                linewidth=1,
                label=f"{part}: {title}",
            )
        if len(known) > 1:
            mean = [sum(getattr(x, part).values()) / len(known) for x in merged]
            axis.plot(values, mean, line, color="black", linewidth=2, label=part)
    if name != "t":
        for point in points:
            if point.value is None:
                height = point.selects if point.tested is None else point.tested
                axis.axhline(height, color="gray", linestyle=":", linewidth=0.8)
                axis.annotate(
                    f"{point.label} alone, mean",
                    (values[0], height),
                    xytext=(0, 2),
                    textcoords="offset points",
                    fontsize=7,
                    color="gray",
                )
    axis.axvline(best.value or 0.0, color="gray", linewidth=0.8)
    axis.set(
        xlabel=_NAMES.get(name, name),
        ylabel="nDCG@10, or Spearman",
        title=f"Selected on dev: {best.label}",
    )
    figure.legend(fontsize=8, loc="outside right upper")
    save(figure, path)
