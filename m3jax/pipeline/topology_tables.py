"""Tables of what `pipeline.topology` found."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from m3jax.pipeline.stage import Train
from m3jax.training.topology import BucketReport

# Columns of a terminal that a row of each table needs; what the names in a turned one
# take, and a bucket.
WIDTH, _NAMES, _COLUMN = 160, 34, 20


def advice(stage: Train, report: BucketReport) -> str:
    """What to change where a bucket does not fit; "" where it does.

    Args:
        stage: the config.
        report: of the bucket.

    Returns:
        One line.
    """
    if report.fits:
        return ""
    lack = (report.memory - report.chip.memory) / 1e9
    held = report.params + report.optimizer
    tried = changes(stage, held, report.chip.memory, report.chips)
    return (
        f"passages of {report.passage_length:,} tokens lack {lack:.1f} GB a chip: "
        f"try {tried}."
    )


def changes(stage: Train, held: float, memory: float, chips: int) -> str:
    """What to change where a step does not fit into memory, the mildest first.

    Args:
        stage: the config.
        held: bytes of parameters and optimizer on a chip.
        memory: bytes that it has.
        chips: how many.

    Returns:
        Flags, in words.

    Example:
        >>> changes(Train(), 9.0, 16.0, 4)
        '--mesh.fsdp 2, then --sub-batches.count 2, then a smaller batch'
    """
    found = []
    tensor = max(1, stage.mesh.tensor)
    now = more = max(1, stage.mesh.fsdp)
    # A third is left to what is trained, the rest to the batch.
    while held * now / more > memory / 3 and chips % (2 * more * tensor) == 0:
        more *= 2
    if more > now:
        found.append(f"--mesh.fsdp {more}")
    if held * now / more > memory:
        return f"more than {chips} devices, which parameters and optimizer alone fill"
    if stage.model.encoder.remat != "full":
        found.append("--model.encoder.remat full")
    if stage.sub_batches.preset:
        found.append("--sub-batches.preset '' --sub-batches.tokens 8192")
    elif stage.sub_batches.tokens:
        half = max(1, stage.sub_batches.tokens // 2)
        found.append(f"--sub-batches.tokens {half}")
    else:
        found.append(f"--sub-batches.count {2 * stage.sub_batches.count}")
    found.append("a smaller batch")
    return ", then ".join(found)


def show(reports: Iterable[BucketReport], stage: Train, topology: str) -> None:
    """Print two tables, and a line for each bucket that does not fit.

    Args:
        reports: of the buckets.
        stage: the config.
        topology: name of the slice.
    """
    from rich.console import Console

    reports = list(reports)
    if not reports:
        return
    chip, console = reports[0].chip, Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    title = f"{topology}, {reports[0].chips} chips"
    memory = f"{title}: memory of a chip in GB, of {chip.memory / 1e9:.0f}"
    for name, columns, row in (
        (memory, MEMORY, memory_row),
        (f"{title}: a step, estimated (roofline)", SPEED, speed_row),
    ):
        for table in _tables(name, columns, list(map(row, reports)), console.width):
            console.print(table)
    for one in reports:
        if told := advice(stage, one):
            console.print(told)
        if not all(sent.known for sent in one.collectives):
            console.print(
                f"passages of {one.passage_length:,} tokens: some of what is sent is "
                "in a loop whose length is not known, and counts once."
            )


def _tables(
    title: str,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    width: int,
) -> Iterable[Any]:
    """One table, a bucket a row; on a narrow terminal several, a bucket a column."""
    from rich.table import Table

    at_once = len(rows) if width >= WIDTH else max(1, (width - _NAMES) // _COLUMN)
    for start in range(0, len(rows), at_once):
        table = Table(title=title)
        part = rows[start : start + at_once]
        if width >= WIDTH:
            header, lines = columns, part
        else:
            header, *lines = zip(columns, *part, strict=True)
        for name in header:
            table.add_column(name, justify="right")
        for line in lines:
            table.add_row(*line)
        yield table


MEMORY = (
    "query, passage",
    "queries",
    "parameters",
    "optimizer",
    "extra, batch",
    "temporary",
    "output",
    "in all",
    "fits",
)
SPEED = (
    "query, passage",
    "queries",
    "TFLOP model / computed",
    "GB sent",
    "s arithmetic",
    "s links",
    "s step, none to all overlapped",
    "MFU",
    "loss, of FLOPs / of time",
    "share of links",
)


def memory_row(one: BucketReport) -> tuple[str, ...]:
    """Cells under `MEMORY`."""
    sizes = one.params, one.optimizer, one.extra, one.temporary, one.output
    cells = (f"{size / 1e9:.2f}" for size in (*sizes, one.memory))
    return (*_about(one), *cells, "yes" if one.fits else "no")


def speed_row(one: BucketReport) -> tuple[str, ...]:
    """Cells under `SPEED`; bytes by kind of collective."""
    computed = one.flops.hardware + one.flops.loss
    cells = f"{one.flops.model / 1e12:.1f} / {computed / 1e12:.1f}"
    if not one.compiled:
        return (*_about(one), cells, *["-"] * (len(SPEED) - 3))
    sent = ", ".join(f"{x} {n / 1e9:.2f}" for x, n in one.sent.items() if n > 5e6)
    return (
        *_about(one),
        cells,
        sent,
        f"{one.compute_seconds:.3f}",
        f"{one.communication_seconds:.3f}",
        f"{one.step_seconds:.3f} to {one.overlapped_seconds:.3f}",
        f"{one.mfu:.0%}",
        f"{one.loss_share:.2%} / {one.loss_time_share:.1%}",
        f"{one.communication_share:.1%}",
    )


def _about(one: BucketReport) -> tuple[str, str]:
    return f"{one.query_length:,}, {one.passage_length:,}", f"{one.rows:,}"


def to_json(reports: Iterable[BucketReport], stage: Train) -> list[dict[str, Any]]:
    """Reports as plain values, with what is derived from them.

    Args:
        reports: of the buckets.
        stage: the config.

    Returns:
        What `json.dumps` takes.
    """
    derived = (
        "fits",
        "memory",
        "sent",
        "compute_seconds",
        "loss_seconds",
        "memory_seconds",
        "communication_seconds",
        "step_seconds",
        "overlapped_seconds",
        "mfu",
        "loss_share",
        "loss_time_share",
        "communication_share",
    )
    return [
        dataclasses.asdict(one)
        | {name: getattr(one, name) for name in derived}
        | {"advice": advice(stage, one)}
        for one in reports
    ]
