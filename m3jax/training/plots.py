"""Pictures of a training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.training.writer import series

METRICS = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "recall@100": "recall@100",
    **{f"{x}/ndcg@10": f"nDCG@10, {x}" for x in ("sparse", "multivec", "hybrid")},
    "spearman": "Spearman",
}
# Of the objectives: what the loss is the sum of, beside all that ends in "_loss".
_PARTS = ("contrastive", "distill")
_MASKED = "Masked negatives"
# One small picture each: title, unit, and metric -> label; only what is there is drawn.
_PANELS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("Gradient", "norm", {"gradient_norm": "gradient"}),
    ("Parameters", "norm", {"parameter_norm": "parameters"}),
    ("Scores", "mean score", {"positive": "positive", "negative": "negatives"}),
    ("Positive ranked first", "share of queries", {"accuracy": "accuracy"}),
    (_MASKED, "share", {"masked_share": "masked"}),
    ("Speed", "tokens/s", {"tokens_per_second": "tokens"}),
    (
        "Time",
        "share",
        {"data_wait_share": "waiting for data", "overhead_share": "the loop"},
    ),
    ("Use of the devices", "share of the peak", {"mfu": "MFU"}),
    (
        "Device memory",
        "bytes",
        {"memory_bytes": "in use", "memory_peak_bytes": "peak"},
    ),
)

_OF_PARTS = ("green", "red", "purple", "brown", "pink", "gray")


def write_plots(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    selected: int,
    positive: np.ndarray | None,
    negative: np.ndarray | None,
) -> None:
    """Draw loss and learning rate, every score of the dev set, and cosines.

    And in training.png what else the steps said, as far as it is there.

    Args:
        folder: gets up to four PNG files.
        rows: lines of metrics.jsonl.
        selected: step whose parameters were kept.
        positive: cosines of queries and their answers; None where there are none,
            and so no plot of them.
        negative: cosines of queries and other passages.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib

    matplotlib.use("agg")  # no window, no display needed
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    found = series(rows, "loss")
    # A run of one step is a point, which a line does not show.
    marker = "o" if len(found[0]) == 1 else ""
    style = {"marker": marker, "markersize": 4}
    axes.plot(*found, color="tab:blue", linewidth=1, label="loss", **style)
    parts = parts_of(rows)
    # Blue is the whole, orange the learning rate.
    axes.set_prop_cycle(color=[f"tab:{name}" for name in _OF_PARTS])
    for name in parts:
        label = name.removesuffix("_loss")
        found = series(rows, name)
        axes.plot(*found, linewidth=0.8, alpha=0.7, label=label, **style)
    if parts:
        axes.legend()
    axes.set(xlabel="step", ylabel="loss (nats)", title="Training loss")
    rate = axes.twinx()
    found = series(rows, "learning_rate")
    rate.plot(*found, color="tab:orange", linewidth=1, **style)
    rate.set_ylabel("learning rate", color="tab:orange")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    save(figure, folder / "loss.png")
    _write_panels(folder / "training.png", rows, pyplot.subplots)

    curves = {name: series(rows, f"dev/{name}") for name in METRICS}
    curves = {name: found for name, found in curves.items() if len(found[0])}
    if curves:
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for name, found in curves.items():
            axes.plot(*found, marker="o", markersize=4, label=METRICS[name])
        axes.axvline(selected, color="gray", linestyle=":", label="kept")
        least = min(0.0, *(min(values) for _, values in curves.values()))
        axes.set(xlabel="step", ylabel="score", ylim=(least, 1), title="Dev set")
        axes.legend(fontsize="small")
        save(figure, folder / "evaluation.png")

    if positive is None or negative is None or not len(positive) or not len(negative):
        return

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    bins = np.linspace(min(-0.2, positive.min(), negative.min()), 1, 61).tolist()
    for scores, label in ((positive, "query and answer"), (negative, "other passages")):
        axes.hist(scores, bins=bins, density=True, alpha=0.6, label=label)
    axes.set(xlabel="cosine", ylabel="density", title="Scores after training")
    axes.legend()
    save(figure, folder / "scores.png")


def write_stages(
    path: Path,
    rows: Mapping[str, Mapping[str, float]],
    others: Mapping[str, Mapping[str, float]],
    *,
    title: str,
) -> None:
    """Draw how every score changed from stage to stage.

    Args:
        path: the PNG file.
        rows: before the first stage, and after each -> metric -> value.
        others: what else was measured, for comparison.
        title: which set it was.

    Raises:
        OSError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "test.png"
        >>> rows = {"before one": {"ndcg@10": 0.5}, "after one": {"ndcg@10": 0.6}}
        >>> write_stages(path, rows, {"BM25": {"ndcg@10": 0.4}}, title="test set")
        >>> path.exists()
        True
    """
    import matplotlib

    matplotlib.use("agg")  # no window, no display needed
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label in METRICS.items():
        found = [(at, row[name]) for at, row in enumerate(rows.values()) if name in row]
        if found:
            axes.plot(*zip(*found, strict=True), marker="o", label=label)
    for name, row in others.items():
        if "ndcg@10" in row:
            label = f"nDCG@10, {name}"
            axes.axhline(row["ndcg@10"], color="gray", linestyle=":", label=label)
    axes.set_xticks(range(len(rows)), [name.replace(" (", "\n(") for name in rows])
    axes.set(ylabel="score", title=title)
    axes.set_ylim(top=1)
    axes.legend(fontsize="small")
    save(figure, path)


def parts_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Metrics that are parts of the loss.

    Example:
        >>> parts_of([{"step": 1, "loss": 2.0, "dense_loss": 1.5, "positive": 0.9}])
        ['dense_loss']
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if name in _PARTS or name.endswith("_loss")]


def _write_panels(
    path: Path, rows: Sequence[Mapping[str, Any]], subplots: Callable[..., Any]
) -> None:
    """Draw those of the small pictures whose metrics are there."""
    drawn = []
    for title, unit, metrics in _PANELS:
        lines = {label: series(rows, name) for name, label in metrics.items()}
        lines = {label: line for label, line in lines.items() if line[0]}
        # Most losses mask nothing, and say so at every step.
        if lines and (title != _MASKED or any(lines["masked"][1])):
            drawn.append((title, unit, lines))
    if not drawn:
        return
    high, wide = -(-len(drawn) // 3), min(len(drawn), 3)
    figure, axes = subplots(
        high, wide, figsize=(4 * wide, 2.8 * high), layout="constrained", squeeze=False
    )
    for axis, (title, unit, lines) in zip(axes.flat, drawn, strict=False):
        for label, (steps, values) in lines.items():
            marker = "o" if len(steps) == 1 else ""
            axis.plot(steps, values, linewidth=1, label=label, marker=marker)
        axis.set(title=title, xlabel="step", ylabel=unit)
        if len(lines) > 1:
            axis.legend()
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all, and close it.

    Args:
        figure: of pyplot.
        path: the file.

    Raises:
        OSError: the folder cannot be written to.
    """
    for axis in figure.axes:
        if axis.get_xlabel() == "step":  # of which there are no halves
            axis.xaxis.get_major_locator().set_params(integer=True)
    from matplotlib import pyplot

    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
    pyplot.close(figure)
