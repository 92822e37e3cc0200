from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks.open import open_benchmark
from m3jax.inference.ranking import Fusion, Mixture
from tests.evaluation.benchmarks.layouts import write_mldr

PASSAGES = [{"docid": f"doc-zh-{i}", "text": f"第{i}篇" * 3_000} for i in range(4)]
QUERIES = [
    {
        "query_id": "q-zh-1",
        "query": "第一?",
        "positive_passages": PASSAGES[1:2],
        "negative_passages": PASSAGES[2:],
    },
    {
        "query_id": "q-zh-2",
        "query": "第二?",
        "positive_passages": PASSAGES[2:3],
        "negative_passages": None,
    },
    {
        "query_id": "q-zh-3",
        "query": "第三?",
        "positive_passages": [],
        "negative_passages": PASSAGES[:1],
    },
]


def test_a_language_as_it_is_published(tmp_path: Path):
    write_mldr(tmp_path, "zh", passages=PASSAGES, queries=QUERIES)
    told: list[str] = []
    (task,) = open_benchmark("mldr/zh", root=tmp_path, say=told.append)
    assert (task.name, task.language) == ("mldr/zh", "zh")
    assert task.data.corpus == {row["docid"]: row["text"] for row in PASSAGES}
    assert task.data.queries == {"q-zh-1": "第一?", "q-zh-2": "第二?"}
    assert task.data.qrels == {
        "q-zh-1": {"doc-zh-1": 1, "doc-zh-2": 0, "doc-zh-3": 0},
        "q-zh-2": {"doc-zh-2": 1},
    }
    assert task.metrics == ("ndcg@10",)
    assert task.mixtures == {
        "dense+sparse": Fusion((0.2, 0.8, 0), depth=1_000),
        "hybrid": Mixture((0.15, 0.5, 0.35), of=("dense",), depth=200),
    }
    assert (task.query_length, task.passage_length) == (512, 8_192)
    message = "1 of 3 queries has no passage judged above 0 and is left out: 'q-zh-3'"
    assert told == [f"mldr/zh: {message}"]


def test_languages_come_one_after_another(tmp_path: Path):
    for language in ("ar", "de"):
        write_mldr(tmp_path, language, passages=PASSAGES, queries=QUERIES)
    tasks = open_benchmark("mldr", root=tmp_path)
    assert [next(tasks).language, next(tasks).language] == ["ar", "de"]
    with pytest.raises(
        InputError, match=r"mldr-v1\.0-en/corpus\.jsonl\.gz, found none"
    ):
        next(tasks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "mldr/zh.query: expected a string, found null"),
        (
            {"positive_passages": "d"},
            "mldr/zh: positive_passages: expected a list, fou",
        ),
        ({"positive_passages": ["d"]}, "mldr/zh: positive_passages: expected objects,"),
        (
            {"negative_passages": [{"id": "d"}]},
            "mldr/zh: negative_passages: expected the key 'docid', found only 'id'",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, object], message: str):
    write_mldr(tmp_path, "zh", passages=PASSAGES, queries=[QUERIES[0] | change])
    with pytest.raises(InputError) as caught:
        next(open_benchmark("mldr/zh", root=tmp_path))
    assert str(caught.value).startswith(message)
