"""Benchmarks in files laid out as the published ones: what is searched, and how."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation import bm25, heads
from m3jax.evaluation.benchmarks.task import GENERAL, LONG
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.outcomes.benchmark import outcomes
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import RRF
from tests.evaluation.benchmarks.layouts import (
    write_beir,
    write_miracl,
    write_mkqa,
    write_mldr,
)
from tests.evaluation.sets import embedder

QUERY = {"query_id": "1", "query": "Salt?", "positive_passages": [{"docid": "d"}]}
SALT = {"docid": "d", "title": "Salt", "text": "It dissolves."}
ANSWERS = {"id": 7, "question": "Salt?", "answers": ["dissolves"]}
OTHERS = {"id": 7, "question": "Gold?", "answers": ["silver"]}


@pytest.fixture
def model() -> Embedder:
    return dataclasses.replace(embedder(), max_length=1_024)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Retrieval, dict[str, Any]]]:
    """What is searched, in place of searching: passages come in their order."""
    found: list[tuple[Retrieval, dict[str, Any]]] = []

    def search(module, params, tokenizer, data, prompts, **options) -> dict[str, Any]:
        found.append((data, options))
        row = {name: -float(i) for i, name in enumerate(data.corpus)}
        best = dict(list(row.items())[: options["k"]])
        return {"dense": {name: dict(best) for name in data.qrels}}

    monkeypatch.setattr(heads, "search", search)
    return found


def measured(*words: Any, **options: Any) -> dict[str, Outcome]:
    return {made.label: made for made, _, _ in outcomes(*words, **options)}


def write_long(root: Path, *languages: str) -> None:
    for language in languages:
        write_mldr(root, language, passages=[SALT], queries=[QUERY])


def test_the_protocol_is_the_benchmark_s(
    tmp_path: Path, model: Embedder, searched: list[Any]
) -> None:
    write_long(tmp_path, "de")
    mine = Settings(weights=(3, 2, 1), rescored=17, k=100)
    assert [*measured("mldr/de", model, mine, root=tmp_path)] == ["mldr/de, de"]
    ((_, options),) = searched
    assert options["mixtures"] == {**LONG, "rrf": RRF}
    assert options["rescored"] == 200
    # The model itself would read 1,024 tokens.
    assert (options["query_length"], options["passage_length"]) == (512, 1_024)
    measured("mldr/de", model, Settings(max_length=99), root=tmp_path)
    options = searched[1][1]
    assert (options["query_length"], options["passage_length"]) == (99, 99)


def test_of_two_heads_there_is_one_mixture(
    tmp_path: Path, model: Embedder, searched: list[Any]
) -> None:
    write_long(tmp_path, "de")
    for outputs, name in (
        (("dense", "sparse"), "dense+sparse"),
        (("dense", "multivec"), "hybrid"),
    ):
        measured("mldr/de", model, Settings(outputs=outputs), root=tmp_path)
        assert searched.pop()[1]["mixtures"] == {"hybrid": LONG[name], "rrf": RRF}


def test_beir_leaves_out_what_has_the_id_of_the_query(
    tmp_path: Path, model: Embedder, searched: list[Any]
) -> None:
    passages = [{"_id": str(i), "title": "", "text": "salt"} for i in range(150)]
    queries = [{"_id": "0", "title": "", "text": "salt"}]
    qrels = {"test": "0\t100\t1\n"}
    write_beir(tmp_path, "quora", passages=passages, queries=queries, qrels=qrels)
    few = Settings(k=1, metrics=("mrr@10",))
    ((made, found, data),) = outcomes("beir/quora", model, few, root=tmp_path)
    # recall@100 of the benchmark looks at a hundred, after the query's own.
    assert searched[0][1]["k"] == 101
    assert searched[0][1]["mixtures"] == {**GENERAL, "rrf": RRF}
    assert list(found["dense"]["0"]) == [str(i) for i in range(1, 101)]
    assert made.values["dense"]["recall@100"] == 1
    assert [*made.values["dense"]] == ["ndcg@10", "recall@100", "mrr@10"]
    assert made.label == "beir/quora, en" and data is not None


def test_miracl_keeps_it(tmp_path: Path, model: Embedder, searched: list[Any]) -> None:
    write_miracl(
        tmp_path, "sw", shards=[[SALT]], topics="d\tSalt?\n", qrels="d\tQ0\td\t1\n"
    )
    (made,) = measured("miracl/sw", model, Settings(), root=tmp_path).values()
    assert searched[0][1]["k"] == 100
    assert made.values["dense"]["ndcg@10"] == 1


def test_all_of_mkqa_is_one_search(
    tmp_path: Path,
    model: Embedder,
    searched: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    languages = ("ar", "fi", "ja", "ko")
    questions = {one: [ANSWERS if one == "fi" else OTHERS] for one in languages}
    write_mkqa(tmp_path, questions)
    monkeypatch.setattr("m3jax.evaluation.benchmarks.mkqa.LANGUAGES", languages)
    parts = {"": languages, **{one: (one,) for one in languages}}
    monkeypatch.setattr("m3jax.evaluation.benchmarks.mkqa.PARTS", parts)
    times: list[Retrieval] = []
    search = bm25.search

    def record(data: Retrieval, k: int, **options: Any) -> Any:
        times.append(data)
        return search(data, k, **options)

    monkeypatch.setattr(bm25, "search", record)
    found = list(outcomes("mkqa", model, Settings(k=1), root=tmp_path))
    assert len(searched) == 1 and len(times) == 2  # by words, and by tokens
    assert searched[0][1]["k"] == 100  # of answer_recall@100
    assert sorted(searched[0][0].queries.values()) == ["Gold?"] * 3 + ["Salt?"]
    assert [made.label for made, _, _ in found] == [f"mkqa, {one}" for one in languages]
    for made, rankings, data in found:
        # The ids of the questions are the same in all languages.
        assert [list(one) for one in rankings.values()] == [["7"]] * 3
        value = float(made.language == "fi")
        assert made.values["dense"] == {"answer_recall@100": value}
        assert made.counts == {"queries": 1, "passages": 3} and data is None
        best = "4983" if made.language == "fi" else "7912"  # of salt, and of gold
        assert next(iter(rankings["BM25"]["7"])) == best
    done = [f"mkqa, {one}" for one in ("ar", "fi", "ko")]
    again = measured("mkqa", model, Settings(), root=tmp_path, done=done)
    assert list(again) == ["mkqa, ja"]


def test_what_is_there_is_not_read_again(
    tmp_path: Path, model: Embedder, searched: list[Any]
) -> None:
    write_long(tmp_path, "de", "en")
    labels = list(measured("mldr/de", model, Settings(), root=tmp_path))
    write_beir(tmp_path, "cqadupstack", forum="android")
    forums = outcomes("beir/cqadupstack", model, Settings(), root=tmp_path)
    labels.append(next(forums)[0].label)
    assert labels == ["mldr/de, de", "beir/cqadupstack, android, en"]
    nowhere = tmp_path / "nowhere"
    done = {*labels, "mldr, ar"}
    assert measured("mldr/de", model, Settings(), root=nowhere, done=done) == {}
    with pytest.raises(InputError, match="cqadupstack"):  # the next forum, English
        measured("beir/cqadupstack", model, Settings(), root=nowhere, done=done)
    rest = outcomes("mldr", model, Settings(), root=tmp_path, done=done)
    assert [next(rest)[0].label, next(rest)[0].label] == ["mldr, de", "mldr, en"]


def test_a_split(tmp_path: Path, model: Embedder, searched: list[Any]) -> None:
    qrels = {"test": "0\t4983\t1\n", "train": "4\t5836\t1\n"}
    write_beir(tmp_path, "scifact", qrels=qrels)
    options: dict[str, Any] = {"root": tmp_path, "split": "train"}
    measured("beir/scifact", model, Settings(), **options)
    assert list(searched[0][0].qrels) == ["0 4"]  # of the first task the query 4
