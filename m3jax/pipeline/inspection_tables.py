"""An inspection of data, printed."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from m3jax.data.samples import Sample
from m3jax.data.samples import Text as Words
from m3jax.pipeline.inspection_facts import Inspection, SetFacts, Side

WIDTH = 100
_NAME, _START, _END = 26, 240, 60
_REASONS, _LANGUAGES = 5, 3


def show(found: Inspection, samples: int = 1) -> None:
    """Print the tables of an inspection: plain text where nobody looks on.

    Args:
        found: what to print.
        samples: rows of each data set that were asked for.
    """
    console = Console(highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console = Console(highlight=False, width=WIDTH)
    for title, header, rows in _tables(found):
        console.print(Text(f"\n{title}", style="bold"))
        console.print(_table(header, rows, plain=not console.is_terminal))
    for one in found.sets:
        for reason in one.reasons[:_REASONS]:
            console.print(Text(f"bad: {reason}"), soft_wrap=True)
    console.print(Text("\nAll batches", style="bold"))
    for line in _totals(found):
        console.print(Text(line))
    for one in found.sets:
        for sample in one.samples:
            console.print(Text(f"\n{_place(sample)}", style="bold"))
            console.print(_texts(_sample(sample)))
        if samples and not one.samples:
            console.print(Text(f"\n{one.name}: no batch of the run", style="bold"))


_Rows = Iterable[Sequence[str]]


def _tables(found: Inspection) -> Iterable[tuple[str, Sequence[str], _Rows]]:
    sets = found.sets
    yield (
        "Data sets",
        ("data set", "kind", "rows>", "trained on>", "steps>", "read>", "languages"),
        [
            (
                _short(one.name),
                one.kind,
                f"{one.rows:,}",
                f"{one.trained_on:,}",
                _percent(one.share),
                f"{one.times:,.2f}x" if one.times >= 1 else f"{one.times:.2%}",
                _languages(one.languages),
            )
            for one in sets
        ],
    )
    yield (
        "Tokens (passages: the longest of each row)",
        ("data set", "", "p50>", "p90>", "p99>", "longest>", "kept>", "rows cut>"),
        [
            (_short(one.name), what, *_tokens(side))
            for one in sets
            for what, side in (("queries", one.query), ("passages", one.passage))
        ],
    )
    yield (
        "Passages and repeats (share of the rows)",
        (
            *("data set", "passages>", "in batch", "negatives>", "least>"),
            *("query seen>", "row seen>", "query = pos>"),
        ),
        [
            (
                _short(one.name),
                f"{one.group}",
                "on" if one.in_batch else "off",
                *_negatives(one),
                *_repeats(one),
            )
            for one in sets
        ],
    )
    yield (
        f"Shapes (sizes in multiples of {found.multiple}; filled: without padding)",
        (
            *("query x passage", "size>", "passages>", "batches>", "steps>", "rows>"),
            *("queries filled>", "passages filled>", "filled>"),
        ),
        [
            (
                f"{one.query_length} x {one.passage_length}",
                f"{one.size:,}",
                ", ".join(map(str, one.groups)),
                f"{one.batches:,}",
                _percent(one.share),
                f"{one.rows:,}",
                *(
                    f"{share:.3f}" if one.batches else ""
                    for share in (one.query, one.passage, one.efficiency)
                ),
            )
            for one in found.shapes
        ],
    )
    counts = [(reason, count) for one in sets for reason, count in one.dropped.items()]
    why = list(dict.fromkeys(reason for reason, count in counts if count))
    if why:
        yield (
            "Rows left out (remainder: of each epoch, other ones each time)",
            ("data set", *(f"{reason}>" for reason in why)),
            [
                (_short(one.name), *(f"{one.dropped.get(r, 0):,}" for r in why))
                for one in sets
            ],
        )


def _table(header: Sequence[str], rows: _Rows, *, plain: bool) -> Table:
    made = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        made.add_column(
            Text(name.rstrip(">")),
            justify="right" if name.endswith(">") else "left",
            overflow="fold",
            no_wrap=number == 0,
        )
    for row in rows:
        made.add_row(*map(Text, row))  # Text: rich reads [brackets] as markup
    return made


def _negatives(one: SetFacts) -> tuple[str, str]:
    """Mean and least; of labelled texts, what stands in their place."""
    if one.kind == "labelled":
        return "labels", ""
    return f"{one.negatives.mean:.1f}", f"{one.negatives.min}"


def _totals(found: Inspection) -> Iterable[str]:
    one = found.totals
    yield (
        f"steps     {one.steps:,} in the run; {one.steps_per_epoch:,} an epoch, with "
        f"{one.rows_per_epoch:,} rows"
    )
    real = round(one.tokens_per_epoch * one.efficiency)
    yield f"tokens    {one.tokens_per_epoch:,} an epoch, {real:,} without padding"
    forms = "form" if one.programs == 1 else "forms"
    yield f"compiled  {one.programs} {forms} of batches, each once"
    by_lengths = f"(queries {one.query:.3f}, passages {one.passage:.3f})"
    if abs(one.counted_efficiency - one.counted_by_lengths) < 1e-9:
        yield f"filled    {one.efficiency:.3f} {by_lengths}"
    else:  # what was counted comes first: the rest is an upper bound
        yield (
            f"filled    {one.counted_efficiency:.3f} as counted in "
            f"{one.counted_rows:,} rows of {one.counted_batches:,} batches (by the "
            f"longest: {one.counted_by_lengths:.3f})"
        )
        yield (
            f"          {one.efficiency:.3f} at most, by the longest prompt and "
            f"passage of each row {by_lengths}"
        )
    yield (
        f"          {one.random_efficiency:.3f} with random batches of "
        f"{one.random_size:,} padded to their longest row"
    )


def _place(sample: Sample) -> str:
    return (
        f"{_short(sample.dataset)}: step {sample.step}, row {sample.row:,} "
        f"({_short(sample.where, 48)})"
    )


def _sample(sample: Sample) -> Iterable[tuple[str, str]]:
    if sample.query is not None:
        yield "query", _words(sample.query)
    for number, passage in enumerate(sample.passages):
        name = "positive" if number == 0 else "negative"
        score = ""
        if passage is not None and sample.teacher_scores:
            score = f"teacher {sample.teacher_scores[number]:.4g}, "
        yield name, "absent" if passage is None else f"{score}{_words(passage)}"
    if sample.label is not None:
        yield "label", f"{sample.label:.4g}"
    if not sample.in_batch:
        yield "in batch", "no passage of another row is a negative"


def _texts(lines: Iterable[tuple[str, str]]) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column(min_width=10)
    made.add_column(overflow="fold")
    for name, text in lines:
        made.add_row(Text(f"  {name}"), Text(text))
    return made


def _words(text: Words) -> str:
    shown = " ".join(text.text.split())
    if len(shown) > _START + _END:
        shown = f"{shown[:_START]} ... {shown[-_END:]}"
    return f"{text.tokens} tokens + {text.padding} padding: {shown}"


def _tokens(side: Side) -> tuple[str, ...]:
    tokens = side.tokens
    found = (tokens.p50, tokens.p90, tokens.p99, tokens.max, side.kept)
    return (*(f"{number:,}" for number in found), _percent(side.cut))


def _repeats(one: SetFacts) -> tuple[str, ...]:
    found = (one.repeats.query, one.repeats.row, one.repeats.itself)
    return tuple(_percent(count / one.trained_on) for count in found)


def _languages(found: Mapping[str, int]) -> str:
    total = sum(found.values())
    first = sorted(found, key=lambda name: (-found[name], name))[:_LANGUAGES]
    shown = ", ".join(f"{name} {_percent(found[name] / total)}" for name in first)
    more = len(found) - len(first)
    return f"{shown}, {more} more" if more else shown


def _percent(share: float) -> str:
    """A share; none is 0 %, and only none."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "<0.1 %"
    return f"{percent:.1f} %" if 0 < percent < 100 else f"{percent:.0f} %"


def _short(name: str, most: int = _NAME) -> str:
    """The end of a name: paths differ there."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
