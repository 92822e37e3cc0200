"""Which passages stand beside a query."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.draws import Dice, shuffled
from m3jax.data.examples import Example, TrainingSet, example
from m3jax.data.records import content_hash
from tests.mixtures import build


def one_set(folder: Path, rows: list[dict], negatives: int = 0, **options: Any):
    batcher = build(
        folder,
        {"a": rows},
        options={"a": options},
        batch_size=1,
        negatives=negatives,
        passage_length=64,
        query_length=64,
    )
    return batcher.sets[0]


def examples(one: TrainingSet, row: int, times: int = 40, longest: int = 64):
    return [
        example(one, row, Dice(0, 0, epoch, row), longest=longest)
        for epoch in range(times)
    ]


def passages(found: list[Example]) -> Counter[tuple]:
    return Counter(one.passages for one in found)


def test_dice_are_fair_and_the_same_everywhere() -> None:
    dice = Dice(1, 2)
    counts = np.bincount([dice.below(6) for _ in range(6_000)], minlength=6)
    assert abs(counts - 1_000).max() < 6 * 1_000**0.5
    assert 0.45 < np.mean([dice.share() for _ in range(2_000)]) < 0.55
    firsts = Counter(Dice(0, row).sample(3, 1)[0] for row in range(3_000))
    assert all(abs(count - 1_000) < 6 * 1_000**0.5 for count in firsts.values())
    assert [Dice(0, 1).below(10**9) for _ in range(2)] == [GOLDEN] * 2


GOLDEN = 267_170_752


def test_neighbours_do_not_draw_the_same() -> None:
    streams = []
    for row in range(50):
        dice = Dice(0, 0, 0, row)
        streams.append({dice.below(2**60) for _ in range(20)})
    assert len(set.union(*streams)) == 50 * 20


def test_another_epoch_or_seed_draws_others(tmp_path: Path) -> None:
    """As batches are made: of the same rows, other positives and negatives."""
    row = {"pos": list("abcdefgh"), "neg": list("ijklmnopqrst")}
    sets = {"a": [row | {"query": f"q{i}"} for i in range(8)]}
    found = {}
    for seed in (0, 1):
        batcher = build(tmp_path, sets, negatives=3, seed=seed)
        for epoch in (0, 1):
            arrays = batcher(epoch)
            order = np.argsort(arrays["row"])
            found[seed, epoch] = arrays["passage_ids"][order]
    for one, other in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 1))):
        same = (found[one] == found[other]).all(-1)
        assert same[:, 0].mean() < 0.7 and same[:, 1:].mean() < 0.5


def test_positives_and_negatives_are_drawn_anew(tmp_path: Path) -> None:
    row = {"query": "q", "pos": list("abcd"), "neg": list("efghijk")}
    found = examples(one_set(tmp_path, [row], negatives=3), 0)
    assert {one.passages[0] for one in found} == set("abcd")
    assert {text for one in found for text in one.passages[1:]} == set("efghijk")
    assert all(len(set(one.passages)) == 4 for one in found)


def test_the_first_positive_where_asked(tmp_path: Path) -> None:
    row = {"query": "q", "pos": list("abcd")}
    found = examples(one_set(tmp_path, [row], positive="first"), 0)
    assert passages(found) == {("a",): 40}


@pytest.mark.parametrize(
    ("fill", "expected"),
    [("mask", {("p", "n", None, None)}), ("repeat", {("p", "n", "n", "n")})],
)
def test_a_short_list_is_masked_or_repeated(
    tmp_path: Path, fill: str, expected: set
) -> None:
    rows = [{"query": "q", "pos": ["p"], "neg": ["n"]}]
    found = examples(one_set(tmp_path, rows, negatives=3, fill=fill), 0)
    assert set(passages(found)) == expected


def test_nothing_to_repeat_is_masked(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": ["p"], "neg": ["p"]}]
    found = examples(one_set(tmp_path, rows, negatives=2, fill="repeat"), 0)
    assert set(passages(found)) == {("p", None, None)}


def test_random_negatives_are_never_a_positive(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "pos": ["p", "also"], "neg": ["n"]},
        {"query": "q", "pos": ["for q too"]},  # the query of the first row
        {"query": "r", "pos": ["p"]},  # a positive of the first row
        *({"query": f"r{i}", "pos": [f"p{i}"]} for i in range(6)),
    ]
    one = one_set(tmp_path, rows, negatives=4, fill="random")
    found = examples(one, 0)
    assert all(example.passages[1] == "n" for example in found)
    drawn = Counter(text for example in found for text in example.passages[2:])
    # All of the others, about as often.
    assert set(drawn) == {f"p{i}" for i in range(6)}
    assert all(abs(count - 20) < 15 for count in drawn.values())
    assert all(len(set(example.passages)) == 5 for example in found)


def test_a_positive_of_another_row_of_the_query_is_no_negative(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "pos": ["A"], "neg": ["B", "x"]},
        {"query": "q", "pos": ["C", "B"]},
        {"query": "other", "pos": ["B"]},
        {"query": "third", "pos": ["D"]},
    ]
    found = examples(one_set(tmp_path, rows, negatives=3, fill="random"), 0)
    assert set(passages(found)) == {("A", "x", "D", None)}


def test_random_negatives_fit_the_batch(tmp_path: Path) -> None:
    rows = [{"query": f"q{i}", "pos": ["word " * i]} for i in range(1, 12)]
    one = one_set(tmp_path, rows, negatives=3, fill="random")
    longest = int(one.rows.lengths[5])
    for example_ in examples(one, 0, longest=longest):
        lengths = [len(str(text).split()) for text in example_.passages if text]
        assert max(lengths) <= 6


def test_too_few_others_are_masked(tmp_path: Path) -> None:
    rows = [{"query": "a", "pos": ["1"]}, {"query": "b", "pos": ["2"]}]
    found = examples(one_set(tmp_path, rows, negatives=3, fill="random"), 0)
    assert set(passages(found)) == {("1", "2", None, None)}


def test_labels_are_told_apart_by_their_text(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "abc"[i % 3]} for i in range(9)]
    one = one_set(tmp_path, rows, negatives=4)
    for found in examples(one, 4):
        assert found.query == "t4" and found.passages[0] == "b"
        assert sorted(map(str, found.passages[1:3])) == ["a", "c"]
        assert found.passages[3:] == (None, None)
        assert found.passage_ids[0] == content_hash("b")


def test_some_of_many_labels(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": f"l{i % 10}"} for i in range(30)]
    one = one_set(tmp_path, rows, negatives=2)
    drawn = {text for found in examples(one, 3) for text in found.passages[1:]}
    assert drawn == {f"l{i}" for i in range(10)} - {"l3"}


def test_texts_of_one_label_belong_together(tmp_path: Path) -> None:
    rows = [{"text": f"{'ab'[i % 2]}{i}", "label": "ab"[i % 2]} for i in range(10)]
    rows.append({"text": "c", "label": "alone"})
    one = one_set(tmp_path, rows, negatives=2, labels="same")
    assert one.rows.count == 10
    for found in examples(one, 4):
        positive, *negatives = map(str, found.passages)
        assert positive[0] == "a" and positive != "a4"
        assert {text[0] for text in negatives} <= {"b", "c"}
        # By these ids no text of the label is ever a negative.
        assert found.query_id == found.passage_ids[0] == content_hash("a")
        assert found.passage_ids[1] != found.query_id
    assert len({found.passages[0] for found in examples(one, 4)}) == 4


def test_a_text_is_its_own_positive(tmp_path: Path) -> None:
    (found,) = examples(one_set(tmp_path, [{"text": "hello"}]), 0, times=1)
    assert found.query == "hello" and found.passages == ("hello",)
    assert found.query_id == found.passage_ids[0]


def test_two_texts_and_their_score(tmp_path: Path) -> None:
    rows = [{"sentence1": "a", "sentence2": "b", "score": 3.5}]
    (found,) = examples(one_set(tmp_path, rows), 0, times=1)
    assert (found.query, found.passages, found.label) == ("a", ("b",), 3.5)


def test_teacher_scores_stay_with_their_passages(tmp_path: Path) -> None:
    row = {"query": "q", "pos": ["1", "2"], "neg": ["3", "4", "5"]}
    row |= {"pos_scores": [1, 2], "neg_scores": [3, 4, 5]}
    one = one_set(tmp_path, [row], negatives=4, teacher_scores=True)
    for found in examples(one, 0):
        assert found.teacher_scores == tuple(float(str(t or 0)) for t in found.passages)


def test_teacher_scores_that_are_missing_are_told(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}]
    with pytest.raises(InputError, match=r"row 0: expected neg_scores"):
        one_set(tmp_path, rows, teacher_scores=True)
    # Of the first row it shows at once, of another when it is read.
    whole = {**rows[0], "neg_scores": [0]}
    one = one_set(tmp_path, [whole, *rows], teacher_scores=True)
    with pytest.raises(InputError, match=r"a\.jsonl: row 1: expected neg_scores"):
        examples(one, 1, times=1)


def test_one_of_several_prompts_for_each_row(tmp_path: Path) -> None:
    rows = [{"query": "q", "pos": ["p"]}, {"query": "q", "pos": ["p"], "prompt": "x "}]
    one = one_set(tmp_path, rows, prompts=("one: ", "two: "), symmetric=True)
    found = Counter((e.query, e.passages[0]) for e in examples(one, 0))
    assert set(found) == {("one: q", "one: p"), ("two: q", "two: p")}
    assert min(found.values()) > 8
    (own,) = examples(one, 1, times=1)
    assert own.query == "x q"
    # The same words under another prompt of the row are another query.
    assert own.query_id != examples(one, 0, times=1)[0].query_id


def test_long_passages_are_shuffled_in_three_pieces() -> None:
    text = "".join(f"{i:03}" for i in range(100))
    found = Counter(shuffled(text, Dice(row), 0.25) for row in range(800))
    assert abs(found[text] - 600) < 80
    assert len(found) == 1 + 6
    pieces = [text[:101], text[101:202], text[202:]]
    for one in map(str, set(found) - {text}):
        assert sorted(one.split(" ")) == sorted(pieces)
    assert shuffled(text[:100], Dice(0), 1.0) == text[:100]
    assert shuffled(text, Dice(0), 0.0) == text


def test_the_share_of_shuffled_passages_reaches_the_batch(tmp_path: Path) -> None:
    text = "".join(f"{i:03}" for i in range(60))
    rows = [{"query": text, "pos": [text]}]
    for ratio, count in ((1.0, 3), (0.0, 1)):
        found = examples(one_set(tmp_path, rows, shuffle_ratio=ratio), 0, times=20)
        assert len({one.passages[0] for one in found}) >= count
        assert {one.query for one in found} == {text}
        # It is still the same passage, for telling false negatives.
        assert {one.passage_ids[0] for one in found} == {content_hash(text)}
