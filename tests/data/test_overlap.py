"""How much of what is measured is trained on, against sets of texts."""

from pathlib import Path
from typing import Any

import pytest

from m3jax.data import overlap
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.overlap import Overlap, count_overlap, told
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.training_sets import Data, open_data
from m3jax.testing import write_jsonl

ROWS = [
    {"query": f"q{i % 150}", "pos": [f"p{i}", f"more {i}"], "neg": [f"n{i}"]}
    for i in range(200)
]
GRADED = [
    {"sentence1": f"a{i}", "sentence2": f"b{i % 7}", "score": i} for i in range(20)
]


def opened(folder: Path, *sets: list[dict[str, Any]], **fields: Any) -> Data:
    mixture = tuple(
        Dataset(str(write_jsonl(folder / f"{i}.jsonl", rows)), name=f"set {i}")
        for i, rows in enumerate(sets)
    )
    named = str(write_jsonl(folder / "named.jsonl", GRADED))  # nothing is held out
    given = {"batch_size": 2, "cache": str(folder / "cache"), "dev": named}
    return open_data(DataConfig(mixture=mixture, **given | fields))


def with_dev(data: Data, dev: Retrieval | Similarity) -> Data:
    return Data(data.sets, dev, None)


def naive(data: Data, rows: list[dict[str, Any]]) -> tuple[int, int, int, int]:
    """Of a retrieval set: queries, those trained on, pairs, those trained on."""
    assert isinstance(data.dev, Retrieval)
    dev = data.dev
    queries = {dev.queries[q] for q in dev.qrels}
    pairs = {
        (dev.queries[q], dev.corpus[p])
        for q, grades in dev.qrels.items()
        for p, grade in grades.items()
        if grade > 0
    }
    seen = {row["query"] for row in rows}
    both = {(row["query"], row["pos"][0]) for row in rows}
    return len(queries), len(queries & seen), len(pairs), len(pairs & both)


RETRIEVAL = Retrieval(
    # Two ids of one text, one without an answer, one without judgement.
    {"a": "q0", "b": "q0", "c": "q3", "d": "new", "e": "q5", "none": "q9"},
    {"p0": "p0", "p150": "p150", "more": "more 0", "p3": "p3", "p5": "p5", "x": "n1"},
    {
        "a": {"p0": 1, "more": 1},
        "b": {"p150": 2, "p0": 1},
        "c": {"p3": 0, "p0": 1},
        "d": {"p3": 1},
        "e": {"p5": 0},
    },
)


@pytest.mark.parametrize("block", [2**20, 7])
def test_a_retrieval_set(tmp_path: Path, monkeypatch: Any, block: int) -> None:
    monkeypatch.setattr(overlap, "_BLOCK", block)
    other = [{"query": "q9", "pos": ["p3"]}, {"query": "old", "pos": ["p0"]}]
    data = with_dev(opened(tmp_path, ROWS, other), RETRIEVAL)
    expected = naive(data, [*ROWS, *other])
    found = count_overlap(data)
    assert list(found) == ["dev"]
    one = found["dev"]
    assert (one.count, one.seen, one.pairs, one.pairs_seen) == expected
    assert expected == (4, 3, 5, 2)
    assert (one.texts, one.sets) == ("queries", ("set 0",))
    assert one.answer_sets == ("set 0", "set 1")
    # p0, p150 and p3 answer a query and are the first positive of a row; "more 0" is
    # the second.
    assert (one.answers, one.answers_seen) == (4, 3)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    rows = [{"query": f"q{i % 900}", "pos": [f"p{i}"]} for i in range(1_000)]
    data = opened(tmp_path, rows, rows[:500], dev=None)
    assert isinstance(data.dev, Retrieval) and len(data.dev.queries) > 1
    assert data.sets[1].kept is not None
    found = count_overlap(data)
    one = found["dev"]
    assert one.count == len(data.dev.queries) and one.pairs >= one.count
    assert (one.seen, one.pairs_seen) == (0, 0)


def test_a_dev_set_that_is_the_training_file(tmp_path: Path) -> None:
    path = str(write_jsonl(tmp_path / "0.jsonl", GRADED))
    data = opened(tmp_path, GRADED, dev=path, test=path)
    expected = Overlap("texts", 27, 27, 20, 20, ("set 0",))
    found = count_overlap(data)
    assert found == {"dev": expected, "test": expected}
    assert told(found)[1] == (
        "warning: 27 of 27 test texts are also training texts: 20 of 20 graded pairs "
        "too (in set 0); on new texts the model will score lower"
    )


def test_graded_pairs_in_either_order(tmp_path: Path) -> None:
    rows = [{"sentence1": "b1", "sentence2": "a1", "score": 3}]  # the other way round
    rows += [{"sentence1": "a1", "sentence2": "a8", "score": 3}]  # of two pairs
    rows += [{"sentence1": "x", "sentence2": "b2", "score": 3}]
    found = count_overlap(opened(tmp_path, rows))["dev"]
    assert found == Overlap("texts", 27, 4, 20, 1, ("set 0",))


@pytest.mark.parametrize(
    "rows", [[{"text": "a1"}] * 2, [{"text": "a1", "label": "a2"}] * 2]
)
def test_texts_and_labels(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    dev = Retrieval({"q": "a1"}, {"p": "a2"}, {"q": {"p": 1}})
    found = count_overlap(with_dev(opened(tmp_path, rows), dev))
    assert (found["dev"].seen, found["dev"].count) == (1, 1)


@pytest.mark.parametrize(
    "rows",
    [
        [{"query": "other", "pos": ["a2"]}, {"query": "a1 too", "pos": ["x"]}],
        [{"text": "a2"}, {"text": "x"}],
    ],
)
def test_passages_that_are_trained_on(tmp_path: Path, rows: list) -> None:
    """With other queries, or alone."""
    corpus = {"p": "a2", "r": "new", "x": "x"}
    dev = Retrieval({"q": "a1", "r": "q"}, corpus, {"q": {"p": 1}, "r": {"r": 1}})
    found = count_overlap(with_dev(opened(tmp_path, rows), dev))
    assert told(found) == [
        "warning: 1 of 2 dev passages that answer a query are also training texts (in "
        "set 0); on new passages the model will score lower"
    ]


def test_rows_that_are_left_out_do_not_count(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": "l" if i < 4 else f"l{i}"} for i in range(6)]
    path = str(write_jsonl(tmp_path / "a.jsonl", [*rows, {"text": 1, "label": "l"}]))
    config = DataConfig(
        mixture=(Dataset(path, labels="same", on_bad_row="skip"),),
        batch_size=2,
        dev=str(write_jsonl(tmp_path / "named.jsonl", GRADED)),
        cache=str(tmp_path / "cache"),
    )
    queries = {name: name for name in ("t0", "t5")}
    dev = Retrieval(queries, {"p": "p"}, {name: {"p": 1} for name in queries})
    found = count_overlap(with_dev(open_data(config), dev))["dev"]
    assert (found.count, found.seen, found.sets) == (2, 1, (path,))


def test_nothing_to_measure_on(tmp_path: Path) -> None:
    data = opened(tmp_path, GRADED)
    assert count_overlap(Data(data.sets, None, None)) == {}
    empty = Retrieval({}, {}, {})
    found = count_overlap(with_dev(data, empty))
    assert found == {"dev": Overlap("queries", 0, 0, 0, 0, ())}
    assert told(found) == []
