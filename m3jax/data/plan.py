"""Which rows make which batch: a pure function of the seed, the epoch and the step."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m3jax.core.errors import InputError
from m3jax.data.parts import Part, make_part
from m3jax.data.permutation import permute
from m3jax.data.shapes import Lengths, Shape, parents
from m3jax.data.turns import take_turns

# Steps whose rows are mixed with one another where batches are not homogeneous.
WINDOW = 1_024
# What a shuffle is for: equal seeds in different places give different orders.
_ROWS, _ORDER, _MIX = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that decides the batches; see `batch`.

    Attributes:
        shapes: cheapest first; the last holds every row.
        sizes: queries in a batch of each shape, over all hosts.
        parts: the data sets.
        seed: of every shuffle.
        homogeneity: share of a batch that comes from one data set.
        weights: share of the steps of each data set; None = each row once an epoch.
        turns: data set of each step.
        before: how many turns that data set had before.
        period: steps after which `turns` begins again; 0 = never, it is by weight.
    """

    shapes: tuple[Shape, ...]
    sizes: tuple[int, ...]
    parts: tuple[Part, ...]
    seed: int
    homogeneity: float
    weights: tuple[float, ...] | None
    turns: np.ndarray
    before: np.ndarray
    period: int

    @functools.cached_property
    def parents(self) -> tuple[int, ...]:
        """Where the rows go that a shape has left over."""
        return parents(self.shapes)

    def lasting(self, steps: int) -> "Plan":
        """The plan with turns for so many steps, which only weights need."""
        if self.weights is None:
            return self
        # Whole windows: more steps change nothing of the batches before.
        turns, before = take_turns(self.weights, -(-steps // WINDOW) * WINDOW)
        return dataclasses.replace(self, turns=turns, before=before)

    def facts(self) -> dict[str, object]:
        """What decides the batches, but for the rows, as values of JSON."""
        return {
            "shapes": [[x.query_length, x.passage_length] for x in self.shapes],
            "sizes": list(self.sizes),
            "rows": [list(part.own) for part in self.parts],
            "weights": self.weights,
            "homogeneity": self.homogeneity,
            "seed": self.seed,
        }

    @property
    def steps_per_epoch(self) -> int:
        """Batches of all data sets, each read once."""
        return sum(sum(part.batches) for part in self.parts)

    @property
    def rows_per_epoch(self) -> int:
        """Queries of all data sets, each read once, without what is dropped."""
        pairs = [zip(part.batches, self.sizes, strict=True) for part in self.parts]
        return sum(count * size for pair in pairs for count, size in pair)


@dataclass(frozen=True, eq=False)
class Planned:
    """One batch, before anything is read.

    Attributes:
        shape: what it is padded to.
        part: whose turn it is; where batches are mixed, of most rows.
        parts: data set of each row, int16 `[b]`.
        rows: row of the data set, int64 `[b]`.
        epochs: times that the data set was used up before, int64 `[b]`.
    """

    shape: Shape
    part: int
    parts: np.ndarray
    rows: np.ndarray
    epochs: np.ndarray


def make_plan(
    sets: Sequence[Lengths],
    *,
    shapes: Sequence[Shape],
    sizes: Sequence[int],
    seed: int,
    weights: Sequence[float] | None = None,
    homogeneity: float = 1.0,
    names: Sequence[str] = (),
    keep: Sequence[np.ndarray | None] = (),
) -> Plan:
    """Sort the rows of each data set by shape, and apportion the steps.

    Args:
        sets: lengths of the rows, cut to what is kept.
        shapes: cheapest first; the last holds every row.
        sizes: queries in a batch of each shape.
        seed: of every shuffle.
        weights: share of the steps of each data set, for a number of steps that
            `Plan.lasting` tells; None = as many as it takes to read each row once an
            epoch, without end.
        homogeneity: share of a batch that comes from one data set, 0 to 1.
        names: of the data sets, for messages.
        keep: numbers of the rows that are trained on, one array a data set; None or
            nothing = all. Lengths are those of all rows.

    Returns:
        The plan, equal on every host.

    Raises:
        InputError: a data set with fewer rows than one batch.

    Example:
        >>> rows = Lengths(np.array([3, 9, 4]), np.array([3, 9, 4]))
        >>> shapes = (Shape(4, 4), Shape(9, 9))
        >>> plan = make_plan([rows], shapes=shapes, sizes=(1, 1), seed=0)
        >>> plan.parts[0].own, plan.steps_per_epoch
        ((2, 1), 3)
    """
    kept = [*keep, *[None] * (len(sets) - len(keep))]
    up = parents(shapes)
    parts = tuple(
        make_part(one, shapes, sizes, up, rows)
        for one, rows in zip(sets, kept, strict=True)
    )
    for number, part in enumerate(parts):
        if not sum(part.batches):
            raise InputError(
                f"at least one batch of {sizes[-1]} training rows",
                f"{len(part.rows)}",
                where=names[number] if names else "data.train",
                do="Lower --data.batch-size, or join small data sets to one.",
            )
    counts = [sum(part.batches) for part in parts]
    period = 0 if weights else sum(counts)
    turns, before = take_turns(counts, period)
    return Plan(
        tuple(shapes),
        tuple(sizes),
        parts,
        seed,
        homogeneity,
        None if weights is None else tuple(weights),
        turns,
        before,
        period,
    )


def batch(plan: Plan, step: int) -> Planned:
    """Tell the rows of one training step.

    Each epoch of a data set shuffles its rows within each shape and the order of its
    batches. What a shape has left over after its last whole batch moves up to the next
    shape that holds it, so only the longest drops rows, fewer than one batch. Nothing
    depends on the number of hosts, workers or devices: position in the data = step.

    With homogeneity h below 1, a batch keeps the share h of its rows; the others change
    places with those of other batches of its shape, within `WINDOW` steps of the same
    epoch (KaLM's semi-homogeneous batches). By weight, a data set that begins again
    within these steps may bring a row into a batch twice.

    Args:
        plan: what `make_plan` returned.
        step: the training step, from 0.

    Returns:
        Rows and shape.

    Example:
        >>> lengths = Lengths(np.full(6, 3), np.full(6, 3))
        >>> plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[3], seed=0)
        >>> rows = np.concatenate([batch(plan, step).rows for step in (0, 1)])
        >>> sorted(rows.tolist())
        [0, 1, 2, 3, 4, 5]
    """
    (planned,) = batches(plan, step, step + 1)
    return planned


def batches(plan: Plan, start: int, stop: int) -> list[Planned]:
    """Tell the rows of some steps: what `batch` tells of each, in less time.

    Args:
        plan: the plan.
        start: first step.
        stop: the step after the last.

    Returns:
        One a step.

    Example:
        >>> lengths = Lengths(np.full(6, 3), np.full(6, 3))
        >>> plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[3], seed=0)
        >>> len(batches(plan, 0, 4))
        4
    """
    found = zip(*(one.tolist() for one in places(plan, start, stop)), strict=True)
    alike: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
    for i, (*cell, number) in enumerate(found):
        alike.setdefault(tuple(cell), []).append((i, number))
    made: dict[int, Planned] = {}
    for (part, epoch, shape), some in alike.items():
        own = _own(plan, part, epoch, shape, [number for _, number in some])
        for (i, _), rows in zip(some, own, strict=True):
            made[i] = _filled(plan, start + i, part, epoch, shape, rows)
    return [made[i] for i in range(stop - start)]


def _own(
    plan: Plan, part: int, epoch: int, shape: int, numbers: Sequence[int]
) -> np.ndarray:
    """Rows that some batches of a data set do not change, one line a batch."""
    size = plan.sizes[shape]
    fixed = round(plan.homogeneity * size)
    at = np.array(numbers)[:, None] * size + np.arange(fixed)
    return rows_at(plan, part, epoch, shape, at.reshape(-1)).reshape(at.shape)


def _filled(
    plan: Plan, step: int, part: int, epoch: int, shape: int, rows: np.ndarray
) -> Planned:
    size, fixed = plan.sizes[shape], len(rows)
    whose = np.full(fixed, part, np.int16)
    epochs = np.full(fixed, epoch)
    if fixed < size:
        others = _mixed(plan, step, shape, fixed)
        rows = np.concatenate([rows, others.rows])
        whose = np.concatenate([whose, others.parts])
        epochs = np.concatenate([epochs, others.epochs])
    return Planned(plan.shapes[shape], part, whose, rows, epochs)


def first_of_each(plan: Plan, start: int, stop: int) -> list[int]:
    """Steps at which a data set first comes in a shape, ascending.

    Example:
        >>> lengths = Lengths(np.full(6, 3), np.full(6, 3))
        >>> plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[3], seed=0)
        >>> first_of_each(plan, 2, 9)
        [2]
    """
    part, _, shape, _ = places(plan, start, stop)
    _, first = np.unique(np.stack([part, shape]), axis=1, return_index=True)
    return sorted(start + int(at) for at in first)


def places(plan: Plan, start: int, stop: int) -> tuple[np.ndarray, ...]:
    """What the batches of some steps are, without their rows.

    Args:
        plan: the plan.
        start: first step.
        stop: the step after the last.

    Returns:
        Data set, its epoch, shape, and number among the data set's batches of that
        shape: int64, one a step each.

    Example:
        >>> lengths = Lengths(np.full(6, 3), np.full(6, 3))
        >>> plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[3], seed=0)
        >>> [one.tolist() for one in places(plan, 0, 4)][:3]
        [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    """
    steps = np.arange(start, stop)
    if plan.period:
        rounds, at = np.divmod(steps, plan.period)
        part = plan.turns[at].astype(np.int64)
        turn = (
            plan.before[at]
            + rounds * np.array([sum(one.batches) for one in plan.parts])[part]
        )
    else:
        part, turn = plan.turns[start:stop].astype(np.int64), plan.before[start:stop]
    epoch, shape, number = (np.empty(len(steps), np.int64) for _ in range(3))
    for one in np.unique(part):
        batches = np.array(plan.parts[one].batches)
        ends = np.cumsum(batches)
        mine = np.flatnonzero(part == one)
        epoch[mine], order = np.divmod(turn[mine], ends[-1])
        for now in np.unique(epoch[mine]):
            inside = epoch[mine] == now
            key = (plan.seed, _ORDER, int(one), int(now))
            found = permute(order[inside], int(ends[-1]), key)
            shape[mine[inside]] = np.searchsorted(ends, found, side="right")
            number[mine[inside]] = found
        number[mine] -= (ends - batches)[shape[mine]]
    return part, epoch, shape, number


def rows_at(
    plan: Plan, part: int, epoch: int, shape: int, at: np.ndarray
) -> np.ndarray:
    """Rows at some places of the order in which a shape's batches are filled.

    The order is what shorter shapes left over, then the shape's own rows, shuffled.

    Args:
        plan: the plan.
        part: which data set.
        epoch: times that it was used up before.
        shape: which shape.
        at: places, int64.

    Returns:
        Row numbers, int64.

    Example:
        >>> lengths = Lengths(np.full(6, 3), np.full(6, 3))
        >>> plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[4], seed=0)
        >>> sorted(rows_at(plan, 0, 0, 0, np.arange(6)).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    one = plan.parts[part]
    found = np.empty(len(at), np.int64)
    begin = 0
    for child in range(shape):
        if plan.parents[child] == shape and one.left[child]:
            here = (at >= begin) & (at < begin + one.left[child])
            if here.any():
                inner = at[here] - begin + one.batches[child] * plan.sizes[child]
                found[here] = rows_at(plan, part, epoch, child, inner)
            begin += one.left[child]
    here = at >= begin
    key = (plan.seed, _ROWS, part, epoch, shape)
    inner = permute(at[here] - begin, one.own[shape], key)
    found[here] = one.rows[sum(one.own[:shape]) + inner]
    return found


@functools.lru_cache(maxsize=4)  # steps are asked for in order
def _window(plan: Plan, start: int, stop: int) -> tuple[np.ndarray, ...]:
    return places(plan, start, stop)


def _ends(plan: Plan, step: int) -> tuple[int, int]:
    """The steps that a step changes rows with: those around it, of its own epoch."""
    first = step // plan.period * plan.period if plan.period else 0
    start = first + (step - first) // WINDOW * WINDOW
    stop = start + WINDOW
    return start, min(stop, first + plan.period) if plan.period else stop


def _mixed(plan: Plan, step: int, shape: int, fixed: int) -> Planned:
    """The rows that a batch gets from the batches around it."""
    start, stop = _ends(plan, step)
    parts, epochs, shapes, numbers = _window(plan, start, stop)
    alike = np.flatnonzero(shapes == shape)
    size = plan.sizes[shape]
    free = size - fixed
    mine = int(np.searchsorted(alike, step - start))
    slots = permute(
        mine * free + np.arange(free),
        len(alike) * free,
        (plan.seed, _MIX, start, shape),
    )
    batches, places_in = alike[slots // free], fixed + slots % free
    rows = np.empty(free, np.int64)
    code = parts[batches] * (epochs.max() + 1) + epochs[batches]
    for one in np.unique(code):
        here = code == one
        part, epoch = divmod(int(one), int(epochs.max()) + 1)
        inner = numbers[batches[here]] * size + places_in[here]
        rows[here] = rows_at(plan, part, epoch, shape, inner)
    whose = parts[batches].astype(np.int16)
    return Planned(plan.shapes[shape], -1, whose, rows, epochs[batches])
