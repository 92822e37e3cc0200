"""The whole page: all that was measured is on it, and nothing is asked for."""

import pytest

from m3jax.evaluation.outcome import Evaluation, Outcome
from m3jax.evaluation.report import group, render, write_report
from tests.evaluation.evaluations import EVIL, check_alone, evaluation, retrieval


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    path = write_report(folder, evaluation(EVIL))
    assert [file.name for file in folder.iterdir()] == [path.name] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_page(text: str) -> None:
    found = check_alone(text)
    assert found.inside("title") == [f"{EVIL}: evaluation"]
    assert found.inside("h1") == [EVIL]
    assert found.inside("dd") == ["2026-01-31", r"python -m m3jax.evaluate 'a\udcff b'"]
    assert "Evaluation on 7 tasks" in found.inside("p")
    assert found.inside("h2") == [
        "Summary",
        "medquad",
        EVIL,
        "miracl",
        "xquad",
        "stsb",
        "banking",
        "banking",
        "Maps of embeddings",
    ]
    notes = found.inside("li")
    assert f"12 queries are left out. {EVIL}" in notes
    assert "No stemming." in notes and "miracl, zh: No spaces." in notes
    assert (
        "Retrieval, 3 languages, 20 queries each, 1,234 passages each"
        in found.inside("p")
    )
    assert "Retrieval, 20 queries, 1,234 passages" in found.inside("p")
    # A curve and three histograms, a curve and two of one language, a map.
    assert len([tag for tag, _ in found.tags if tag == "svg"]) == 1 + 3 + 1 + 2 + 1


def test_summary(text: str) -> None:
    rows = check_alone(text).rows
    assert rows[:6] == [
        ["task", "metric", "dense", "hybrid", "BM25"],
        ["medquad", "nDCG@10", "0.5000", "0.6250", "0.2500"],
        [EVIL, "nDCG@10", "0.3750", "", "0.5000"],
        ["miracl, 3 languages", "nDCG@10", "0.5000", "", "0.4500"],
        # Mean of eight of the nine cells.
        [
            "xquad, 8 pairs of languages",
            "nDCG@10",
            f"{(9 * 0.41 - 0.51) / 8:.4f}",
            "",
            "",
        ],
        ["mean of the tasks", "", f"{(1.375 + (9 * 0.41 - 0.51) / 8) / 4:.4f}", "", ""],
    ]
    assert ["banking", "accuracy", "0.7500"] in rows
    assert ["banking", "V-measure", "0.5000"] in rows
    # One task, or different metrics: no mean.
    assert sum(row[0] == "mean of the tasks" for row in rows) == 1
    strong = check_alone(text).inside("strong")
    assert strong[:3] == ["0.6250", "0.5000", "0.5000"]


def test_mean_only_of_one_metric() -> None:
    one = Outcome("a", "sts", "spearman", {"dense": {"spearman": 0.5}})
    other = Outcome("b", "sts", "pearson", {"dense": {"pearson": 0.5}})
    assert "mean of the tasks" not in render(Evaluation("m", {}, (one, other)))
    same = Outcome("b", "sts", "spearman", {"dense": {"spearman": 0.25}})
    rows = check_alone(render(Evaluation("m", {}, (one, same)))).rows
    assert rows[3] == ["mean of the tasks", "", "0.3750"]
    apart = Outcome("b", "sts", "spearman", {"sparse": {"spearman": 0.25}})
    assert "mean of the tasks" not in render(Evaluation("m", {}, (one, apart)))


def test_tables_of_a_matrix(text: str) -> None:
    rows = check_alone(text).rows
    start = rows.index(["queries \\ passages", "de", "en", "zh", "mean"])
    assert rows[start + 3] == ["zh", "0.500", "", "0.520", "0.510"]
    assert ["language", "dense", "BM25"] in rows
    assert ["zh → de, dense", "0.5000", "0.8750"] in rows


def test_systems_of_a_matrix_share_a_scale() -> None:
    pairs = [
        retrieval("x", {"dense": a, "hybrid": b}, language="de", passage_language=to)
        for to, a, b in (("de", 0.25, 0.5), ("en", 0.5, 0.75))
    ]
    text = render(Evaluation("m", {}, tuple(pairs)))
    shades = [f"var(--c0) {share}%" for share in (0, 30, 30, 60)]
    assert [
        part.split(",")[1].strip() for part in text.split("color-mix(in srgb")[2:]
    ] == (shades)


def test_counts_of_languages() -> None:
    tasks = [
        Outcome("t", "bitext", "f1", {"d": {"f1": 1.0}}, counts=counts, language=x)
        for x, counts in (("de", {"pairs": 1_500, "a": 1}), ("fr", {"pairs": 20}))
    ]
    found = check_alone(render(Evaluation("m", {}, tuple(tasks))))
    assert "Bitext mining, 2 languages, 20 to 1,500 pairs each" in found.inside("p")


def test_tasks_of_one_kind_side_by_side() -> None:
    sts = [Outcome(x, "sts", "spearman", {"d": {"spearman": 0.5}}) for x in ("a", "b")]
    task = retrieval("a", {"d": 0.5})
    found = group([sts[0], task, sts[1]])
    assert found == [(task,), (sts[0],), (sts[1],)]


@pytest.mark.parametrize("outcomes", [(), evaluation().outcomes[1:2]])
def test_little_to_show(outcomes) -> None:
    found = check_alone(render(Evaluation("m", {}, outcomes)))
    assert ("Summary" in found.inside("h2")) == bool(outcomes)
    assert "Maps of embeddings" not in found.inside("h2")
