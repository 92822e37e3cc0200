from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks.beir import FORUMS
from m3jax.evaluation.benchmarks.open import open_benchmark
from m3jax.evaluation.benchmarks.task import GENERAL
from tests.evaluation.benchmarks.layouts import PASSAGES, QUERIES, write_beir

CORPUS = {
    "4983": "Salt It dissolves.",
    "5836": "Iron rusts.",
    "7912": "Gold It does not.",
}


def test_a_set_as_it_is_published(tmp_path: Path):
    write_beir(tmp_path, "scifact")
    told: list[str] = []
    (task,) = open_benchmark("beir/scifact", root=tmp_path, say=told.append)
    assert task.name == "beir/scifact" and task.language == "en"
    assert task.data.corpus == CORPUS
    assert task.data.queries == {"0": "What dissolves?", "2": "What rusts?"}
    assert task.data.qrels == {"0": {"4983": 1}, "2": {"5836": 2}}
    assert task.metrics == ("ndcg@10", "recall@100")
    assert (task.query_length, task.passage_length) == (512, 512)
    assert task.mixtures == GENERAL
    assert task.identical == "left out" and task.answers is None
    message = "beir/scifact: 1 of 3 queries is not judged and is left out: '4'"
    assert told == [message]


def test_a_split_by_name(tmp_path: Path):
    qrels = {"test": "0\t4983\t1\n", "train": "4\t5836\t1\n"}
    write_beir(tmp_path, "scifact", qrels=qrels)
    (task,) = open_benchmark("beir/scifact", split="train", root=tmp_path)
    assert task.data.qrels == {"4": {"5836": 1}}
    with pytest.raises(InputError) as caught:
        next(open_benchmark("beir/scifact", split="dev", root=tmp_path))
    message = "beir/scifact: expected the split dev, found only test, train"
    assert str(caught.value) == message


def test_msmarco_is_reported_on_dev(tmp_path: Path):
    qrels = {"test": "0\t4983\t1\n", "dev": "2\t5836\t1\n"}
    write_beir(tmp_path, "msmarco", qrels=qrels)
    (task,) = open_benchmark("beir/msmarco", root=tmp_path)
    assert list(task.data.queries) == ["2"]
    (task,) = open_benchmark("beir/msmarco", split="test", root=tmp_path)
    assert list(task.data.queries) == ["0"]


def test_each_forum_of_cqadupstack_is_a_set(tmp_path: Path):
    for forum in FORUMS:
        passages = [*PASSAGES, {"_id": "0", "title": "", "text": forum}]
        write_beir(tmp_path, "cqadupstack", forum=forum, passages=passages)
    found = list(open_benchmark("beir/cqadupstack", root=tmp_path))
    assert [task.name for task in found] == [
        f"beir/cqadupstack/{one}" for one in FORUMS
    ]
    assert [task.data.corpus["0"] for task in found] == list(FORUMS)
    (one,) = open_benchmark("beir/cqadupstack/gis", root=tmp_path)
    assert one == found[FORUMS.index("gis")]


def test_what_is_odd_in_a_published_set_is_counted_and_said(tmp_path: Path):
    again = {"_id": "4983", "title": "Salt", "text": "It crystallises."}
    judged = "0\t4983\t0\n0\t4983\t1\n2\tgone\t1\n9\t5836\t1\n4\t5836\t-1\n"
    write_beir(
        tmp_path,
        "arguana",
        passages=[*PASSAGES, again],
        queries=[*QUERIES, QUERIES[0]],
        qrels={"test": judged},
    )
    told: list[str] = []
    (task,) = open_benchmark("beir/arguana", root=tmp_path, say=told.append)
    assert list(task.data.corpus) == list(CORPUS)
    assert task.data.corpus["4983"] == "Salt It crystallises."
    assert task.data.qrels == {"0": {"4983": 1}, "2": {"gone": 1}}
    assert told == [
        f"beir/arguana: {message}"
        for message in (
            "passages that come again, 1: '4983'; the last one counts",
            "queries that come again, 1: '0'; the last one counts",
            "judged queries that are not there, 1: '9'; left out",
            "judged passages that are not in the corpus, 1: 'gone'; they count as not "
            "found",
            "pairs judged again, 1: '0 4983'; the last grade counts",
            "1 of 3 queries has no passage judged above 0 and is left out: '4'",
        )
    ]


def test_a_missing_part_of_the_corpus_is_no_smaller_corpus(tmp_path: Path):
    write_beir(tmp_path, "nq")
    (tmp_path / "BeIR/nq/corpus/corpus-00001-of-00002.parquet").unlink()
    with pytest.raises(InputError) as caught:
        next(open_benchmark("beir/nq", root=tmp_path))
    message = "expected 2 files corpus/*.parquet, found 1"
    assert str(caught.value) == f"{tmp_path}/BeIR/nq: {message}"


@pytest.mark.parametrize(
    ("passages", "queries", "message"),
    [
        (
            [{"_id": 7, "title": "", "text": ""}] * 2,
            QUERIES,
            "nq._id: expected a string",
        ),
        (
            [{"_id": "7", "text": None}] * 2,
            QUERIES,
            "nq.text: expected a string, found n",
        ),
        (
            [{"docid": "7", "text": ""}] * 2,
            QUERIES,
            "nq: expected the key '_id', found",
        ),
        ([], QUERIES, "nq: expected at least one of its passages, found none"),
        (PASSAGES, [{"_id": "0"}], "nq: expected the key 'text', found only '_id'"),
        (
            PASSAGES,
            QUERIES[2:],
            "nq: expected a query with an answer, found no judgeme",
        ),
    ],
)
def test_a_bad_row_is_named(
    tmp_path: Path, passages: list, queries: list, message: str
):
    write_beir(tmp_path, "nq", passages=passages, queries=queries)
    with pytest.raises(InputError) as caught:
        next(open_benchmark("beir/nq", root=tmp_path))
    assert str(caught.value).startswith(f"beir/{message}")
    assert "\n" not in str(caught.value)
