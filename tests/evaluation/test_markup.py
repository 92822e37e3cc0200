"""HTML is escaped, and escaped once."""

import pytest

from m3jax.evaluation.markup import Html, element, facts, join, number, page, table
from tests.evaluation.evaluations import EVIL, check_alone


def test_what_is_escaped() -> None:
    found = element("p", EVIL, element("b", "<"), None, class_=EVIL, id=None)
    quoted = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &quot;x&quot;"
    assert found == f'<p class="{quoted}">{quoted}<b>&lt;</b></p>'
    assert isinstance(join(["a"]), Html)
    assert element("br") == "<br>"
    assert element("meta", http_equiv="x") == '<meta http-equiv="x">'
    # A subclass alone marks HTML: what is made of it by hand is text again.
    assert join([element("b", "x") + "<"]) == "&lt;b&gt;x&lt;/b&gt;&lt;"


def test_page() -> None:
    body = element("p", EVIL), None, facts([("name", EVIL)])
    found = check_alone(page(EVIL, *body))
    assert found.inside("title") == [EVIL]
    assert found.inside("p") == [EVIL]
    assert found.inside("dd") == [EVIL]
    metas = [attributes for tag, attributes in found.tags if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert any(one.get("name") == "viewport" for one in metas)
    style = "".join(found.inside("style"))
    for part in ("prefers-color-scheme: dark", "@media print", "overflow-x: auto"):
        assert part in style


def test_names_that_are_not_utf8() -> None:
    text = page("a", element("p", "b\udcff"))
    assert r"b\udcff" in text
    text.encode()


def test_table() -> None:
    rows = [("a", [number(0.5), number(None)]), ("<b>", [number(1), number(0.25)])]
    text = table(["", "x", "y"], rows, label="z", texts=2)
    found = check_alone(page("", text))
    assert found.rows == [
        ["", "x", "y"],
        ["a", "0.5000", ""],
        ["<b>", "1.0000", "0.2500"],
    ]
    frame = next(attributes for tag, attributes in found.tags if tag == "div")
    assert frame == {
        "class": "scroll",
        "role": "region",
        "aria-label": "z",
        "tabindex": "0",
    }
    heads = [attributes for tag, attributes in found.tags if tag == "th"]
    assert [head.get("class") for head in heads[:3]] == ["text", "text", None]
    assert [head["scope"] for head in heads] == ["col"] * 3 + ["row"] * 2


@pytest.mark.parametrize(
    ("value", "best", "text"),
    [
        (0.12345, None, "0.1235"),
        (0.5, 0.5, "<strong>0.5000</strong>"),
        (0.49999, 0.5, "<strong>0.5000</strong>"),
        (0.4999, 0.5, "0.4999"),
        (-2.31, None, "-2.3100"),
        (-0.00001, None, "0.0000"),
    ],
)
def test_number(value: float, best: float | None, text: str) -> None:
    assert number(value, best=best) == f"<td>{text}</td>"
