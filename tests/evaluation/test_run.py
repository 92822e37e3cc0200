"""What is kept of an evaluation, and when; no model computes anything here."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation import run
from m3jax.evaluation.outcome import Evaluation, Outcome
from m3jax.evaluation.outcomes import benchmark, retrieval
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.results import read_results, write_results
from m3jax.evaluation.test_sets import find_all
from m3jax.evaluation.trec import read_run
from m3jax.testing import write_jsonl
from tests.evaluation.benchmarks import layouts
from tests.evaluation.sets import write_beir, write_bitext, write_sts
from tests.evaluation.stubs import hashed

ABOUT = {"fingerprint": "f", "settings": "s"}
SETTINGS = Settings(metrics=("mrr@10",))


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every query finds p0; a set with a query "stop" cannot be searched."""
    corpora: list[str] = []

    def search(model: Any, data: Retrieval, settings: Settings) -> Mapping[str, Any]:
        if "stop" in data.queries.values():
            raise InputError("a set that can be searched", "another")
        corpora.append(data.corpus["p0"])
        return {"dense": {query: {"p0": 1.0} for query in data.queries}}

    monkeypatch.setattr(retrieval, "search", search)
    return corpora


def write(folder: Path, *, answer: str = "p0", text: str = "q0") -> Path:
    """One query and two passages; p0 is called as the folder."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": "p0", "text": folder.name}, {"_id": "p1", "text": "other"}]
    write_jsonl(folder / "corpus.jsonl", rows)
    write_jsonl(folder / "queries.jsonl", [{"_id": "q0", "text": text}])
    qrels = f"query-id\tcorpus-id\tscore\nq0\t{answer}\t1\n"
    (folder / "qrels" / "test.tsv").write_text(qrels)
    return folder


def measure(folder: Path, *sets: Path | str, **options: Any) -> list[str]:
    """Go on in a folder; labels of what is there in the end."""
    folder.mkdir(exist_ok=True)
    before = run.begin(folder, "m", ABOUT, fresh=False)
    asked = find_all([str(one) for one in sets])
    settings = options.pop("settings", SETTINGS)
    model: Any = hashed()
    every = run.evaluate(model, asked, folder, before, settings, **options)
    return [one.label for one in every]


def test_other_data_of_the_same_name(tmp_path: Path, searched: list[str]) -> None:
    first = write(tmp_path / "v1" / "sea")
    second = write(tmp_path / "v2" / "sea", answer="p1")
    measure(tmp_path / "out", first)
    with pytest.raises(InputError) as caught:
        measure(tmp_path / "out", second)
    assert f"{tmp_path}/out/results.json: sea: expected results of the da" in str(
        caught.value
    )
    assert "or start anew (--fresh)" in str(caught.value)
    shutil.move(first, tmp_path / "sea")  # the same data in another place
    assert measure(tmp_path / "out", tmp_path / "sea") == ["sea"]
    assert searched == ["sea"]


def test_a_name_that_another_begins_with(tmp_path: Path, searched: list[str]) -> None:
    long, short = write(tmp_path / "x, y"), write(tmp_path / "x")
    measure(tmp_path / "out", long)
    assert measure(tmp_path / "out", short) == ["x, y", "x"]


def test_languages_are_kept_one_by_one(tmp_path: Path, searched: list[str]) -> None:
    for language in ("de", "en", "fr"):
        write(tmp_path / "xquad" / language, text="stop" if language == "fr" else "q0")
    out = tmp_path / "out"
    with pytest.raises(InputError, match="a set that can be searched"):
        measure(out, tmp_path / "xquad")
    kept = read_results(out)
    assert [one.label for one in kept.outcomes] == ["xquad, de", "xquad, en"]
    assert list(kept.data["xquad"]) == ["xquad, de", "xquad, en"]
    assert len(list((out / "runs").iterdir())) == 2
    assert (out / "report.html").exists()
    searched.clear()
    shutil.rmtree(tmp_path / "xquad" / "fr")
    write(tmp_path / "xquad" / "fr")
    times = {path: path.stat().st_mtime_ns for path in (out / "runs").iterdir()}
    found = measure(out, tmp_path / "xquad")
    assert found == ["xquad, de", "xquad, en", "xquad, fr"]
    assert searched == ["fr"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    # A language that is new later is measured; one that has changed is refused.
    write(tmp_path / "xquad" / "it")
    assert measure(out, tmp_path / "xquad")[-1] == "xquad, it"
    write_jsonl(
        tmp_path / "xquad" / "de" / "queries.jsonl", [{"_id": "q0", "text": "?"}]
    )
    with pytest.raises(InputError, match="xquad, de: expected results of the data"):
        measure(out, tmp_path / "xquad")


def test_a_part_is_kept_before_it_is_told(tmp_path: Path, searched: list[str]) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    (tmp_path / "out").mkdir()
    every = run.evaluate(
        hashed(),
        find_all([str(one), str(two)]),
        tmp_path / "out",
        Evaluation("m", ABOUT, ()),
        SETTINGS,
    )
    for number, told in enumerate(every, start=1):
        assert [x.label for x in read_results(tmp_path / "out").outcomes][
            -1
        ] == told.label
        assert len(searched) == number


def test_bitexts_and_graded_pairs_go_on(tmp_path: Path) -> None:
    bitext = write_bitext(tmp_path / "tatoeba")
    whole = (bitext / "fra.jsonl").read_text()
    (bitext / "fra.jsonl").write_text('{"text": "a", "english": "b"}\n{]')
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"fra.jsonl:2: expected a line of JSON"):
        measure(out, bitext)
    (bitext / "fra.jsonl").write_text(whole)
    sts = write_sts(tmp_path / "sts.jsonl")
    expected = ["tatoeba, deu", "tatoeba, fra", "sts"]
    assert measure(out, bitext, sts) == expected
    (out / "report.html").unlink()  # killed before it was written
    results = (out / "results.json").read_bytes()
    assert measure(out, bitext, sts) == expected
    assert (out / "results.json").read_bytes() == results
    assert (out / "report.html").exists()


def test_sets_of_a_benchmark_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def outcomes(name: str, *words: Any, split: str | None, done: Any) -> Any:
        asked.append((name, split, sorted(done)))
        for language in ("ar", "bn"):
            values = {"dense": {"ndcg@10": 0.5}}
            one = Outcome(name, "retrieval", "ndcg@10", values, language=language)
            if one.label not in done:
                yield one, {}, None

    monkeypatch.setattr(benchmark, "outcomes", outcomes)
    there = ["miracl, ar", "miracl, bn"]
    assert measure(tmp_path / "out", "miracl", split="train") == there
    kept = read_results(tmp_path / "out")
    assert kept.data == {"miracl": dict.fromkeys(there, "miracl, train")}
    write_results(
        tmp_path / "out",
        dataclasses.replace(
            kept,
            outcomes=kept.outcomes[:1],
            data={"miracl": {"miracl, ar": "miracl, train"}},
        ),
    )
    assert measure(tmp_path / "out", "miracl", split="train") == there
    assert asked == [("miracl", "train", []), ("miracl", "train", ["miracl, ar"])]
    with pytest.raises(InputError, match="data miracl, the split that is reported"):
        measure(tmp_path / "out", "miracl")


@pytest.mark.parametrize("change", ["fingerprint", "settings", "reranker fingerprint"])
def test_another_question(tmp_path: Path, searched: list[str], change: str) -> None:
    measure(tmp_path / "out", write(tmp_path / "sea"))
    with pytest.raises(InputError) as caught:
        run.begin(tmp_path / "out", "m", ABOUT | {change: "other"}, fresh=False)
    was = ABOUT.get(change, "none")
    model = " (m)" if change == "fingerprint" else ""  # digits alone tell little
    message = f"expected results of the {change} other{model}, found those of {was}"
    assert message in str(caught.value)


def test_every_run_has_a_file_of_its_own(tmp_path: Path, searched: list[str]) -> None:
    names = ["a b", "a-b", "a%20b", "a, b", "中文"]
    for name in names:
        write(tmp_path / name)
    measure(tmp_path / "out", *(tmp_path / name for name in names))
    found = {path.name for path in (tmp_path / "out" / "runs").iterdir()}
    assert found == {
        "a%20b.dense.trec",
        "a-b.dense.trec",
        "a%2520b.dense.trec",
        "a,%20b.dense.trec",
        "中文.dense.trec",
    }
    run_of = read_run(tmp_path / "out" / "runs" / "中文.dense.trec")
    assert run_of == {"q0": {"p0": 1.0}}


def test_a_new_beginning_leaves_no_old_runs(
    tmp_path: Path, searched: list[str]
) -> None:
    out = tmp_path / "out"
    (out / "runs").mkdir(parents=True)
    mine = out / "runs" / "mine.trec"
    mine.touch()
    measure(out, write(tmp_path / "sea"))
    assert mine.exists()  # nobody asked to begin anew
    run.begin(out, "m", ABOUT, fresh=True)
    assert list((out / "runs").iterdir()) == []
    (tmp_path / "other" / "runs").mkdir(parents=True)
    (tmp_path / "other" / "runs" / "mine.trec").touch()
    run.begin(tmp_path / "other", "m", ABOUT, fresh=True)
    assert len(list((tmp_path / "other" / "runs").iterdir())) == 1  # not of ours


def test_bad_ids_are_found_before_the_search(
    tmp_path: Path, searched: list[str]
) -> None:
    folder = write(tmp_path / "sea")
    rows = [{"_id": "p0", "text": "sea"}, {"_id": "p 1", "text": "other"}]
    write_jsonl(folder / "corpus.jsonl", rows)
    with pytest.raises(InputError) as caught:
        measure(tmp_path / "out", folder)
    message = f"{folder}: passage 'p 1': expected a name without white space"
    assert str(caught.value).startswith(message)
    assert searched == []


def test_bad_ids_of_a_benchmark(tmp_path: Path, searched: list[str]) -> None:
    passages = [{"_id": "p 1", "title": "", "text": "sea"}, *layouts.PASSAGES]
    layouts.write_beir(tmp_path, "nq", passages=passages)
    model = hashed()
    with pytest.raises(InputError, match="passage 'p 1': expected a name without"):
        list(benchmark.outcomes("beir/nq", model, SETTINGS, root=tmp_path))


def test_a_set_that_is_too_small_ends_nothing(
    tmp_path: Path, searched: list[str]
) -> None:
    (tmp_path / "few").mkdir()
    for part in ("train", "test"):
        rows = [{"text": part, "label": "a"}]
        write_jsonl(tmp_path / "few" / f"{part}.jsonl", rows)
    (tmp_path / "bitext").mkdir()
    write_jsonl(tmp_path / "bitext" / "eus.jsonl", [{"text": "itsaso", "english": "s"}])
    last = write(tmp_path / "sea")
    told: list[str] = []
    settings = dataclasses.replace(SETTINGS, say=told.append)
    sets = tmp_path / "few", tmp_path / "bitext", last
    assert measure(tmp_path / "out", *sets, settings=settings) == ["sea"]
    assert [one.partition(" is left out")[0] for one in told] == ["few", "bitext, eus"]
    assert list(read_results(tmp_path / "out").data) == ["sea"]


def test_a_first_stage_that_is_none(tmp_path: Path, searched: list[str]) -> None:
    model: Any = None
    second = run.Reranking(model, "BM26")
    with pytest.raises(InputError, match="first stage: expected one of dense, found"):
        measure(tmp_path / "out", write(tmp_path / "sea"), reranking=second)


@pytest.mark.parametrize(
    ("metrics", "k", "candidates", "expected"),
    [
        (("recall@100", "ndcg@10"), 1, None, 100),
        (("ndcg@10",), 1, None, 10),
        (("map",), 7, None, 7),
        (("ndcg@10",), 20, None, 20),
        (("ndcg@10",), 1, 30, 30),
    ],
)
def test_as_many_are_found_as_are_looked_at(
    metrics: tuple[str, ...], k: int, candidates: int | None, expected: int
) -> None:
    model: Any = None
    second = None if candidates is None else run.Reranking(model, None, candidates)
    assert run.depth(Settings(metrics=metrics, k=k), second) == expected


def test_the_depth_is_that_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def search(model: Any, data: Retrieval, settings: Settings) -> dict[str, Any]:
        found.append(settings.k)
        return {"dense": {query: {"p0": 1.0} for query in data.queries}}

    monkeypatch.setattr(retrieval, "search", search)
    settings = Settings(metrics=("recall@50",), k=1)
    measure(tmp_path / "out", write_beir(tmp_path / "sea"), settings=settings)
    assert found == [50]
