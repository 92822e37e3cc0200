"""Two evaluations: which rows there are, what is refused, and how it is shown."""

import dataclasses
import statistics

import pytest
from rich.console import Console

from m3jax.core.errors import InputError
from m3jax.evaluation.comparison import Comparison, compare, comparison_table
from m3jax.evaluation.comparison_page import render_comparison
from m3jax.evaluation.outcome import Evaluation, Outcome
from m3jax.evaluation.paired import bootstrap
from tests.evaluation.evaluations import check_alone, evaluation, retrieval

A, B = evaluation(), evaluation("other [b] <b>", lift=0.125)


def only(*outcomes: Outcome) -> Evaluation:
    return Evaluation("m", {}, outcomes)


def test_rows() -> None:
    found = compare(A, B)
    assert found.apart == ()
    keys = [(row.outcome.kind, row.outcome.label, row.system) for row in found.rows]
    assert keys == [
        (one.kind, one.label, system) for one in A.outcomes for system in one.values
    ]
    first = found.rows[0]
    assert (first.a, first.b, first.difference) == (0.5, 0.625, 0.125)
    items = [x.outcomes[0].items["dense"] for x in (A, B)]
    assert first.paired == bootstrap(*items)
    assert first.paired is not None
    means = [statistics.fmean(row.values()) for row in items]
    assert first.paired.difference == pytest.approx(means[1] - means[0])
    assert first.is_clear
    # What is no mean of items has no interval.
    sts = next(row for row in found.rows if row.outcome.kind == "sts")
    assert sts.paired is None and sts.difference == pytest.approx(0.125)
    assert not sts.is_clear


def test_the_seed_and_the_resamples_are_passed_on() -> None:
    task = retrieval("t", {"dense": 0.5})
    noisy = retrieval("t", {"dense": 0.5}, seed=1)
    (row,) = compare(only(task), only(noisy), resamples=100, seed=3).rows
    items = task.items["dense"], noisy.items["dense"]
    assert row.paired == bootstrap(*items, resamples=100, seed=3)


def test_what_only_one_of_them_has() -> None:
    a = only(
        retrieval("t", {"dense": 0.5, "sparse": 0.5}),
        retrieval("u", {"dense": 0.5}),
        Outcome("t", "sts", "spearman", {"dense": {"spearman": 0.5}}),
    )
    b = only(
        retrieval("t", {"dense": 0.5, "BM25": 0.5}),
        Outcome("t", "sts", "pearson", {"dense": {"pearson": 0.5}}),
        retrieval("v", {"dense": 0.5}, language="de"),
    )
    found = compare(a, b)
    assert [row.system for row in found.rows] == ["dense"]
    assert found.apart == (
        "Only A was measured on u (retrieval).",
        "Only A has sparse on t.",
        "Only B was measured on v, de (retrieval).",
        "Only B has BM25 on t.",
        "t: A by spearman, B by pearson.",
    )
    text = render_comparison(found)
    assert all(sentence in check_alone(text).inside("li") for sentence in found.apart)
    with pytest.raises(InputError, match=r"a task and a system .* found Only A was"):
        compare(
            only(retrieval("t", {"dense": 0.5})), only(retrieval("u", {"dense": 1}))
        )
    with pytest.raises(InputError, match=r"m and m: .* found no task in them"):
        compare(only(), only())


def test_other_data_is_refused() -> None:
    task = retrieval("t", {"dense": 0.5}, language="de")
    smaller = dataclasses.replace(task, counts={"queries": 20, "passages": 1_000})
    message = "t, de: expected the same data on both sides, 1,234 passages, found 1,000"
    with pytest.raises(InputError, match=message):
        compare(only(task), only(smaller))
    renamed = {f"r{name}": value for name, value in task.items["dense"].items()}
    others = dataclasses.replace(task, items={"dense": renamed})
    message = (
        "t, de, dense: paired bootstrap: .* found 'q0', 'q1', 'q2' and 17 more mis"
    )
    with pytest.raises(InputError, match=message):
        compare(only(task), only(others))


def test_no_items_or_one_alone() -> None:
    task = retrieval("t", {"dense": 0.5})
    without = dataclasses.replace(task, items={})
    one = dataclasses.replace(task, items={"dense": {"q": 0.5}})
    for a, b in ((task, without), (without, task), (one, one)):
        (row,) = compare(only(a), only(b)).rows
        assert row.paired is None


def lines(found: Comparison, width: int) -> list[str]:
    console = Console(width=width)
    with console.capture() as text:
        console.print(comparison_table(found))
    return [" ".join(line.split()) for line in text.get().splitlines()]


def test_table() -> None:
    shown = lines(compare(A, B), 120)
    assert shown[1] == "┃ ┃ A ┃ B ┃ B - A ┃ 95 % interval ┃ p ┃ n ┃"
    assert shown[3] == "│ medquad, nDCG@10 │ │ │ │ │ │ │"
    cells = [cell.strip() for cell in shown[4].split("│")[1:-1]]
    assert cells == [
        "dense",
        "0.5000",
        "0.6250",
        "+0.1250",
        "0.1250, 0.1250",
        "0.0002",
        "20",
    ]
    assert "│ banking, accuracy │ │ │ │ │ │ │" in shown
    assert "│ banking, V-measure │ │ │ │ │ │ │" in shown
    assert "│ dense │ 0.8000 │ 0.9250 │ +0.1250 │ │ │ │" in shown
    assert "B: other [b] <b>" in shown
    # On a narrow terminal the names break, and no number does.
    assert any(
        "0.1250, 0.1250 │ 0.0002 │ 20 │" in line for line in lines(compare(A, B), 70)
    )
