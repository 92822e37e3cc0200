"""Pictures: what they say, that they take the page's colours and name ids once."""

import re

import pytest

from m3jax.evaluation.markup import Html, page
from m3jax.evaluation.outcome import EmbeddingMap, Histogram
from m3jax.evaluation.report_plots import recall_curves, scatter, score_histogram
from m3jax.evaluation.report_style import COLORS
from tests.evaluation.evaluations import EVIL, Page, check_alone

ORDER = ["dense", EVIL]
CURVES = {"dense": {1: 0.25, 10: 0.5, 1_000: 0.75}, EVIL: {1: 0.5, 10: 0.625}}
SCORES = Histogram((0.0, 0.25, 0.5, 1.0), (0, 0, 4), (1_500, 500, 0))


def points(kinds: int) -> EmbeddingMap:
    """Of every label one point less than of that before it."""
    labels = [f"$l_{i}$" for i in range(kinds) for _ in range(kinds - i)]
    where = tuple((float(i), float(i % 3)) for i in range(len(labels)))
    return EmbeddingMap(EVIL, where, tuple(labels), (0.25, 0.125))


def curves(salt: str = "c") -> Html:
    return recall_curves(CURVES, order=ORDER, salt=salt)


def says(found: Page) -> str:
    (text,) = [x["aria-label"] for tag, x in found.tags if tag == "svg"]
    assert text is not None
    return text


def colors(picture: str) -> set[str]:
    return set(re.findall(r"(?:stroke|fill): ([^;\"]+)", picture))


def test_curves() -> None:
    found = check_alone(page("", curves()))
    assert says(found) == (
        "Recall: dense from 0.250 at 1 to 0.750 at 1000; "
        f"{EVIL} from 0.500 at 1 to 0.625 at 10."
    )
    assert found.inside("li") == [" dense", f" {EVIL}"]
    texts = found.inside("text")
    assert {"1", "10", "1,000", "recall", "passages that are kept"} <= set(texts)
    # The axis begins below the least value, where a number of tenths is.
    assert min(float(text) for text in texts if re.fullmatch(r"0\.\d", text)) == 0.2


def test_histogram() -> None:
    text = score_histogram(EVIL, SCORES, order=ORDER, salt="h")
    found = check_alone(page("", text))
    # 4 of 4 in the last bin; 3/4 of 2,000 around 0.125, 1/4 around 0.375.
    assert says(found) == f"Scores of {EVIL}: relevant around 0.75, others around 0.19."
    assert found.inside("li") == [" 4 relevant", " 2,000 others"]
    assert {"var(--c1)", "var(--soft)"} <= colors(text)
    assert "var(--c0)" not in colors(text)
    alone = Histogram((0.0, 1.0), (0,), (3,))
    one = check_alone(page("", score_histogram("dense", alone, order=ORDER, salt="h")))
    assert says(one) == "Scores of dense: others around 0.50."
    assert one.inside("li") == [" 0 relevant", " 3 others"]


@pytest.mark.parametrize("kinds", [1, COLORS, COLORS + 1, 20])
def test_map(kinds: int) -> None:
    text = scatter(points(kinds), salt="m")
    found = check_alone(page("", text))
    legend = [name.strip() for name in found.inside("li")]
    shown = kinds if kinds <= COLORS else COLORS - 1
    assert legend[:shown] == [f"$l_{i}$" for i in range(shown)]
    if kinds > COLORS:
        assert legend[shown:] == [f"{kinds - shown} other labels"]
    used = {color for color in colors(text) if color.startswith("var(--c")}
    assert used == {f"var(--c{i})" for i in range(shown)}
    drawn = sum(1 for tag, attributes in found.tags if tag == "use")
    assert drawn == len(points(kinds).labels)
    assert "first component, 25% of the variance" in found.inside("text")
    assert says(found).startswith(f"Map of {drawn} embeddings by principal components")


@pytest.mark.parametrize(
    "picture",
    [
        curves(),
        score_histogram("dense", SCORES, order=ORDER, salt=""),
        scatter(points(9), salt=""),
    ],
)
def test_no_colour_but_those_of_the_page(picture: str) -> None:
    assert colors(picture) <= {
        "none",
        "var(--soft)",
        "var(--line)",
        *(f"var(--c{i})" for i in range(COLORS)),
    }
    assert not re.findall(r"[\" ]#[0-9a-f]{6}", picture)
    # No size but the box, so that the page decides.
    (start,) = re.findall(r"<svg[^>]*>", picture)
    assert "viewBox" in start and "width=" not in start
    assert "http" not in picture.replace(EVIL, "")


def test_the_same_every_time_and_apart_on_a_page() -> None:
    assert curves() == curves()
    check_alone(page("", curves("one"), curves("two")))
    with pytest.raises(AssertionError):
        check_alone(page("", curves("one"), curves("one")))
