"""The program that measures, on a small model and small sets of every kind."""

import dataclasses
import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import evaluate
from m3jax.core.errors import InputError
from m3jax.evaluation import bm25, heads, reranking
from m3jax.evaluation.outcomes import across, benchmark, retrieval
from m3jax.evaluation.results import read_results, write_results
from m3jax.evaluation.retrieval import measure
from m3jax.evaluation.similarity import correlate
from m3jax.evaluation.trec import read_run
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import RRF, Mixture
from m3jax.inference.reranker import Reranker
from m3jax.testing import write_jsonl
from tests.evaluation.benchmarks import layouts
from tests.evaluation.sets import (
    embedder,
    write_beir,
    write_bitext,
    write_labelled,
    write_sts,
)

GOLDEN = Path(__file__).parent / "golden"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*were cut"),
    pytest.mark.xdist_group("evaluate"),  # what all need is measured once
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and test sets that tests must not change."""
    place = tmp_path_factory.mktemp("evaluate")
    embedder().save(place / "model")
    write_beir(place / "sea", unanswered=True)
    write_sts(place / "sts.jsonl")
    write_labelled(place / "intents")
    write_bitext(place / "tatoeba")
    for language in ("de", "en"):
        write_beir(place / "xquad" / language, seed=len(language) + ord(language[0]))
    return place


def call(*words: Any) -> None:
    old = sys.argv
    sys.argv = ["evaluate", *map(str, words)]
    try:
        evaluate.main()
    finally:
        sys.argv = old


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    """Everything measured once."""
    names = ("sea", "sts.jsonl", "intents", "tatoeba", "xquad")
    sets = [place / name for name in names]
    words = ("--model", place / "model", "--output", place / "out", "--runs", "2")
    call(*words, "--rescored", "10", "--cross-lingual", "--data", *sets)
    return place / "out"


def by_label(folder: Path) -> dict[tuple[str, str], Any]:
    found = read_results(folder)
    return {(one.kind, one.label): one for one in found.outcomes}


def test_every_set_is_measured(done: Path) -> None:
    assert list(by_label(done)) == [
        ("retrieval", "sea"),
        ("sts", "sts"),
        ("classification", "intents"),
        ("zero_shot", "intents"),
        ("clustering", "intents"),
        ("bitext", "tatoeba, deu"),
        ("bitext", "tatoeba, fra"),
        ("retrieval", "xquad, de → de"),
        ("retrieval", "xquad, de → en"),
        ("retrieval", "xquad, en → de"),
        ("retrieval", "xquad, en → en"),
    ]
    page = (done / "report.html").read_text(encoding="utf-8")
    assert "intents: 3 labels" in page and "<script" not in page


def test_retrieval_is_the_search_of_every_head(place: Path, done: Path) -> None:
    found = by_label(done)["retrieval", "sea"]
    model = Embedder.load(place / "model")
    data, _ = retrieval.read(place / "sea", "test")
    rankings = heads.search(
        model.module,
        model.params,
        model.tokenizer,
        data,
        model.prompts,
        query_length=32,
        passage_length=32,
        mixtures={
            "hybrid": Mixture(),
            "dense+sparse": Mixture((1, 0.3, 0)),
            "rrf": RRF,
        },
        rescored=10,
        k=1_000,
    )
    rankings["BM25"] = bm25.search(data, 1_000)
    words = bm25.token_words(model.tokenizer)
    rankings["BM25-tokens"] = bm25.search(data, 1_000, words=words)
    assert {*found.values} == {*rankings}
    assert len(found.values) == 8
    for system, results in rankings.items():
        expected = measure(results, data.qrels, ["ndcg@10", "mrr@10", "map@100"])
        for metric, value in expected.items():
            assert found.values[system][metric] == pytest.approx(value, abs=1e-6)
        run = read_run(done / "runs" / f"sea.{system}.trec")
        assert measure(run, data.qrels) == pytest.approx(measure(results, data.qrels))
    assert found.counts == {"queries": 5, "passages": 30}
    assert "1 of 6 queries has no passage judged above 0" in found.notes[0]
    assert found.curves["dense"][20] >= found.curves["dense"][5]
    assert sum(found.histograms["dense"].relevant) <= 5


def test_similarity_labels_and_bitexts(place: Path, done: Path) -> None:
    found = by_label(done)
    model = Embedder.load(place / "model")
    rows = _rows(place / "sts.jsonl")
    sides = [
        model.encode_query([row[side] for row in rows]).dense
        for side in ("sentence1", "sentence2")
    ]
    cosines = np.sum(sides[0] * sides[1], axis=1)  # type: ignore[operator]
    expected = correlate(cosines, [row["score"] for row in rows])["spearman"]
    values = found["sts", "sts"].values["dense"]
    assert values["spearman"] == pytest.approx(expected)
    assert {"alignment", "uniformity", "pearson"} <= {*values}
    probe = found["classification", "intents"]
    assert {*probe.values} == {"linear probe", "few-shot, 8", "5 neighbours"}
    assert probe.counts == {"training rows": 24, "test rows": 12, "labels": 3}
    assert 0 <= found["zero_shot", "intents"].values["dense"]["accuracy"] <= 1
    assert 0 <= found["clustering", "intents"].values["dense"]["v_measure"] <= 1
    mined = found["bitext", "tatoeba, deu"].values
    assert {*mined} == {"text to english", "english to text"}
    assert {*mined["english to text"]} == {"accuracy", "f1", "precision", "recall"}


def _rows(path: Path) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]


def test_across_languages_equals_a_search_of_each(place: Path, done: Path) -> None:
    model = Embedder.load(place / "model")
    german, _ = retrieval.read(place / "xquad" / "de", "test")
    english, _ = retrieval.read(place / "xquad" / "en", "test")
    mixed = type(german)(german.queries, english.corpus, german.qrels)
    results = heads.search(
        model.module,
        model.params,
        model.tokenizer,
        mixed,
        model.prompts,
        query_length=32,
        passage_length=32,
        rescored=10,
    )
    found = by_label(done)["retrieval", "xquad, de → en"]
    assert (found.language, found.passage_language) == ("de", "en")
    assert {*found.values} == {"dense", "sparse", "multivec", "hybrid"}
    for system, one in results.items():
        expected = measure(one, german.qrels)["ndcg@10"]
        assert found.values[system]["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert "BM25" in by_label(done)["retrieval", "xquad, en → en"].values


def test_languages_each_for_itself(place: Path, done: Path, tmp_path: Path) -> None:
    words = ("--model", place / "model", "--output", tmp_path / "out")
    call(*words, "--rescored", 10, "--data", place / "xquad")
    found = by_label(tmp_path / "out")
    assert list(found) == [("retrieval", "xquad, de"), ("retrieval", "xquad, en")]
    crossed = by_label(done)["retrieval", "xquad, de → de"]
    alone = found["retrieval", "xquad, de"]
    for system, values in crossed.values.items():
        assert alone.values[system] == pytest.approx(values, abs=1e-6)


def test_goes_on_where_it_stopped(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = []
    search = retrieval.search

    def record(*words: Any) -> Any:
        searched.append(words[1])
        return search(*words)

    monkeypatch.setattr(retrieval, "search", record)
    shutil.copytree(place / "sea", tmp_path / "other")
    words = ("--model", place / "model", "--output", tmp_path / "out", "--data")
    call(*words, place / "sea")
    call(*words, place / "sea", tmp_path / "other")
    assert len(searched) == 2
    assert [one.name for one in read_results(tmp_path / "out").outcomes] == [
        "sea",
        "other",
    ]
    call(*words, place / "sea", "--k", "5")  # the metrics look at 100 all the same
    with pytest.raises(
        InputError, match=r"results of the settings k 200, found those of"
    ):
        call(*words, place / "sea", "--k", "200")
    assert len(searched) == 2
    call(*words, place / "sea", "--k", "200", "--fresh")
    assert [one.name for one in read_results(tmp_path / "out").outcomes] == ["sea"]
    runs = {path.name.partition(".")[0] for path in (tmp_path / "out/runs").iterdir()}
    assert runs == {"sea"}
    embedder(heads=False).save(tmp_path / "dense")
    words = ("--model", tmp_path / "dense", "--output", tmp_path / "out", "--k", 200)
    with pytest.raises(InputError, match="results of the fingerprint"):
        call(*words, "--data", place / "sea")


def test_pairs_of_languages_go_on(
    place: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(done, tmp_path / "out")
    whole = read_results(done)
    parts = dict(list(whole.data["xquad"].items())[:3])
    write_results(
        tmp_path / "out",
        dataclasses.replace(
            whole,
            outcomes=whole.outcomes[:-1],
            data={**whole.data, "xquad": parts},
        ),
    )
    asked = []

    def record(*words: Any, **options: Any) -> Any:
        asked.append(words)
        return rank(*words, **options)

    rank = across.rank
    monkeypatch.setattr(across, "rank", record)
    words = ("--model", place / "model", "--output", tmp_path / "out", "--runs", "2")
    words += ("--rescored", "10", "--cross-lingual", "--data", place / "xquad")
    call(*words)
    assert len(asked) == 1
    found = read_results(tmp_path / "out")
    assert found.data == whole.data
    assert found.outcomes[-1].decisive == pytest.approx(whole.outcomes[-1].decisive)
    monkeypatch.setattr(across, "outcomes", None)  # all is there
    call(*words)


def test_a_benchmark_by_name(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    qrels = {"test": "0\t4983\t1\n2\t5836\t2\n", "train": "4\t5836\t1\n"}
    layouts.write_beir(tmp_path, "scifact", qrels=qrels)
    outcomes = functools.partial(benchmark.outcomes, root=tmp_path)
    monkeypatch.setattr(benchmark, "outcomes", outcomes)
    words = ("--model", place / "model", "--data", "beir/scifact")
    call(*words, "--output", tmp_path / "test")
    found = by_label(tmp_path / "test")["retrieval", "beir/scifact, en"]
    assert found.counts == {"queries": 2, "passages": 3}
    assert found.main == "ndcg@10" and found.values["BM25"]["recall@100"] == 1
    assert read_run(tmp_path / "test/runs/beir%2Fscifact,%20en.BM25.trec").keys() == {
        "0",
        "2",
    }
    call(*words, "--output", tmp_path / "train", "--split", "train")
    found = by_label(tmp_path / "train")["retrieval", "beir/scifact, en"]
    assert found.counts["queries"] == 1
    with pytest.raises(InputError, match="split of beir/scifact: expected test or dev"):
        call(*words, "--output", tmp_path / "no", "--split", "validation")
    assert not (tmp_path / "no").exists()


def test_another_split_of_rows(place: Path, tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "intents")
    rows = [{"text": f"sea {i}", "label": f"of_{i % 3}"} for i in range(5)]
    write_jsonl(folder / "dev.jsonl", rows)
    words = ("--model", place / "model", "--data", folder, "--runs", "1")
    call(*words, "--output", tmp_path / "out", "--split", "dev")
    assert by_label(tmp_path / "out")["clustering", "intents"].counts["test rows"] == 5


def test_a_reranker_orders_what_was_found(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def upside_down(
        module: Any, params: Any, tokenizer: Any, data: Any, best: Any, **_
    ):
        read.append(best)
        return {query: {p: -s for p, s in row.items()} for query, row in best.items()}

    monkeypatch.setattr(reranking, "rerank", upside_down)
    reranker = tmp_path / "reranker"
    shutil.copytree(GOLDEN / "reranker_bert", reranker)
    words = ("--model", place / "model", "--data", place / "sea", "--reranker")
    words = (*words, reranker, "--output", tmp_path / "out", "--rescored", "10")
    words += ("--metrics", "recall@5", "mrr@5", "--candidates", "7")
    call(*words, "--first-stage", "sparse")
    found = by_label(tmp_path / "out")
    assert list(found) == [("retrieval", "sea"), ("reranking", "sea")]
    runs = {
        name: read_run(tmp_path / "out" / "runs" / f"sea.{name}.trec")
        for name in ("sparse", "reranked")
    }
    for query, row in runs["sparse"].items():
        best = list(row)[:7]
        assert list(read[0][query]) == best
        assert list(runs["reranked"][query]) == best[::-1]
    both = found["reranking", "sea"].values
    assert list(both) == ["sparse, its best 7", "reranked"]
    qrels = retrieval.read(place / "sea", "test")[0].qrels
    for metric, value in measure(runs["reranked"], qrels, ["recall@5"]).items():
        assert both["reranked"][metric] == pytest.approx(value)
    # Other weights in the same folder are another question.
    module = Reranker.load(reranker)
    params = jax.tree.map(lambda leaf: leaf + 1, module.params)
    shutil.rmtree(reranker)
    dataclasses.replace(module, params=params).save(reranker)
    with pytest.raises(InputError, match="results of the reranker fingerprint"):
        call(*words, "--first-stage", "sparse")


def test_side_by_side(
    place: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    embedder(heads=False).save(tmp_path / "dense")
    words = ("--model", tmp_path / "dense", "--output", tmp_path / "out")
    call(*words, "--data", place / "sea", place / "sts.jsonl")
    capsys.readouterr()
    call("--compare", done, tmp_path / "out", "--output", tmp_path / "both")
    output = capsys.readouterr()
    assert "sea" in output.out
    # Said once: which only one has.
    assert "intents" in output.out and output.err.count("\n") == 1
    assert (tmp_path / "both" / "comparison.html").exists()
    with pytest.raises(InputError, match="--compare alone, found a model or data"):
        call("--compare", done, done, "--data", place / "sea")
    call("--compare", done, done, "--output", tmp_path / "both")
    assert f"B: {done}" in capsys.readouterr().out.replace("\n", "")


def test_texts_that_are_cut_are_counted(place: Path, tmp_path: Path) -> None:
    words = ("--model", place / "model", "--max-length", 6, "--data", place / "sea")
    call(*words, "--output", tmp_path / "out")
    (made,) = read_results(tmp_path / "out").outcomes
    said = [note for note in made.notes if note.endswith("are kept of each.")]
    assert len(said) == 1
    assert 0 < int(said[0].split()[0]) <= 36  # of 30 passages and 6 queries


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "SEA"],
            "expected --model with --data, or --compare, found neither",
        ),
        (["--model", "MODEL"], "--data: expected a folder with corpus.*found nothing"),
        (["--model", "MODEL", "--data", "none"], "none: expected a folder with corpus"),
        (
            ["--model", "none", "--data", "SEA"],
            "none: expected a local folder, or a hub",
        ),
        (["--model", "MODEL", "--data", "SEA", "--k", "0"], "--k: expected a positive"),
        (
            ["--model", "MODEL", "--data", "SEA", "--metrics", "ndgc@10"],
            r"metrics: expected ndcg@k, .* found 'ndgc@10'\. Did you mean ndcg@10\?",
        ),
        (
            ["--model", "MODEL", "--data", "SEA", "--label-prompt", "none"],
            "--label-prompt: expected a template with {} in it, found 'none'",
        ),
        (
            ["--model", "MODEL", "--data", "SEA", "--first-stage", "BM25"],
            "--first-stage: expected a --reranker, found none",
        ),
        (
            ["--model", "MODEL", "--data", "SEA", "--dim", "99999"],
            "--dim: expected at most .*, the width of the model, found 99999",
        ),
        (
            ["--model", "MODEL", "--data", "SEA", "--weights", "0", "0", "0"],
            "weights: expected",
        ),
        (["--compare", "none", "none"], "none.*expected"),
    ],
)
def test_errors(place: Path, tmp_path: Path, words: list[str], message: str) -> None:
    paths = {"SEA": place / "sea", "MODEL": place / "model"}
    with pytest.raises(InputError, match=message):
        call(*(paths.get(word, word) for word in words), "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_foreign_folder_is_left_alone(place: Path) -> None:
    before = sorted(path.name for path in (place / "sea").iterdir())
    message = (
        "sea: expected a new folder, or one of an evaluation, found 'corpus.jsonl'"
    )
    with pytest.raises(InputError, match=message):
        words = ("--model", place / "model", "--data", place / "sts.jsonl")
        call(*words, "--output", place / "sea")
    assert sorted(path.name for path in (place / "sea").iterdir()) == before
