import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.plan import Plan, batch, make_plan


def build(lengths: list[int], batch_size: int, seed: int = 0, queries=None) -> Plan:
    passages = np.array(lengths)
    queries = passages if queries is None else np.array(queries)
    return make_plan(
        queries, passages, edges=(4, 8, 16), batch_size=batch_size, seed=seed
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=8, max_size=80),
    batch_size=st.integers(1, 8),
    seed=st.integers(0, 9),
)
def test_an_epoch_is_every_row_once(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    plan = build(lengths, batch_size, seed)
    steps = plan.steps_per_epoch
    assert steps == len(lengths) // batch_size
    for epoch in (0, 1):
        planned = [batch(plan, epoch * steps + step) for step in range(steps)]
        rows = np.concatenate([one.rows for one in planned])
        assert len(set(rows.tolist())) == len(rows) == steps * batch_size
        for one in planned:
            assert len(one.rows) == batch_size and one.epoch == epoch
            # Nothing is cut off that the lengths had not cut off already.
            assert np.array(lengths)[one.rows].max() <= one.passage_length
            assert np.array(lengths)[one.rows].max() <= one.query_length
    # Only rows of the longest bucket are dropped.
    dropped = set(range(len(lengths))) - set(rows.tolist())
    kept_back = {int(row) for row in plan.buckets[-1].rows}
    if len(plan.buckets) > 1 and dropped - kept_back:
        assert len(plan.buckets[-1].rows) < batch_size


def test_a_bucket_has_one_shape() -> None:
    rng = np.random.default_rng(0)
    queries = rng.integers(1, 9, 100)
    plan = build(rng.integers(1, 17, 100).tolist(), 8, queries=queries)
    shapes = {
        (one.query_length, one.passage_length)
        for one in (batch(plan, step) for step in range(5 * plan.steps_per_epoch))
    }
    assert len(shapes) == len(plan.buckets) == 3
    assert all(query <= 8 for query, _ in shapes)


def test_a_row_lies_in_the_shortest_bucket_that_holds_it() -> None:
    plan = build([3, 4, 5, 8, 9, 16, 17], 1)
    found = {bucket.passage_length: bucket.rows.tolist() for bucket in plan.buckets}
    assert found == {4: [0, 1], 8: [2, 3], 16: [4, 5], 17: [6]}


def test_the_step_alone_decides() -> None:
    lengths = list(range(1, 41))
    plan, again = build(lengths, 4), build(lengths, 4)
    for step in (17, 3, 25, 3):  # any order, as after a restart
        np.testing.assert_array_equal(batch(plan, step).rows, batch(again, step).rows)
    other = build(lengths, 4, seed=1)
    assert any(
        (batch(plan, step).rows != batch(other, step).rows).any() for step in range(10)
    )


def test_epochs_differ() -> None:
    plan = build(list(range(1, 41)), 4)
    first = [batch(plan, step).rows.tolist() for step in range(10)]
    second = [batch(plan, step).rows.tolist() for step in range(10, 20)]
    assert first != second
    # And not only in the order of the batches.
    assert {tuple(sorted(rows)) for rows in first} != {
        tuple(sorted(rows)) for rows in second
    }


def test_lengths_are_mixed_over_the_steps() -> None:
    plan = build([3] * 40 + [7] * 40 + [15] * 40, 4)
    order = [batch(plan, step).passage_length for step in range(30)]
    assert order != sorted(order) and set(order[:15]) == {4, 8, 16}


def test_fewer_rows_than_a_batch() -> None:
    with pytest.raises(InputError, match="one batch of 8 training rows, found 7"):
        build([3] * 7, 8)
