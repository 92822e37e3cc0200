"""Numbers about data and batches, against the batches themselves."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.data import samples, statistics
from m3jax.data.batches import Batcher
from m3jax.data.records import Labelled, Pairs, Record, Text
from m3jax.data.samples import count_tokens
from m3jax.data.scan import Scan, scan
from m3jax.data.sources.listed import listed
from m3jax.data.statistics import Filled, Negatives, Repeats
from m3jax.testing import TEXTS
from tests.mixtures import build, plain

WORDS = " ".join(TEXTS).split()
# One positive and no negatives: lengths tell all.
SINGLE = {
    name: [
        {
            "query": " ".join(WORDS[: 1 + i * step % 7]),
            "pos": [" ".join(WORDS[i % 5 : i % 5 + 1 + i * step % 13])],
        }
        for i in range(rows)
    ]
    for name, rows, step in (("long", 67, 5), ("short", 30, 3))
}
SEVERAL = [
    {
        "query": f"where is the {word}",
        "pos": [f"the {word} is {'far ' * j}off" for j in range(1 + i % 3)],
        "neg": [f"no {word}{'s' * j}" for j in range(i % 4)],
    }
    for i, word in enumerate(sorted(set(WORDS)))
]
LABELS = [{"text": f"{text} {i}", "label": f"class {i % 3}"}
          for i, text in enumerate(TEXTS * 8)]  # fmt: skip


def scanned(folder: Path, records: Sequence[Record]) -> Scan:
    return scan(listed("mine", records), root=folder, processes=0)


def batches(batcher: Batcher, epoch: int = 0) -> list[dict[str, np.ndarray]]:
    steps = batcher.plan.steps_per_epoch
    return [batcher(step) for step in range(epoch * steps, (epoch + 1) * steps)]


def measured(made: Sequence[dict[str, Any]]) -> Filled:
    """Tokens of real batches, by their masks."""
    masks = [(one["query.mask"], one["passage.mask"]) for one in made]
    return Filled(
        len(made),
        sum(len(one["row"]) for one in made),
        *(sum(int(pair[side].sum()) for pair in masks) for side in (0, 1)),
        *(sum(pair[side].size for pair in masks) for side in (0, 1)),
    )


def test_repeats_and_negatives(tmp_path: Path) -> None:
    rows = [
        Pairs("who", ("me",), ("you",)),
        Pairs("who", ("them",), ("you", "us", "her")),
        Pairs("who", ("me", "and others")),
        Pairs("why", ("me",)),
        Pairs("same", ("same",)),
    ]
    found = scanned(tmp_path, rows)
    assert statistics.repeats(found) == Repeats(query=2, row=1, itself=1)
    assert statistics.repeats(found, np.array([1, 3])) == Repeats(0, 0, 0)
    assert statistics.negatives(found) == Negatives(0.8, 0)
    assert statistics.negatives(found, np.array([0, 1])) == Negatives(2.0, 1)


def test_a_text_alone_repeats_as_a_row_too(tmp_path: Path) -> None:
    found = scanned(tmp_path, [Text("a"), Text("b"), Text("a")])
    assert statistics.repeats(found) == Repeats(query=1, row=1, itself=0)
    # The same label is no repeat.
    found = scanned(tmp_path, [Labelled("a", "x"), Labelled("b", "x")])
    assert statistics.repeats(found) == Repeats(0, 0, 0)


@pytest.mark.parametrize("epoch", [0, 3])
@pytest.mark.parametrize("size", [4, 7])
def test_padding_is_that_of_the_batches(tmp_path: Path, size: int, epoch: int) -> None:
    batcher = build(tmp_path, SINGLE, batch_size=size, shapes=4)
    plan, sets = batcher.plan, batcher.sets
    made = batches(batcher, epoch)
    found = statistics.padding(plan, sets, epoch)
    for number, cells in enumerate(found):
        for shape, cell in zip(plan.shapes, cells, strict=True):
            widths = shape.query_length, shape.passage_length
            here = [
                one
                for one in made
                if one["dataset"][0] == number
                and widths
                == (one["query.mask"].shape[-1], one["passage.mask"].shape[-1])
            ]
            assert cell == measured(here)
    whole = measured(made)
    assert sum(statistics.weighed(plan, found), start=Filled()) == whole
    assert statistics.efficiency(plan, sets, epoch) == whole.efficiency
    assert 0.5 < whole.efficiency < 1
    # Which rows the longest shape drops differs from epoch to epoch.
    dropped = sum(part.dropped for part in plan.parts)
    assert whole.rows == 97 - dropped


def test_rows_that_are_held_out_do_not_count(tmp_path: Path) -> None:
    alone = [*LABELS, {"text": "a very long text that is all alone", "label": "odd"}]
    batcher = build(
        tmp_path, {"a": alone}, options={"a": {"labels": "same"}}, batch_size=6
    )
    (cells,) = statistics.padding(batcher.plan, batcher.sets)
    assert sum(cell.rows for cell in cells) == 24
    queries = batcher.sets[0].lengths
    assert sum(cell.query for cell in cells) == queries[:24].sum()


@pytest.mark.parametrize("homogeneity", [0.0, 0.5])
def test_mixed_batches_have_the_largest_group(
    tmp_path: Path, homogeneity: float
) -> None:
    batcher = build(
        tmp_path,
        {"several": SEVERAL, **SINGLE},
        options={"several": {"negatives": 3}},
        homogeneity=homogeneity,
        batch_size=4,
        shapes=1,
    )
    found = statistics.padding(batcher.plan, batcher.sets)
    every = sum(statistics.weighed(batcher.plan, found), start=Filled())
    made = [one for one in batches(batcher) if len(set(one["dataset"].tolist())) > 1]
    assert {one["where"].shape[1] for one in made} == {4}
    width = batcher.plan.shapes[0].passage_length
    assert every.passage_space == every.rows * 4 * width
    assert statistics.programs(batcher.plan, batcher.sets) == 1


@pytest.mark.parametrize(
    "options",
    [{"fill": "mask"}, {"fill": "repeat"}, {"fill": "random"}],
    ids=lambda options: options["fill"],
)
def test_present_passages(tmp_path: Path, options: dict[str, Any]) -> None:
    batcher = build(
        tmp_path, {"a": SEVERAL}, options={"a": options}, negatives=2, batch_size=3
    )
    present = statistics.present(batcher.sets[0])
    for one in batches(batcher):
        assert one["where"].sum(1).tolist() == present[one["row"]].tolist()


@pytest.mark.parametrize("labels", ["text", "same"])
@pytest.mark.parametrize("negatives", [1, 4])
def test_present_passages_of_labels(
    tmp_path: Path, labels: str, negatives: int
) -> None:
    batcher = build(
        tmp_path, {"a": LABELS}, options={"a": {"labels": labels}}, negatives=negatives
    )
    present = statistics.present(batcher.sets[0])
    # There are two other labels, and many texts of them.
    assert set(present) == {1 + (min(negatives, 2) if labels == "text" else negatives)}
    for one in batches(batcher):
        assert one["where"].sum(1).tolist() == present[one["row"]].tolist()


def test_passages_of_several_count_as_the_longest(tmp_path: Path) -> None:
    batcher = build(tmp_path, {"a": SEVERAL}, negatives=2, batch_size=5)
    found = sum(statistics.padding(batcher.plan, batcher.sets)[0], start=Filled())
    real = measured(batches(batcher))
    assert found.passage > real.passage
    assert found.query == real.query and found.space == real.space


def test_by_weight_each_set_counts_as_often_as_it_comes(tmp_path: Path) -> None:
    options = {"long": {"weight": 1.0}, "short": {"weight": 5.0}}
    batcher = build(tmp_path, SINGLE, options=options, batch_size=4, steps=40)
    plan, sets = batcher.plan, batcher.sets
    assert statistics.shares(plan) == pytest.approx((1 / 6, 5 / 6))
    real, space = 0.0, 0.0
    for cells, share in zip(statistics.padding(plan, sets), (1, 5), strict=True):
        one = sum(cells, start=Filled())
        real += share * one.tokens / one.batches
        space += share * one.space / one.batches
    assert statistics.efficiency(plan, sets) == pytest.approx(real / space)
    weighed = statistics.weighed(plan, statistics.padding(plan, sets))
    steps = sum(one.batches for one in weighed)
    assert steps == pytest.approx(plan.steps_per_epoch)


def padded_at_random(
    lengths: Sequence[int], size: int, rng: np.random.Generator
) -> float:
    """Padded tokens of shuffled batches, one by one."""
    order = rng.permutation(len(lengths))
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    return sum(len(part) * max(lengths[i] for i in part) for part in parts)


def test_random_batches(tmp_path: Path) -> None:
    batcher = build(tmp_path, SINGLE, batch_size=4)
    plan, sets = batcher.plan, batcher.sets

    def at(size: int) -> float:
        return statistics.random_efficiency(plan, sets, size, seed=7)

    assert at(1) == 1
    real = sum(int(one.lengths.sum()) + int(one.rows.lengths.sum()) for one in sets)
    rng, padded, whole = np.random.default_rng(7), 0.0, 0
    for one in sets:
        # One order for both sides of a data set.
        state = rng.bit_generator.state
        padded += padded_at_random(one.lengths.tolist(), 9, rng)
        rng.bit_generator.state = state
        padded += padded_at_random(one.rows.lengths.tolist(), 9, rng)
        whole += len(one.lengths) * int(one.lengths.max() + one.rows.lengths.max())
    assert at(9) == pytest.approx(real / padded)
    assert at(1_000) == pytest.approx(real / whole)
    assert at(1_000) < at(9) < at(2) < 1


def test_programs_are_the_forms_of_the_batches(tmp_path: Path) -> None:
    scored = [
        {"sentence1": row["query"], "sentence2": row["pos"][0], "score": i % 5}
        for i, row in enumerate(SINGLE["long"])
    ]
    batcher = build(
        tmp_path,
        {"several": SEVERAL, "scored": scored, **SINGLE},
        options={"several": {"negatives": 2}},
        batch_tokens=200,
    )
    forms = Counter(
        tuple(sorted((name, array.shape) for name, array in one.items()))
        for one in batches(batcher)
    )
    found = statistics.programs(batcher.plan, batcher.sets)
    assert found == len(forms) > len(batcher.plan.shapes)


def test_tokens_are_counted_in_real_batches(tmp_path: Path) -> None:
    batcher = build(tmp_path, {"a": SEVERAL, **SINGLE}, batch_size=5)
    steps = range(batcher.plan.steps_per_epoch)
    present = [statistics.present(one) for one in batcher.sets]
    seen: list[int] = []
    found = count_tokens(batcher, steps, present, rows=99, advance=seen.append)
    every = sum(
        statistics.weighed(
            batcher.plan, statistics.padding(batcher.plan, batcher.sets)
        ),
        start=Filled(),
    )
    assert found.found == measured(batches(batcher))
    assert found.by_lengths == every
    assert (found.batches, found.rows) == (len(steps), every.rows) and sum(seen) == len(
        steps
    )
    # Two rows stand for all five of their batch.
    part = count_tokens(batcher, steps, present, rows=2)
    assert part.rows == 2 * len(steps) and part.found.space == every.space
    assert part.by_lengths.space == every.space
    assert part.found.rows == pytest.approx(every.rows)


def test_samples_are_what_the_model_reads(tmp_path: Path) -> None:
    batcher = build(
        tmp_path,
        {"several": SEVERAL, "labels": LABELS},
        options={"several": {"negatives": 3}, "labels": {"in_batch_negatives": False}},
    )
    for part, name in enumerate(("several", "labels")):
        found = samples.samples(batcher, part, 3)
        assert len(found) == 3
        arrays = batcher(found[0].step)
        assert [one.row for one in found] == arrays["row"][:3].tolist()
        for one in found:
            assert one.dataset == name and one.in_batch == (name == "several")
            assert one.where.endswith(f"{name}.jsonl:{one.row + 1}")
            assert one.query is not None and one.query.text.startswith("[CLS]")
            assert one.query.text.endswith("[SEP]")
            lengths = {p.tokens + p.padding for p in one.passages if p is not None}
            assert lengths == {arrays["passage.mask"].shape[-1]}
            assert one.label is None and one.teacher_scores == ()
            if name == "several":
                row = SEVERAL[one.row]
                assert plain(row["query"]) in plain(one.query.text)
                assert one.passages.count(None) == max(0, 3 - len(row["neg"]))
                assert None not in one.passages[: 1 + len(row["neg"])]


def test_samples_of_mixed_batches_and_of_none(tmp_path: Path) -> None:
    batcher = build(tmp_path, SINGLE, homogeneity=0.0)
    for part, name in enumerate(SINGLE):
        found = samples.samples(batcher, part, 2)
        assert found and {one.dataset for one in found} == {name}
    options = {"long": {"weight": 100_000.0}, "short": {"weight": 1.0}}
    batcher = build(tmp_path, SINGLE, options=options, steps=20)
    assert samples.samples(batcher, 1, 2) == ()
    assert len(samples.samples(batcher, 0, 2)) == 2


def test_samples_tell_scores(tmp_path: Path) -> None:
    rows = [
        {"query": f"q {i}", "pos": ["yes"], "neg": ["no"], "pos_scores": [0.75],
         "neg_scores": [0.25]}
        for i in range(8)
    ]  # fmt: skip
    graded = [{"sentence1": f"a {i}", "sentence2": "b", "score": 3.5} for i in range(8)]
    batcher = build(
        tmp_path,
        {"taught": rows, "graded": graded},
        options={"taught": {"teacher_scores": True, "negatives": 1}},
    )
    (taught,), (scored,) = (samples.samples(batcher, part, 1) for part in (0, 1))
    assert taught.teacher_scores == (0.75, 0.25) and taught.label is None
    assert scored.label == 3.5 and scored.teacher_scores == ()
