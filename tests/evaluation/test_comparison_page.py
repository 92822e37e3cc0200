"""The page of a comparison: every row, and colours by the sign of the difference."""

from m3jax.evaluation.comparison import compare
from m3jax.evaluation.comparison_page import render_comparison, write_comparison
from m3jax.evaluation.outcome import Evaluation, Outcome
from tests.evaluation.evaluations import EVIL, check_alone, evaluation, retrieval


def only(*outcomes: Outcome) -> Evaluation:
    return Evaluation("m", {}, outcomes)


def test_page(tmp_path) -> None:
    found = compare(evaluation(), evaluation("other [b] <b>", lift=0.125))
    path = write_comparison(tmp_path, found)
    parsed = check_alone(path.read_text(encoding="utf-8"))
    assert parsed.inside("h1") == ["tiny and other [b] <b>"]
    rows = [row.difference for row in found.rows]
    better, worse = (sum(sign * row > 0 for row in rows) for sign in (1, -1))
    assert 0 < worse < better
    clear = [row.difference > 0 for row in found.rows if row.is_clear]
    assert (
        f"{len(rows)} rows: B is better in {better}, clearly in {sum(clear)}, "
        f"and worse in {worse}, clearly in {len(clear) - sum(clear)}"
    ) in parsed.inside("p")
    assert [
        "medquad",
        "dense",
        "nDCG@10",
        "0.5000",
        "0.6250",
        "+0.1250",
        "",
        "0.1250, 0.1250",
        "0.0002",
        "20 / 0 / 0",
    ] in parsed.rows
    assert [EVIL, "BM25", "nDCG@10", "0.5000", "0.5000", "+0.0000"] in [
        row[:6] for row in parsed.rows
    ]
    # Without items there are no columns for them.
    assert ["stsb", "dense", "Spearman", "0.8000", "0.9250", "+0.1250"] in parsed.rows
    assert "xquad: B - A in nDCG@10 of dense" in parsed.inside("h3")
    start = parsed.rows.index(["queries \\ passages", "de", "en", "zh", "mean"])
    assert parsed.rows[start + 1][1:] == ["-0.125"] * 4
    assert parsed.rows[start + 3] == ["zh", "0.125", "", "0.125", "0.125"]
    assert "Not compared" not in parsed.inside("h2")


def test_differences_have_the_colour_of_their_sign() -> None:
    pairs = [
        retrieval("x", {"dense": 0.5}, language="de", passage_language=to)
        for to in ("de", "en")
    ]
    lifted = [
        retrieval("x", {"dense": value}, language="de", passage_language=to)
        for to, value in (("de", 0.75), ("en", 0.625))
    ]
    text = render_comparison(compare(only(*pairs), only(*lifted)))
    # All are above 0, and still the lesser one is not without colour.
    assert "var(--c0) 60%" in text and "var(--c0) 30%" in text
    back = render_comparison(compare(only(*lifted), only(*pairs)))
    assert "var(--c1) 60%" in back and "var(--c1) 30%" in back


def test_intervals_are_drawn_around_zero() -> None:
    low, high = ({"q": 0.0, "r": 0.5}, {"q": 0.0, "r": 1.0})
    a, b = (
        Outcome("t", "bitext", "f1", {"dense": {"f1": mean}}, {"dense": row})
        for mean, row in ((0.25, low), (0.5, high))
    )
    (row,) = compare(only(a), only(b)).rows
    assert row.paired is not None and not row.is_clear
    assert (row.paired.low, row.paired.high) == (0.0, 0.5)
    text = render_comparison(compare(only(a), only(b)))
    # 0 is at 50 %, and the end that is furthest from it, 0.5, at 98 %.
    assert 'class="range"' in text
    assert '<i style="left: 50.0%; width: 48.0%">' in text
    assert '<b style="left: 74.0%">' in text
