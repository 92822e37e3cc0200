import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.data.shapes import (
    Lengths,
    Shape,
    assign,
    by_longest,
    find_shapes,
    parents,
)

LENGTHS = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 90)), min_size=1, max_size=60
)


def lengths(pairs: list[tuple[int, int]], **fields) -> Lengths:
    query, passage = np.array(pairs).T
    return Lengths(query, passage, **fields)


def padded(rows: Lengths, shapes: tuple[Shape, ...]) -> float:
    tokens = np.array([shape.tokens(rows.group) for shape in shapes])
    return float(tokens[assign(rows, shapes)].sum())


@settings(max_examples=60, deadline=None)
@given(pairs=LENGTHS, count=st.integers(1, 8), multiple=st.sampled_from([1, 8]))
def test_every_row_lies_in_the_cheapest_shape_that_holds_it(
    pairs: list[tuple[int, int]], count: int, multiple: int
) -> None:
    rows = lengths(pairs)
    shapes = find_shapes([rows], count, multiple=multiple)
    assert 1 <= len(shapes) <= count
    found = assign(rows, shapes)
    for (query, passage), number in zip(pairs, found, strict=True):
        costs = [
            shape.tokens(1) if shape.holds(Shape(query, passage)) else np.inf
            for shape in shapes
        ]
        assert costs[number] == min(costs) < np.inf
    assert all(
        one.query_length % multiple == one.passage_length % multiple == 0
        for one in shapes
    )
    up = parents(shapes)
    assert up[-1] == -1
    for number, parent in enumerate(up[:-1]):
        assert parent > number and shapes[parent].holds(shapes[number])


@settings(max_examples=15, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1))
def test_two_shapes_are_the_best_two(pairs: list[tuple[int, int]]) -> None:
    rows = lengths(pairs)
    top = Shape(int(rows.query.max()), int(rows.passage.max()))
    others = [Shape(q, p) for q in range(1, 5) for p in range(1, 6)]
    best = min(
        padded(rows, (other, top) if other.tokens(1) <= top.tokens(1) else (top,))
        for other in others
        if top.holds(other)
    )
    assert padded(rows, find_shapes([rows], 2)) == best


def test_more_shapes_waste_less() -> None:
    rng = np.random.default_rng(0)
    rows = Lengths(rng.integers(4, 40, 3_000), rng.gamma(2, 50, 3_000).astype(int) + 1)
    costs = [padded(rows, find_shapes([rows], count)) for count in (1, 2, 5, 10, 24)]
    assert costs == sorted(costs, reverse=True)
    real = rows.query.sum() + rows.passage.sum()
    # Random search from there finds 0.791 and 0.866.
    assert real / costs[3] > 0.78 and real / costs[4] > 0.85


def test_long_passages_count_for_the_whole_group() -> None:
    pairs = [(30, 10)] * 50 + [(10, 30)] * 60 + [(30, 30)]
    found = [find_shapes([lengths(pairs, group=group)], 2)[0] for group in (1, 8)]
    assert found == [Shape(10, 30), Shape(30, 10)]


def test_a_data_set_counts_by_its_share() -> None:
    short = lengths([(5, 5)] * 10, share=1.0)
    middle = lengths([(5, 50)] * 10, share=100.0)
    long = lengths([(5, 100)] * 10, share=1.0)
    assert find_shapes([short, middle, long], 2)[0].passage_length == 50


def test_buckets_go_by_the_longest_text() -> None:
    rows = lengths([(3, 3), (9, 3), (4, 12), (2, 16)])
    shapes = by_longest([rows], (8, 16))
    assert shapes == (Shape(3, 8), Shape(9, 16))
    assert assign(rows, shapes).tolist() == [0, 1, 1, 1]


def test_a_longer_row_gets_a_bucket_of_its_own() -> None:
    rows = lengths([(3, 3), (3, 20)])
    assert [one.passage_length for one in by_longest([rows], (8, 16))] == [8, 20]


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_lengths_may_be_of_any_type(kind: type) -> None:
    rows = Lengths(np.array([3, 40], kind), np.array([4, 70], kind))
    shapes = find_shapes([rows], 4)
    assert assign(rows, shapes).tolist() == [0, 1]
