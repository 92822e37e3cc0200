from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation import bm25
from m3jax.evaluation.answers import answer_recall
from m3jax.evaluation.benchmarks.open import open_benchmark
from m3jax.evaluation.benchmarks.task import GENERAL
from tests.evaluation.benchmarks.layouts import write_mkqa

QUESTIONS = [
    {"id": 563260143484355911, "question": "Salz?", "answers": ["It  DISSOLVES", "no"]},
    {"id": 2, "question": "Gold?", "answers": []},
    {"id": 3, "question": "Iron?", "answers": ["silver"], "lang": "de"},
]


def test_a_language_as_it_is_published(tmp_path: Path):
    write_mkqa(tmp_path, {"de": QUESTIONS})
    told: list[str] = []
    (task,) = open_benchmark("mkqa/de", root=tmp_path, say=told.append)
    assert (task.name, task.language) == ("mkqa/de", "de")
    assert task.data.corpus == {
        "4983": "salt\nit dissolves.",
        "5836": "\niron rusts.",
        "7912": "gold\nit does not.",
    }
    assert task.data.queries == {
        "563260143484355911": "Salz?",
        "2": "Gold?",
        "3": "Iron?",
    }
    assert task.answers == {
        "563260143484355911": ("It  DISSOLVES", "no"),
        "2": (),
        "3": ("silver",),
    }
    assert task.metrics == ("answer_recall@100",)
    assert task.mixtures == GENERAL
    assert (task.query_length, task.passage_length) == (512, 512)
    message = "queries without an answer, 1: '2'; they count as missed"
    assert told == [f"mkqa/de: {message}"]


def test_it_can_be_searched_and_scored(tmp_path: Path):
    write_mkqa(tmp_path, {"en": [{"id": 1, "question": "Gold?", "answers": ["not"]}]})
    (task,) = open_benchmark("mkqa/en", root=tmp_path)
    assert task.answers is not None
    found = bm25.search(task.data)
    assert found["1"].keys() == {"7912"}
    assert answer_recall(found, task.data.corpus, task.answers) == 1


def test_all_languages_share_one_corpus_and_english_is_none_of_them(tmp_path: Path):
    write_mkqa(tmp_path, {name: QUESTIONS for name in ("ar", "fi", "en")})
    tasks = open_benchmark("mkqa", root=tmp_path)
    first, second = next(tasks), next(tasks)
    assert (first.language, second.language) == ("ar", "fi")
    assert first.data.corpus is second.data.corpus
    with pytest.raises(InputError) as caught:  # the next one is not in the file
        next(tasks)
    where = f"zip://ja.jsonl::{tmp_path}/Shitao/bge-m3-data/MKQA_test-data.zip"
    assert str(caught.value).startswith(f"{where}: expected rows of json, found ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "question": "a"}, "mkqa/de: expected the key 'answers', found only"),
        (
            {"id": 1, "answers": ["a"]},
            "mkqa/de: expected the key 'question', found onl",
        ),
        (
            {"id": 1, "question": "a", "answers": "b"},
            "mkqa/de: answers: expected a list of strings, found a string",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, object], message: str):
    write_mkqa(tmp_path, {"de": [row]})
    with pytest.raises(InputError) as caught:
        next(open_benchmark("mkqa/de", root=tmp_path))
    assert str(caught.value).startswith(message)
