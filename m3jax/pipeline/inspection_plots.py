"""Pictures of a run's data."""

from pathlib import Path
from typing import Any

import numpy as np

from m3jax.data.statistics import shares
from m3jax.pipeline.inspection import Drawn
from m3jax.training.plots import save

# Data sets that have a row of their own; the largest of them, if there are more.
_ROWS = 8
_NAME = 28
_POINTS = 2_000
_OTHERS = "lightgray"
# Between shares of padding; prompts and passages that are drawn differ by more.
_ALIKE = 0.005


def write_plots(folder: Path, drawn: Drawn) -> None:
    """Draw lengths, mixture and padding.

    Args:
        folder: gets lengths.png, mixture.png and padding.png.
        drawn: what `inspection.inspect` returned.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib

    matplotlib.use("agg")  # no window, no display needed
    save(_lengths(drawn), folder / "lengths.png")
    save(_mixture(drawn), folder / "mixture.png")
    save(_padding(drawn), folder / "padding.png")


def _lengths(drawn: Drawn) -> Any:
    """How long queries and passages are, and where the shapes end."""
    from matplotlib import pyplot

    plan, pairs = drawn.plan, list(zip(drawn.sets, drawn.lengths, strict=True))
    largest = sorted(pairs, key=lambda pair: -pair[0].rows.count)[:_ROWS]
    figure, axes = pyplot.subplots(
        len(largest),
        2,
        figsize=(9, 1.6 + 1.5 * len(largest)),
        layout="constrained",
        sharex="col",
        squeeze=False,
    )
    edges = (
        sorted({shape.query_length for shape in plan.shapes}),
        sorted({shape.passage_length for shape in plan.shapes}),
    )
    for row, (one, sides) in zip(axes, largest, strict=True):
        colors = "tab:blue", "tab:orange"
        for axis, lengths, ends, color in zip(row, sides, edges, colors, strict=True):
            bins = _bins(ends[-1])
            counts, _ = np.histogram(lengths, bins)
            axis.stairs(100 * counts / len(lengths), bins, fill=True, color=color)
            for end in ends:
                axis.axvline(end + 0.5, color="gray", linestyle=":", linewidth=0.8)
            axis.set_xlim(0, ends[-1] * 1.02 + 1)
        row[0].set_ylabel("% of rows")
        row[0].set_title(_short(one.name), loc="left", fontsize=10)
    more = len(pairs) - len(largest)
    title = "Tokens as they are kept; dotted: lengths that batches are padded to"
    if more:
        title += f"\n(the {len(largest)} largest data sets; {more} more are not drawn)"
    figure.suptitle(title, fontsize=11)
    axes[-1, 0].set_xlabel("tokens of a query")
    axes[-1, 1].set_xlabel("tokens of the longest passage of a row")
    return figure


def _mixture(drawn: Drawn) -> Any:
    """Batches of each data set so far against what was asked, and shape by step."""
    from matplotlib import pyplot, ticker

    plan = drawn.plan
    part, steps = drawn.part, np.arange(1, len(drawn.part) + 1)
    figure, (above, below) = pyplot.subplots(
        2,
        1,
        figsize=(9, 4.6 + 0.18 * len(plan.shapes)),
        layout="constrained",
        sharex=True,
        height_ratios=(3, 1 + 0.18 * len(plan.shapes)),
    )
    asked = shares(plan)
    order = sorted(range(len(asked)), key=lambda number: -asked[number])
    color_of = {number: _OTHERS for number in order}
    color_of |= {number: f"C{place}" for place, number in enumerate(order[:_ROWS])}
    thin = slice(None, None, -(-len(steps) // _POINTS))
    for place, number in enumerate(order):
        color, label = color_of[number], None
        if place < _ROWS:
            label = f"{_short(drawn.sets[number].name)} {asked[number]:.1%}"
        elif place == _ROWS:
            label = f"{len(order) - _ROWS} more"
        found = np.cumsum(part == number)
        above.step(steps[thin], found[thin], color=color, lw=1.2, label=label)
        line = asked[number] * steps
        above.plot(steps[thin], line[thin], color=color, linestyle=":", linewidth=1)
    above.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8)
    above.set(ylabel="batches so far")
    above.set_title("Data sets over the steps; dotted: as asked for", fontsize=11)
    below.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))

    colors = [color_of[int(number)] for number in part[thin]]
    below.scatter(steps[thin], drawn.shape[thin], s=14, c=colors, marker="|")
    below.margins(x=0.01)
    names = [f"{one.query_length} x {one.passage_length}" for one in plan.shapes]
    below.set_yticks(range(len(names)), names, fontsize=8)
    below.set_ylim(-0.6, len(names) - 0.4)
    below.set(xlabel="step", ylabel="query x passage")
    below.set_title("Shape of each step", fontsize=11)
    return figure


def _padding(drawn: Drawn) -> Any:
    """Where the computed tokens are, and which of them are padding."""
    from matplotlib import pyplot

    plan, filled, totals = drawn.plan, drawn.filled, drawn.totals

    used = [i for i, one in enumerate(filled) if one.space]
    total = sum(filled[i].space for i in used)
    figure, axes = pyplot.subplots(
        figsize=(7, 1.8 + 0.3 * len(used)), layout="constrained"
    )
    names = [
        f"{plan.shapes[i].query_length} x {plan.shapes[i].passage_length}, "
        f"{plan.sizes[i]:,} rows"
        for i in used
    ]
    space = np.array([100 * filled[i].space / total for i in used])
    real = np.array([100 * filled[i].tokens / total for i in used])
    axes.barh(names, real, color="tab:blue", label="tokens")
    axes.barh(names, space - real, left=real, color="lightgray", label="padding")
    for place, i in enumerate(used):
        share = f"{filled[i].efficiency:.2f}"
        axes.annotate(
            share,
            (space[place], place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.set_xlim(0, 1.12 * max(space, default=1))
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xlabel="% of all tokens that are computed")
    title = f"Padding by shape: {totals.efficiency:.3f} of all tokens are real"
    if abs(totals.counted_efficiency - totals.counted_by_lengths) > _ALIKE:
        title = (
            f"Padding by shape: at most {totals.efficiency:.3f} of tokens are real\n"
            f"({totals.counted_batches} batches: {totals.counted_efficiency:.3f} "
            f"counted, at most {totals.counted_by_lengths:.3f})"
        )
    axes.set_title(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _bins(longest: int) -> np.ndarray:
    """Edges between lengths: at most 64 bins, each of whole lengths."""
    width = -(-longest // 64)
    return np.arange(0.5, longest + width + 0.5, width)


def _short(name: str) -> str:
    short = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    return short.replace("$", r"\$")  # else it begins a formula
