"""Plots of a report: SVG that stands in the page and takes on its colours."""

import functools
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from m3jax.evaluation.markup import Html, element
from m3jax.evaluation.outcome import EmbeddingMap, Histogram
from m3jax.evaluation.report_style import COLORS

# No text of a user goes into a picture, only digits and the words below: legends and
# captions are HTML, which has every letter and breaks lines on a phone.
_SOFT, _LINE = "#000001", "#000002"
_COLORS = [f"#0000{16 + place:02x}" for place in range(COLORS)]
# What a picture is drawn in -> the variable of the page's style that takes its place.
_VARIABLES = {_SOFT: "--soft", _LINE: "--line"} | {
    color: f"--c{place}" for place, color in enumerate(_COLORS)
}
_MARKERS = {
    "o": "●",
    "s": "■",
    "^": "▲",
    "D": "◆",
    "v": "▼",
    "P": "✚",
    "X": "✖",
    "h": "⬢",
}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 11,
    "text.color": _SOFT,
    "axes.labelcolor": _SOFT,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _SOFT,
    "ytick.labelcolor": _SOFT,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
}


def recall_curves(
    curves: Mapping[str, Mapping[int, float]], *, order: Sequence[str], salt: str
) -> Html:
    """Draw recall at k over k, a line a system.

    Args:
        curves: system -> k -> recall.
        order: all systems of the report; the place decides the colour.
        salt: unlike that of every other plot on the page.

    Returns:
        The figure.
    """

    def draw(axes: Any) -> None:
        for system, curve in curves.items():
            at, color, marker = sorted(curve), *_look(order.index(system))
            values = [curve[k] for k in at]
            axes.plot(at, values, color=color, marker=marker, ms=4, lw=1.5)
        every = sorted({k for curve in curves.values() for k in curve})
        axes.set_xscale("log")
        ticks = [k for k in every if set(str(k)[1:]) <= {"0"} and str(k)[0] == "1"]
        axes.set_xticks(ticks or every, [f"{k:,}" for k in ticks or every])
        least = min(min(curve.values()) for curve in curves.values())
        bottom = min(math.floor(10 * least) / 10, 0.9)
        axes.set(ylim=(bottom, 1.01), xlabel="passages that are kept", ylabel="recall")

    says = "; ".join(
        f"{system} from {curve[min(curve)]:.3f} at {min(curve)} "
        f"to {curve[max(curve)]:.3f} at {max(curve)}"
        for system, curve in curves.items()
    )
    return _figure(
        "Recall by passages kept",
        _svg(draw, salt=salt, says=f"Recall: {says}."),
        _signs(list(curves), order),
    )


def score_histogram(
    system: str, found: Histogram, *, order: Sequence[str], salt: str
) -> Html:
    """Draw how scores of relevant passages lie among those of others.

    Args:
        system: whose scores.
        found: their counts; each side is drawn as shares of itself.
        order: all systems of the report; the place decides the colour.
        salt: unlike that of every other plot on the page.

    Returns:
        The figure.
    """
    place = order.index(system) % COLORS
    sides = [
        ("others", found.other, _SOFT, "var(--soft)"),
        ("relevant", found.relevant, _COLORS[place], f"var(--c{place})"),
    ]

    def draw(axes: Any) -> None:
        for _, counts, color, _ in sides:
            if sum(counts):
                share = 100 * np.array(counts) / sum(counts)
                axes.stairs(share, found.edges, fill=True, color=color, alpha=0.25)
                axes.stairs(share, found.edges, color=color, lw=1.3)
        axes.set(xlabel="score", ylabel="% of each")
        axes.set_ylim(bottom=0)

    middles = (np.array(found.edges[1:]) + found.edges[:-1]) / 2
    says = ", ".join(
        f"{name} around {np.average(middles, weights=counts):.2f}"
        for name, counts, *_ in reversed(sides)
        if sum(counts)
    )
    return _figure(
        f"Scores of {system}",
        _svg(draw, salt=salt, says=f"Scores of {system}: {says}."),
        [
            _sign("■", color, f"{sum(counts):,} {name}")
            for name, counts, _, color in reversed(sides)
        ],
    )


def scatter(found: EmbeddingMap, *, salt: str) -> Html:
    """Draw a map of embeddings; the commonest labels have colours.

    Args:
        found: the map.
        salt: unlike that of every other plot on the page.

    Returns:
        The figure.
    """
    common = [name for name, _ in Counter(found.labels).most_common()]
    # The last colour is worth more than one label that is called "others".
    shown = common[: COLORS if len(common) <= COLORS else COLORS - 1]
    labels, points = np.array(found.labels, object), np.array(found.points)

    def draw(axes: Any) -> None:
        points_of = functools.partial(axes.scatter, s=9, linewidths=0, alpha=0.7)
        rest = ~np.isin(labels, shown)
        if rest.any():
            points_of(*points[rest].T, c=_SOFT, alpha=0.25)
        for place, name in enumerate(shown):
            color, marker = _look(place)
            points_of(*points[labels == name].T, c=color, marker=marker)
        axes.set_aspect("equal", "datalim")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        first, second = found.shares
        axes.set_xlabel(f"first component, {first:.0%} of the variance")
        axes.set_ylabel(f"second, {second:.0%}")

    count, kinds = len(found.labels), len(common)
    legend = _signs(shown, shown)
    if kinds > len(shown):
        more = f"{kinds - len(shown):,} other labels"
        legend.append(_sign("●", "var(--soft)", more))
    return _figure(
        f"{found.title}: {count:,} points, {kinds:,} labels",
        _svg(
            draw,
            salt=salt,
            says=f"Map of {count:,} embeddings by principal components, coloured by "
            f"label: {', '.join(shown)}{', …' if kinds > len(shown) else ''}.",
            size=(6.5, 5),
        ),
        legend,
        class_="wide",
    )


def _look(place: int) -> tuple[str, str]:
    """Colour and marker of a system or label."""
    place %= COLORS
    return _COLORS[place], list(_MARKERS)[place]


def _signs(names: Sequence[str], order: Sequence[str]) -> list[Html]:
    """Legend of what `_look` decides."""
    places = [order.index(name) % COLORS for name in names]
    signs = list(_MARKERS.values())
    return [
        _sign(signs[place], f"var(--c{place})", name)
        for place, name in zip(places, names, strict=True)
    ]


def _sign(sign: str, color: str, name: str) -> Html:
    style = f"--color: {color}"
    shown = element("span", sign, style=style, aria_hidden="true")
    return element("li", shown, f" {name}")


def _figure(
    caption: str, picture: Html, legend: Sequence[Html], *, class_: str | None = None
) -> Html:
    return element(
        "figure",
        element("figcaption", caption),
        element("ul", *legend, class_="legend"),
        picture,
        class_=class_,
    )


def _svg(
    draw: Callable[[Any], None],
    *,
    salt: str,
    says: str,
    size: tuple[float, float] = (4.8, 3.0),
) -> Html:
    """Draw a picture that takes the colours of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # matplotlib always writes one
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', inner))
    # Names of groups, the same in every picture, would stand in the page many times.
    inner = re.sub(
        r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", inner
    )
    inner = inner.replace("xlink:href", "href")
    for color, variable in _VARIABLES.items():
        inner = inner.replace(color, f"var({variable})")
    start = element("svg", role="img", aria_label=says).removesuffix("></svg>")
    return Html(f"{start} {box[0]}>{inner}")
