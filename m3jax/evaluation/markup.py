"""HTML from values: every string from outside is escaped."""

import html
from collections.abc import Iterable, Sequence

from m3jax.evaluation.report_style import STYLE

# No script runs and nothing is fetched, whatever stands in the page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ALONE = ("br", "col", "meta")


class Html(str):
    """Text that is HTML already, so that it is not escaped once more."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | None) -> Html:
    """Make an HTML element.

    Args:
        name: of the tag.
        children: in order; those that are not `Html` are escaped, None is passed over.
        attributes: always escaped; `class_` stands for class and `_` for a hyphen, and
            None is left out.

    Returns:
        The element.

    Example:
        >>> element("td", "a < b", class_="number")
        '<td class="number">a &lt; b</td>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _ALONE:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[str | None]) -> Html:
    """Put parts one after the other; those that are not `Html` are escaped.

    Example:
        >>> join(["a & b", None, element("b", "c")])
        'a &amp; b<b>c</b>'
    """
    return Html(
        "".join(
            part if isinstance(part, Html) else html.escape(part)
            for part in parts
            if part is not None
        )
    )


def page(title: str, *body: str | None) -> str:
    """A whole page, with its style in it and nothing to fetch.

    Args:
        title: what the browser calls it.
        body: its parts, in order.

    Returns:
        The document.

    Example:
        >>> page("a & b", element("p", "text")).count("<title>a &amp; b</title>")
        1
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Html(STYLE)),
    )
    main = element("main", *(part and Html(f"\n{join([part])}") for part in body))
    text = f'<!doctype html>\n<html lang="en">{head}\n<body>{main}\n</body></html>\n'
    # A command may hold a file name that is not UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def table(
    columns: Sequence[str],
    rows: Iterable[tuple[str, Sequence[Html]]],
    *,
    label: str,
    texts: int = 1,
    class_: str | None = None,
) -> Html:
    """A table that scrolls sideways where the page is too narrow for it.

    Args:
        columns: their headings, that of the first one too.
        rows: heading and cells of each.
        label: what it shows, for those who hear it.
        texts: how many columns from the left hold words; the others hold numbers.
        class_: of the table.

    Returns:
        The table in its frame.
    """
    head = element(
        "tr",
        *(
            element("th", name, scope="col", class_="text" if place < texts else None)
            for place, name in enumerate(columns)
        ),
    )
    body = [
        element("tr", element("th", name, scope="row"), *cells, Html("\n"))
        for name, cells in rows
    ]
    inner = element(
        "table", element("thead", head), element("tbody", *body), class_=class_
    )
    # With tabindex the keyboard can scroll it, too.
    return element(
        "div", inner, class_="scroll", role="region", aria_label=label, tabindex="0"
    )


def number(value: float | None, *below: Html, best: float | None = None) -> Html:
    """A cell with a number of four digits, in bold where it shows the best one.

    Example:
        >>> number(0.5, best=0.50001)
        '<td><strong>0.5000</strong></td>'
    """
    if value is None:
        return element("td")
    text = f"{value:z.4f}"
    is_best = best is not None and text == f"{best:z.4f}"
    return element("td", element("strong", text) if is_best else text, *below)


def facts(pairs: Iterable[tuple[str, str]]) -> Html:
    """Names and what they stand for, in two columns."""
    rows = (
        join([element("dt", name), element("dd", value), Html("\n")])
        for name, value in pairs
    )
    return element("dl", *rows)
