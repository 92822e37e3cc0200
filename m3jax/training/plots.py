"""Pictures of a training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.training.writer import series

METRICS = {"ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@100": "recall@100"}


def write_plots(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    selected: int,
    positive: np.ndarray | None,
    negative: np.ndarray | None,
) -> None:
    """Draw loss and learning rate, evaluation over steps, and a score histogram.

    Args:
        folder: gets up to three PNG files.
        rows: lines of metrics.jsonl.
        selected: step whose parameters were kept.
        positive: cosines of queries and their answers; None when there is no
            evaluation set, and so no plot of evaluations or scores.
        negative: cosines of queries and other passages.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib

    matplotlib.use("agg")  # no window, no display needed
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(*series(rows, "loss"), color="tab:blue", linewidth=1)
    axes.set(xlabel="step", ylabel="loss (nats)", title="Training loss")
    rate = axes.twinx()
    rate.plot(*series(rows, "learning_rate"), color="tab:orange", linewidth=1)
    rate.set_ylabel("learning rate", color="tab:orange")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    save(figure, folder / "loss.png")

    if positive is None or negative is None or not len(positive) or not len(negative):
        return

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label in METRICS.items():
        steps, values = series(rows, f"dev/{name}")
        axes.plot(steps, values, marker="o", markersize=4, label=label)
    axes.axvline(selected, color="gray", linestyle=":", label="kept")
    axes.set(xlabel="step", ylabel="score", ylim=(0, 1), title="Dev set")
    axes.legend()
    save(figure, folder / "evaluation.png")

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    bins = np.linspace(min(-0.2, positive.min(), negative.min()), 1, 61).tolist()
    for scores, label in ((positive, "query and answer"), (negative, "other passages")):
        axes.hist(scores, bins=bins, density=True, alpha=0.6, label=label)
    axes.set(xlabel="cosine", ylabel="density", title="Scores after training")
    axes.legend()
    save(figure, folder / "scores.png")


def save(figure: Any, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all, and close it.

    Args:
        figure: of pyplot.
        path: the file.

    Raises:
        OSError: the folder cannot be written to.
    """
    from matplotlib import pyplot

    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
    pyplot.close(figure)
