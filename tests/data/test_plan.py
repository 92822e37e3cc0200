from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.plan import Plan, Planned, batch, make_plan, places
from m3jax.data.shapes import Lengths, Shape

SHAPES = (Shape(4, 4), Shape(4, 8), Shape(8, 4), Shape(8, 8), Shape(16, 16))


def rows(count: int, seed: int = 0) -> Lengths:
    rng = np.random.default_rng(seed)
    return Lengths(rng.integers(1, 17, count), rng.integers(1, 17, count))


def build(
    counts: Sequence[int], size: int = 4, sizes: Sequence[int] = (), **options
) -> Plan:
    sets = [rows(count, seed) for seed, count in enumerate(counts)]
    sizes = sizes or [size] * len(SHAPES)
    given: dict[str, Any] = {"seed": 0} | options
    return make_plan(sets, shapes=SHAPES, sizes=sizes, **given)


def all_of(plan: Plan, start: int, stop: int) -> list[Planned]:
    return [batch(plan, step) for step in range(start, stop)]


def seen(planned: Sequence[Planned]) -> Counter[tuple[int, int, int]]:
    """How often each row of each epoch of each data set came."""
    return Counter(
        triple
        for one in planned
        for triple in zip(
            one.parts.tolist(), one.epochs.tolist(), one.rows.tolist(), strict=True
        )
    )


COUNTS = st.lists(st.integers(4, 60), min_size=1, max_size=4)


@settings(max_examples=20, deadline=None)
@given(
    counts=COUNTS,
    sizes=st.lists(st.integers(1, 4), min_size=5, max_size=5),
    seed=st.integers(0, 9),
    homogeneity=st.sampled_from([1.0, 0.5, 0.0]),
)
def test_an_epoch_is_every_row_once(
    counts: list[int], sizes: list[int], seed: int, homogeneity: float
) -> None:
    plan = build(counts, sizes=sizes, seed=seed, homogeneity=homogeneity)
    sets = [rows(count, number) for number, count in enumerate(counts)]
    steps = plan.steps_per_epoch
    for epoch in (0, 2):
        planned = all_of(plan, epoch * steps, (epoch + 1) * steps)
        for one in planned:
            assert len(one.rows) == sizes[plan.shapes.index(one.shape)]
            for part in set(one.parts.tolist()):
                mine = one.rows[one.parts == part]
                # Nothing is cut off that the lengths had not cut off already.
                assert sets[part].query[mine].max() <= one.shape.query_length
                assert sets[part].passage[mine].max() <= one.shape.passage_length
        found = seen(planned)
        assert {one for _, one, _ in found} == {epoch}
        assert set(found.values()) == {1}
        assert len(found) == plan.rows_per_epoch
    dropped = [part.dropped for part in plan.parts]
    assert plan.rows_per_epoch == sum(counts) - sum(dropped)
    assert all(0 <= rest < sizes[-1] for rest in dropped)


def test_only_rows_of_the_longest_shape_are_dropped() -> None:
    plan = build([203], size=8)
    found = {row for _, _, row in seen(all_of(plan, 0, plan.steps_per_epoch))}
    dropped = sorted(set(range(203)) - found)
    lengths = rows(203)
    assert len(dropped) == plan.parts[0].dropped > 0
    assert (np.maximum(lengths.query, lengths.passage)[dropped] > 8).all()


def test_what_a_shape_leaves_over_moves_up() -> None:
    lengths = Lengths(np.array([1] * 5 + [9] * 3), np.array([1] * 5 + [9] * 3))
    plan = make_plan([lengths], shapes=SHAPES, sizes=[4] * 5, seed=0)
    (part,) = plan.parts
    # Five short rows: a batch, and one that fills up the batch of three long ones.
    assert part.batches == (1, 0, 0, 0, 1) and part.left == (1, 1, 0, 1, 0)
    assert {one.shape for one in all_of(plan, 0, 2)} == {SHAPES[0], SHAPES[-1]}


def test_batches_come_from_one_data_set_where_asked() -> None:
    for one in all_of(build([40, 60, 33]), 0, 60):
        assert set(one.parts.tolist()) == {one.part}


def test_a_share_of_each_batch_stays_where_it_was() -> None:
    pure = build([400, 600, 330], size=8)
    mixed = build([400, 600, 330], size=8, homogeneity=0.75)
    foreign = 0
    for one, other in zip(all_of(pure, 0, 150), all_of(mixed, 0, 150), strict=True):
        assert one.shape == other.shape
        assert np.array_equal(one.rows[:6], other.rows[:6])
        assert set(other.parts[:6].tolist()) == {one.part}
        foreign += int((other.parts[6:] != one.part).sum())
    # Of the two rows that move, about 1 - sum of squared shares come from elsewhere.
    assert 0.4 < foreign / 300 < 0.85


