"""A compiled program as text: its instructions, and how often each of them runs."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](?:\{([^{}]*)\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
_CALLS = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)"
    r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Instruction:
    """A line of a computation.

    Attributes:
        name: of its result.
        shape: as printed.
        op: what it does.
        operands: names.
        rest: the line from the operands on.
        root: whether it is the result of the computation.
    """

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str
    root: bool


@dataclass(frozen=True)
class Program:
    """A module.

    Attributes:
        computations: name -> its instructions.
        entry: name of the first.
        devices: over which it is partitioned.
    """

    computations: dict[str, tuple[Instruction, ...]]
    entry: str
    devices: int


def parse(text: str) -> Program:
    r"""Read what `compiled.as_text()` gives.

    Example:
        >>> text = "ENTRY main {\n  ROOT %x = f32[2]{0} add(%y, %y)\n}"
        >>> [line.op for line in parse(text).computations["main"]]
        ['add']
    """
    found: dict[str, tuple[Instruction, ...]] = {}
    lines: list[Instruction] = []
    entry = name = ""
    for line in text.splitlines():
        if not name:
            head = _HEAD.match(line)
            if head and not line.startswith("HloModule"):
                name, lines = head[2], []
                entry = name if head[1] else entry
        elif line == "}":  # "}}, ..." ends what a kernel tells of itself
            found[name], name = tuple(lines), ""
        elif match := _LINE.match(line):
            rest = match[5]
            operands = tuple(re.findall(r"%([\w.\-]+)", rest[: _closing(rest)]))
            if not operands:  # some printers leave the percent sign out
                words = rest[: _closing(rest)].split(",")
                operands = tuple(x.split()[-1] for x in words if x.strip())
            lines.append(
                Instruction(
                    match[2], match[3], match[4], operands, rest, bool(match[1])
                )
            )
    devices = re.search(r"num_partitions=(\d+)", text)
    return Program(found, entry, int(devices[1]) if devices else 1)


def _closing(rest: str) -> int:
    depth = 1
    for at, sign in enumerate(rest):
        depth += (sign == "(") - (sign == ")")
        if not depth:
            return at
    return len(rest)


def shapes_bytes(shape: str, *, hbm: bool = False) -> list[int]:
    """Bytes of each array of a printed shape.

    Args:
        shape: of one array or a tuple.
        hbm: leave out what lies in a memory of its own, S(1) and above: on a TPU, not
            in HBM.

    Example:
        >>> shapes_bytes("(bf16[2,4]{1,0:T(8,128)S(1)}, f32[3])")
        [16, 12]
        >>> shapes_bytes("bf16[2,4]{1,0:T(8,128)S(1)}", hbm=True)
        [0]
    """
    found = []
    for dtype, dims, layout in _SHAPE.findall(shape):
        count = math.prod(int(x) for x in dims.split(",") if x)
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits[0]) if digits else 0)
        away = hbm and re.search(r"S\([1-9]", layout)
        found.append(0 if away else count * bits // 8)
    return found


def called(line: Instruction) -> dict[str, str]:
    """Computations that an instruction runs: name -> as what.

    Example:
        >>> called(Instruction("x", "s32[]", "call", (), "y), to_apply=%add", True))
        {'add': 'to_apply'}
    """
    found = {name: kind for kind, name in _CALLS.findall(line.rest)}
    for names in _BRANCHES.findall(line.rest):
        found |= {name.strip().lstrip("%"): "branch" for name in names.split(",")}
    return found


def trip_count(program: Program, loop: Instruction) -> int | None:
    """How often a while loop runs; None where the program does not tell.

    A count from 0 up to a constant, as `scan` and `fori_loop` make it, or what the
    compiler wrote beside the loop.
    """
    if told := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(told[1])
    parts = {kind: name for name, kind in called(loop).items()}
    lines = list(_inside(program, parts.get("condition", "")))
    compares = [x for x in lines if x.op == "compare"]
    ends = [_integer(x) for x in lines if _integer(x) is not None]
    places = [x for x in lines if x.op == "get-tuple-element"]
    if len(compares) != 1 or len(ends) != 1 or len(places) != 1:
        return None
    place = re.search(r"index=(\d+)", places[0].rest)
    if "direction=LT" not in compares[0].rest or place is None:
        return None
    step = _step(program, parts.get("body", ""), int(place[1]))
    return math.ceil(ends[0] / step) if step and ends[0] is not None else None


def _integer(line: Instruction) -> int | None:
    """The value of a whole number that is no array."""
    if line.op != "constant" or not re.match(r"[su]\d+\[\]", line.shape):
        return None
    return int(line.rest.split(")")[0])


def _step(program: Program, body: str, place: int) -> int | None:
    """By how much a turn moves the counter; a compiler may make one turn of two."""

    def moved(lines: dict[str, Instruction], name: str, given: list[Any]) -> Any:
        """("by", n) for the counter plus n, a number, or None for anything else."""
        line = lines.get(name)
        if line is None:
            return None
        if (value := _integer(line)) is not None:
            return value
        if line.op == "parameter" and given:
            return given[int(line.rest.split(")")[0])]
        if line.op == "get-tuple-element":
            at = re.search(r"index=(\d+)", line.rest)
            whole = lines.get(line.operands[0])
            if whole is not None and whole.op == "parameter":
                return ("by", 0) if at and int(at[1]) == place else None
            return None
        inner = [moved(lines, x, given) for x in line.operands]
        if line.op in ("copy", "bitcast"):
            return inner[0]
        if line.op == "add" and None not in inner:
            base, more = sorted(inner, key=lambda x: isinstance(x, int))
            if isinstance(base, int):
                return base + more
            return ("by", base[1] + more) if isinstance(more, int) else None
        if line.op == "fusion":
            names = [x for x, kind in called(line).items() if kind == "calls"]
            return of_root(names[0], inner)
        return None

    def of_root(name: str, given: list[Any]) -> Any:
        lines = {x.name: x for x in program.computations.get(name, ())}
        roots = [x.name for x in lines.values() if x.root]
        return moved(lines, roots[0], given) if roots else None

    lines = {x.name: x for x in program.computations.get(body, ())}
    roots = [x for x in lines.values() if x.root and x.op == "tuple"]
    if not roots or place >= len(roots[0].operands):
        return None
    found = moved(lines, roots[0].operands[place], [])
    return found[1] if isinstance(found, tuple) else None


def _inside(program: Program, name: str) -> Iterator[Instruction]:
    for line in program.computations.get(name, ()):
        yield line
        for other in called(line):
            yield from _inside(program, other)


@dataclass(frozen=True)
class Run:
    """A computation that is run by the entry, a loop or a branch.

    Attributes:
        name: of the computation.
        times: in one run of the program.
        known: False where a loop around it does not tell its count, and counts once.
    """

    name: str
    times: int
    known: bool = True


def runs(program: Program) -> list[Run]:
    r"""Entry, loop bodies and branches, with how often they run; fusions are no runs.

    Of branches each counts as taken.

    Example:
        >>> told = '{"known_trip_count":{"n":"7"}}'
        >>> loop = f"ROOT %x = s32[] while(%y), body=%add, backend_config={told}"
        >>> text = "ENTRY main {\n  " + loop + "\n}"
        >>> runs(parse(text))[-1]
        Run(name='add', times=7, known=True)
    """
    found: list[Run] = []

    def visit(run: Run) -> None:
        found.append(run)
        for line in program.computations.get(run.name, ()):
            if line.op == "while":
                count = trip_count(program, line)
                for name, kind in called(line).items():
                    if kind == "body":
                        known = run.known and count is not None
                        visit(Run(name, run.times * (count or 1), known))
            elif line.op in ("call", "conditional"):
                for name in called(line):
                    visit(Run(name, run.times, run.known))

    visit(Run(program.entry, 1))
    return found
