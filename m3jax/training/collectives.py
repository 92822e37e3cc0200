"""What a compiled program sends between chips, and moves in the memory of one."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from m3jax.training.hlo import (
    Instruction,
    Program,
    called,
    parse,
    runs,
    shapes_bytes,
)

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# They name what is there, and move nothing.
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "iota",
    "after-all",
    "partition-id",
    "replica-id",
    "optimization-barrier",
}


@dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
        kind: one of `KINDS`.
        bytes: that a chip sends each time, by the best known algorithm of a ring.
        times: that it runs.
        chips: that take part.
        source: name of the operation in the model, where the program tells.
        known: False where a loop around it does not tell its count, and counts once.
    """

    kind: str
    bytes: int
    times: int
    chips: int
    source: str = ""
    known: bool = True

    @property
    def total(self) -> int:
        """Bytes that a chip sends in one run of the program."""
        return self.bytes * self.times


def collectives(text: str) -> tuple[Collective, ...]:
    """Find every collective of a compiled program, those in loops times their count.

    Of n chips a chip sends (n-1)/n of what an all-gather results in, of what a
    reduce-scatter is given or an all-to-all turns; twice that in an all-reduce; and a
    collective-permute sends what it is given.

    Args:
        text: `compiled.as_text()`.

    Returns:
        The largest first.

    Example:
        >>> collectives("HloModule empty")
        ()
    """
    return of_program(parse(text))


def of_program(program: Program) -> tuple[Collective, ...]:
    """As `collectives`, of a program that has been parsed."""
    found = []
    for run in runs(program):
        # Pieces of one transfer, spread over several fusions, share a channel.
        here: dict[tuple[str, str], Collective] = {}
        for line, scatters in _lines(program, run.name, False):
            one = _read(program, line, scatters, run.times, run.known)
            if one is None:
                continue
            channel = re.search(r"channel_id=(\d+)", line.rest)
            key = one.kind, channel[1] if channel else line.name
            if key not in here or here[key].bytes < one.bytes:
                here[key] = one
        found += here.values()
    return tuple(sorted(found, key=lambda one: -one.total))


def _lines(
    program: Program, name: str, scatters: bool
) -> Iterator[tuple[Instruction, bool]]:
    """Lines of a computation and of what it fuses; loops are runs of their own."""
    for line in program.computations.get(name, ()):
        yield line, scatters
        if line.op in ("while", "call", "conditional"):
            continue
        for other, kind in called(line).items():
            if kind == "calls":
                # A TPU's reduce-scatter: an all-reduce of which each keeps a part.
                yield from _lines(program, other, "all-reduce-scatter" in other)


def _read(
    program: Program, line: Instruction, scatters: bool, times: int, known: bool
) -> Collective | None:
    kind = line.op.removesuffix("-start")
    if kind not in KINDS:
        return None
    sizes = shapes_bytes(line.shape)
    size = sum(sizes)
    if line.op.endswith("-start") and kind in ("all-gather", "collective-permute"):
        # Of a tuple: what is given, what results (as many), and flags of 4 bytes.
        arrays = [x for x in sizes if x > 4] or sizes
        size = sum(arrays[len(arrays) // 2 :])
    chips = _chips(line.rest) or program.devices
    if kind == "all-reduce" and scatters:
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        size *= chips
    share = (chips - 1) / chips
    if kind == "all-reduce":
        share *= 2
    elif kind == "collective-permute":
        share = 1
    source = re.search(r'op_name="([^"]*)"', line.rest)
    return Collective(
        kind, round(size * share), times, chips, source[1] if source else "", known
    )


def _chips(rest: str) -> int:
    """Chips of one group; 0 = all."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[x]) for x in re.findall(r"'([^']+)'", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    return 0


def memory_traffic(program: Program) -> int:
    """Bytes that a chip reads from HBM and writes to it in one run, by the text.

    Every instruction reads what it is given and writes its result; what a fusion only
    cuts a slice of, or changes a slice of in its place, counts as the slice. Caches
    are not known, so this is a rough upper figure.

    Args:
        program: what `hlo.parse` gave.

    Returns:
        Bytes.
    """
    total = 0
    for run in runs(program):
        lines = {x.name: x for x in program.computations.get(run.name, ())}
        for line in lines.values():
            if line.op not in _FREE and not line.op.endswith(("-done", "-update")):
                total += run.times * _moved(program, line, lines)
    return total


def _moved(program: Program, line: Instruction, lines: dict[str, Instruction]) -> int:
    def size(name: str) -> int:
        return sum(shapes_bytes(lines[name].shape, hbm=True)) if name in lines else 0

    results = shapes_bytes(line.shape, hbm=True)
    # Of (destination, source, context), the source is not written.
    written = results[0] if line.op == "copy-start" else sum(results)
    if line.op in ("dynamic-slice", "gather", "slice"):
        return 2 * written
    if line.op in ("dynamic-update-slice", "scatter"):
        return 2 * size(line.operands[-1 if line.op == "scatter" else 1])
    inner = _fused(line)
    if inner is None:
        return written + sum(size(name) for name in line.operands)
    read = 0
    for number, name in enumerate(line.operands):
        taken, kept = _taken(program, inner, number, size(name))
        read += taken
        # What is changed a slice at a time is written in its place.
        written -= kept
    return read + max(0, written)


def _fused(line: Instruction) -> str | None:
    """The computation that a fusion runs; None for anything else."""
    inner = [name for name, kind in called(line).items() if kind == "calls"]
    return inner[0] if line.op == "fusion" and inner else None


def _taken(program: Program, name: str, number: int, whole: int) -> tuple[int, int]:
    """Bytes that a fused computation reads of an operand, and does not write again.

    Args:
        program: has the computation.
        name: of the computation.
        number: of the operand.
        whole: its bytes; 0 where it does not lie in HBM.
    """
    body = {x.name: x for x in program.computations.get(name, ())}
    ours = {
        x.name
        for x in body.values()
        if x.op == "parameter" and int(x.rest.split(")")[0]) == number
    }
    read = kept = 0
    for use in body.values():
        at = [place for place, given in enumerate(use.operands) if given in ours]
        if not at:
            continue
        inner = _fused(use)
        if use.op == "bitcast":  # the same bytes by another name
            ours.add(use.name)
        elif inner is not None:  # fusions are nested on a TPU
            for place in at:
                taken, left = _taken(program, inner, place, whole)
                read, kept = read + taken, kept + left
        elif use.op in ("dynamic-slice", "gather", "slice"):
            read += sum(shapes_bytes(use.shape))
        elif use.op == "dynamic-update-slice" and at == [0]:
            given = use.operands[1]
            part = sum(shapes_bytes(body[given].shape)) if given in body else 0
            read += part
            kept += max(0, sum(shapes_bytes(use.shape)) - part) if whole else 0
        else:
            read += whole
    return min(whole, read), kept
