"""Tables: every value in its cell, the best in bold, colours by value."""

import re

import pytest

from m3jax.evaluation.markup import Html, page
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.report_tables import bars, heading, heat_map, metrics
from tests.evaluation.evaluations import Page, check_alone, retrieval

BY_LANGUAGE = [
    retrieval("m", {"dense": 0.5, "BM25": 0.75}, language="de"),
    retrieval("m", {"dense": 0.25}, language="zh"),
]
PAIRS = [
    retrieval("x", {"dense": value}, language=a, passage_language=b)
    for a, b, value in (("de", "de", 0.75), ("de", "zh", 0.25), ("zh", "de", 0.5))
]


def parsed(table: Html) -> Page:
    return check_alone(page("", table))


@pytest.mark.parametrize(
    ("metric", "written"),
    [
        ("ndcg@10", "nDCG@10"),
        ("mrr@5", "MRR@5"),
        ("recall@1000", "recall@1000"),
        ("map", "MAP"),
        ("map@100", "MAP@100"),
        ("v_measure", "V-measure"),
        ("spearman", "Spearman"),
        ("uniformity", "uniformity"),
    ],
)
def test_heading(metric: str, written: str) -> None:
    assert heading(metric) == written


def test_metrics_of_one() -> None:
    values = {"dense": {"p": 0.5, "f1": 0.25}, "kNN": {"f1": 0.5}}
    found = parsed(metrics([Outcome("t", "classification", "f1", values)]))
    assert found.rows == [
        ["", "F1", "p"],
        ["dense", "0.2500", "0.5000"],
        ["kNN", "0.5000", ""],
    ]
    assert found.inside("strong") == ["0.5000"]
    alone = Outcome("t", "classification", "f1", {"dense": {"f1": 0.25}})
    assert parsed(metrics([alone])).inside("strong") == []


def test_metrics_by_language() -> None:
    found = parsed(metrics(BY_LANGUAGE))
    assert [row[:2] for row in found.rows[1:]] == [
        ["de, dense", "0.5000"],
        ["de, BM25", "0.7500"],
        ["zh, dense", "0.2500"],
    ]
    assert found.inside("strong") == ["0.7500"]


def test_bars() -> None:
    order = ["sparse", "dense", "BM25"]
    text = bars(BY_LANGUAGE, order=order)
    found = parsed(text)
    assert found.rows == [
        ["language", "dense", "BM25"],
        ["de", "0.5000", "0.7500"],
        ["zh", "0.2500", ""],
        ["mean", "0.3750", ""],
    ]
    widths = re.findall(r"--color: var\(--(c\d)\); width: ([\d.]+)%", text)
    assert widths == [("c1", "50.0"), ("c2", "75.0"), ("c1", "25.0"), ("c1", "37.5")]
    low = Outcome("m", "sts", "spearman", {"dense": {"spearman": -0.5}}, language="de")
    assert "width: 0.0%" in bars([low], order=order)


def test_heat_map() -> None:
    values = {one.label: one.decisive["dense"] for one in PAIRS}
    text = heat_map(PAIRS, values, label="z", among=[0.25, 1.25])
    assert parsed(text).rows == [
        ["queries \\ passages", "de", "zh", "mean"],
        ["de", "0.750", "0.250", "0.500"],
        ["zh", "0.500", "", "0.500"],
        ["mean", "0.625", "0.250", "0.500"],
    ]
    # From 0.25 without colour to 1.25 with 60 %.
    assert re.findall(r"var\(--(c\d)\) (-?\d+)%", text) == [
        ("c0", "30"),
        ("c0", "0"),
        ("c0", "15"),
    ]


def test_heat_map_of_differences() -> None:
    values = dict(
        zip((one.label for one in PAIRS), (0.1, -0.05, -0.00001), strict=True)
    )
    text = heat_map(PAIRS, values, label="z", among=list(values.values()))
    assert re.findall(r"var\(--(c\d)\) (-?\d+)%", text) == [
        ("c0", "60"),
        ("c1", "30"),
        ("c1", "0"),
    ]
    assert parsed(text).rows[2][1] == "0.000"
    alike = heat_map(PAIRS[:1], {PAIRS[0].label: 0.5}, label="z", among=[0.5])
    assert "var(--c0) 0%" in alike