def test_without_homogeneity_data_sets_mix_by_their_rows() -> None:
    plan = build([400, 800], size=8, homogeneity=0.0)
    shares = [float((one.parts == 1).mean()) for one in all_of(plan, 0, 140)]
    assert 0.6 < np.mean(shares) < 0.73
    assert 0.1 < np.std(shares) < 0.25  # 0.17 for eight independent draws


def test_a_window_never_goes_beyond_its_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("m3jax.data.plan.WINDOW", 16)
    one = build([300], homogeneity=0.0)
    steps = one.steps_per_epoch
    for epoch in (0, 1):
        found = seen(all_of(one, epoch * steps, (epoch + 1) * steps))
        assert set(found.values()) == {1} and len(found) == one.rows_per_epoch


def test_a_longer_run_changes_nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3jax.data.plan.WINDOW", 16)
    plan = build([60, 90], weights=(1.0, 2.0), homogeneity=0.25)
    short, long = plan.lasting(40), plan.lasting(90)
    for step in range(40):
        assert np.array_equal(batch(short, step).rows, batch(long, step).rows)


@pytest.mark.parametrize("homogeneity", [1.0, 0.5])
def test_the_step_alone_decides(homogeneity: float) -> None:
    plan, again = (build([80, 44], homogeneity=homogeneity) for _ in range(2))
    for step in (17, 3, 25, 3, 2_000):  # any order, as after a restart
        one, other = batch(plan, step), batch(again, step)
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.parts, other.parts)
    other = build([80, 44], seed=1, homogeneity=homogeneity)
    same = [
        np.array_equal(batch(plan, step).rows, batch(other, step).rows)
        for step in range(20)
    ]
    assert not all(same)


def test_the_seed_decides_which_rows_are_mixed() -> None:
    # With one shape nothing else decides which data set a place has.
    same = Lengths(np.full(64, 3), np.full(64, 3))
    options: dict[str, Any] = {"shapes": [Shape(3, 3)], "sizes": [8]}
    one, other = (
        make_plan([same, same], seed=seed, homogeneity=0.0, **options)
        for seed in (0, 1)
    )
    for step in range(16):
        parts = batch(one, step).parts, batch(other, step).parts
        assert not np.array_equal(*parts)


def test_epochs_differ() -> None:
    plan = build([120])
    steps = plan.steps_per_epoch
    first, second = (
        [one.rows.tolist() for one in all_of(plan, epoch * steps, (epoch + 1) * steps)]
        for epoch in (0, 1)
    )
    assert first != second
    # And not only in the order of the batches.
    assert {tuple(sorted(one)) for one in first} != {
        tuple(sorted(one)) for one in second
    }


def test_shapes_are_mixed_over_the_steps() -> None:
    plan = build([400])
    order = [plan.shapes.index(one.shape) for one in all_of(plan, 0, 99)]
    assert order[:9] != sorted(order)[:9]
    assert set(order) == set(range(5))


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(4, 60), min_size=2, max_size=5))
def test_data_sets_come_in_proportion_at_every_step(counts: list[int]) -> None:
    plan = build(counts)
    steps = plan.steps_per_epoch
    part, epoch, _, _ = places(plan, 0, 2 * steps)
    asked = np.array([sum(one.batches) for one in plan.parts]) / steps
    found = np.cumsum(np.eye(len(counts))[part], axis=0)
    steps_done = np.arange(1, 2 * steps + 1)[:, None]
    assert np.abs(found - asked * steps_done).max() <= 1
    assert (epoch == np.arange(2 * steps) // steps).all()


def test_with_weights_a_data_set_begins_again_when_it_is_used_up() -> None:
    plan = build([40, 400], weights=(3.0, 1.0)).lasting(120)
    planned = all_of(plan, 0, 120)
    part = np.array([one.part for one in planned])
    share = np.cumsum(part == 0) - 0.75 * np.arange(1, 121)
    assert np.abs(share).max() < 1
    found = seen(planned)
    assert set(found.values()) == {1}
    epochs = {number: {e for p, e, _ in found if p == number} for number in (0, 1)}
    assert epochs == {0: set(range(9)), 1: {0}}


def test_rows_that_are_kept_back_never_come() -> None:
    keep = np.flatnonzero(np.arange(100) % 3 > 0)
    plan = build([100, 30], keep=[keep, None])
    found = seen(all_of(plan, 0, plan.steps_per_epoch))
    mine = {row for part, _, row in found if part == 0}
    assert mine <= set(keep.tolist()) and len(mine) > 60


def test_fewer_rows_than_a_batch() -> None:
    with pytest.raises(InputError, match=r"^b: expected .* batch of 8 .*, found 7"):
        build([30, 7], size=8, names=["a", "b"])


def test_a_plan_of_ten_million_rows_keeps_four_bytes_a_row() -> None:
    plan = build([100_000])
    assert plan.parts[0].rows.nbytes == 400_000
