"""A small evaluation with all that a report can show, and pages taken apart."""

from collections.abc import Mapping
from html.parser import HTMLParser

import numpy as np

from m3jax.evaluation.outcome import EmbeddingMap, Evaluation, Histogram, Outcome

EVIL = "<script>alert('1')</script> & \"x\""
VOID = {"br", "col", "meta"}


def retrieval(
    name: str,
    values: Mapping[str, float],
    *,
    seed: int = 0,
    language: str | None = None,
    passage_language: str | None = None,
    drawn: bool = False,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """A task of 20 queries, whose nDCG@10 has these means."""
    rng = np.random.default_rng(seed)
    items = {}
    for system, mean in values.items():
        noise = rng.uniform(-0.1, 0.1, 20)
        row = mean + noise - noise.mean()
        items[system] = {f"q{i}": value for i, value in enumerate(row.tolist())}
    scores = rng.normal(0.7, 0.1, 20), rng.normal(0.3, 0.1, 200)
    curves = {1: 0.25, 10: 0.5, 1_000: 0.75}
    return Outcome(
        name,
        "retrieval",
        "ndcg@10",
        {x: {"recall@100": 0.875, "ndcg@10": mean} for x, mean in values.items()},
        items,
        {"queries": 20, "passages": 1_234},
        notes,
        language,
        passage_language,
        dict.fromkeys(values, curves) if drawn else {},
        {x: Histogram.of(*scores, bins=8) for x in values} if drawn else {},
    )


def evaluation(model: str = "tiny", *, lift: float = 0.0) -> Evaluation:
    """Of every kind of outcome one."""
    languages = "de", "en", "zh"
    probe = {"accuracy": 0.75 + lift, "f1": 0.7}
    grades = {"spearman": 0.8 + lift, "uniformity": -2.5}
    outcomes = (
        retrieval(
            "medquad",
            {"dense": 0.5 + lift, "hybrid": 0.625, "BM25": 0.25},
            drawn=True,
            notes=(f"12 queries are left out. {EVIL}",),
        ),
        retrieval(EVIL, {"dense": 0.375, "BM25": 0.5}),
        *(
            retrieval(
                "miracl",
                {"dense": 0.4 + 0.1 * i + lift, "BM25": 0.45},
                seed=i,
                language=language,
                drawn=language == "de",
                notes=("No stemming.", *(["No spaces."] if language == "zh" else [])),
            )
            for i, language in enumerate(languages)
        ),
        *(
            retrieval(
                "xquad",
                {"dense": 0.3 + 0.1 * i + 0.01 * j + lift * (i - 1)},
                language=x,
                passage_language=y,
            )
            for i, x in enumerate(languages)
            for j, y in enumerate(languages)
            if (x, y) != ("zh", "en")
        ),
        Outcome("stsb", "sts", "spearman", {"dense": grades}, counts={"pairs": 9}),
        Outcome("banking", "classification", "accuracy", {"probe": probe}),
        Outcome("banking", "clustering", "v_measure", {"k-means": {"v_measure": 0.5}}),
    )
    points = tuple((float(i % 7), float(i % 5)) for i in range(60))
    names = tuple(EVIL if i < 20 else f"$label_{i % 11}$ 中文" for i in range(60))
    drawn = EmbeddingMap("banking", points, names, (0.25, 0.125))
    about = {"date": "2026-01-31", "command": "python -m m3jax.evaluate 'a\udcff b'"}
    return Evaluation(model, about, outcomes, (drawn,))


class Page(HTMLParser):
    """A page taken apart; its tags must close in order.

    Attributes:
        tags: every tag with its attributes.
        texts: innermost tag that is open, and a text in it.
        rows: of all tables, the text of each cell.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        if self._open:
            self.texts.append((self._open[-1], data))
        if "th" in self._open or "td" in self._open:
            self.rows[-1][-1] += data

    def inside(self, tag: str) -> list[str]:
        """Texts that stand directly in such a tag."""
        return [text for name, text in self.texts if name == tag]


def check_alone(text: str) -> Page:
    """A page asks for nothing from outside, runs nothing, and names no id twice."""
    page = Page(text)
    names = {name for name, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "img", "base"}
    policy = [x["content"] for _, x in page.tags if "http-equiv" in x]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    ids = [x["id"] for _, x in page.tags if "id" in x]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in ("href", "src", "xlink:href", "action"):
                assert value is not None and value[:1] == "#" and value[1:] in ids
            elif value and "url(" in value:
                assert value.count("url(") == 1 and "url(#" in value
    styles = "".join(page.inside("style"))
    assert "url(" not in styles and "@import" not in styles
    return page
