from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks.open import open_benchmark
from m3jax.inference.ranking import Fusion, Mixture
from tests.evaluation.benchmarks.layouts import write_miracl

SHARDS = [
    [
        {"docid": "39#0", "title": "अल्बेडो", "text": "यह एक माप है।"},
        {"docid": "39#1", "title": "अल्बेडो", "text": 'With "quotes"\tand a tab.'},
    ],
    [{"docid": "7#0", "title": None, "text": "बिना शीर्षक"}],
]
TOPICS = '1\tयह क्या है?\n7#0\tWho said "no?\n5\tnever judged\n'
QRELS = "1\tQ0\t39#0\t1\n1\tQ0\t39#1\t0\n7#0\tQ0\t7#0\t1\n"


def test_a_language_as_it_is_published(tmp_path: Path):
    write_miracl(tmp_path, "hi", shards=SHARDS, topics=TOPICS, qrels=QRELS)
    told: list[str] = []
    (task,) = open_benchmark("miracl/hi", root=tmp_path, say=told.append)
    assert (task.name, task.language) == ("miracl/hi", "hi")
    assert task.data.corpus == {
        "39#0": "अल्बेडो\nयह एक माप है।",
        "39#1": 'अल्बेडो\nWith "quotes"\tand a tab.',
        "7#0": "\nबिना शीर्षक",
    }
    assert task.data.queries == {"1": "यह क्या है?", "7#0": 'Who said "no?'}
    assert task.data.qrels == {"1": {"39#0": 1, "39#1": 0}, "7#0": {"7#0": 1}}
    assert task.metrics == ("ndcg@10", "recall@100")
    # Both lists of 1,000 are added up; all heads order the best 200 of dense.
    assert task.mixtures == {
        "dense+sparse": Fusion((1, 0.3, 0), depth=1_000),
        "hybrid": Mixture((1, 0.3, 1), of=("dense",), depth=200),
    }
    assert (task.query_length, task.passage_length) == (512, 512)
    assert task.rescored == 200
    # An id of a query that is one of a passage is chance here.
    assert task.identical == "kept"
    assert told == ["miracl/hi: 1 of 3 queries is not judged and is left out: '5'"]


def test_another_split(tmp_path: Path):
    write_miracl(
        tmp_path, "hi", shards=SHARDS, topics=TOPICS, qrels=QRELS, split="train"
    )
    (task,) = open_benchmark("miracl/hi", split="train", root=tmp_path)
    assert len(task.data.queries) == 2
    with pytest.raises(
        InputError, match=r"topics\.miracl-v1\.0-hi-dev\.tsv, found none"
    ):
        next(open_benchmark("miracl/hi", root=tmp_path))


def test_half_of_the_files_are_no_corpus(tmp_path: Path):
    write_miracl(tmp_path, "hi", shards=SHARDS[:1], topics=TOPICS, qrels=QRELS)
    with pytest.raises(InputError) as caught:
        next(open_benchmark("miracl/hi", root=tmp_path))
    assert caught.value.where == "miracl/hi: miracl-corpus-v1.0-hi"
    assert caught.value.expected == "2 files docs-*.jsonl.gz"
    assert caught.value.found == "1"


def test_ids_that_come_twice_are_said(tmp_path: Path):
    shards = [SHARDS[0], SHARDS[0]]
    qrels = QRELS + "1\tQ0\t39#1\t1\n"
    write_miracl(tmp_path, "hi", shards=shards, topics=TOPICS, qrels=qrels)
    told: list[str] = []
    (task,) = open_benchmark("miracl/hi", root=tmp_path, say=told.append)
    assert task.data.qrels["1"] == {"39#0": 1, "39#1": 1}
    assert told[:3] == [
        "miracl/hi: passages that come again, 2: '39#0', '39#1'; the last one counts",
        "miracl/hi: judged passages that are not in the corpus, 1: '7#0'; they count "
        "as not found",
        "miracl/hi: pairs judged again, 1: '1 39#1'; the last grade counts",
    ]


@pytest.mark.parametrize(
    ("topics", "qrels", "message"),
    [
        ("1 what?\n", QRELS, "dev.tsv:1: expected query id and text with tabs between"),
        ("1\t\n", QRELS, "dev.tsv:1: expected a query, found an empty one"),
        (
            TOPICS,
            "1\t39#0\t1\n",
            "dev.tsv:1: expected query id, Q0, passage id and grade",
        ),
        (
            TOPICS,
            "\n1\tQ0\t39#0\tx\n",
            "dev.tsv:2: expected a grade, an integer, found",
        ),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, topics: str, qrels: str, message: str):
    write_miracl(tmp_path, "hi", shards=SHARDS, topics=topics, qrels=qrels)
    with pytest.raises(InputError) as caught:
        next(open_benchmark("miracl/hi", root=tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/miracl/miracl/miracl-v1.0-hi/")
    assert message in str(caught.value)
