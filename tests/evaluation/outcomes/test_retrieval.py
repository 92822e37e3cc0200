"""Sets whose queries are passages of the corpus, as in ArguAna."""

import dataclasses
from pathlib import Path

import pytest

from m3jax.evaluation.outcomes import across, retrieval
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.inference.embedder import Embedder
from m3jax.testing import write_jsonl
from tests.evaluation.sets import embedder, sentences

ARGUMENTS = sentences(12, 3)
NOTE = (
    "{} queries are passages, of the same id: they are left out of what they find, as "
    "in BEIR."
)


@pytest.fixture(scope="module")
def model() -> Embedder:
    return dataclasses.replace(embedder(), max_length=64)


def write(folder: Path, *, prefix: str = "a", judged: str = "") -> Path:
    """Four arguments are queries; the answer to each is the next one."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"a{i}", "text": text} for i, text in enumerate(ARGUMENTS)]
    write_jsonl(folder / "corpus.jsonl", rows)
    rows = [{"_id": f"{prefix}{i}", "text": ARGUMENTS[i]} for i in range(4)]
    write_jsonl(folder / "queries.jsonl", rows)
    lines = [f"{prefix}{i}\ta{i + 1}\t1\n" for i in range(4)]
    text = "query-id\tcorpus-id\tscore\n" + "".join(lines) + judged
    (folder / "qrels" / "test.tsv").write_text(text)
    return folder


def test_a_query_does_not_find_itself(tmp_path: Path, model: Embedder) -> None:
    data, notes = retrieval.read(write(tmp_path / "own"), "test")
    assert notes == (NOTE.format(4),)
    found = retrieval.search(model, data, Settings(k=5, rescored=8))
    # The same set where the query has another id: there it is found first.
    other, notes = retrieval.read(write(tmp_path / "other", prefix="q"), "test")
    assert notes == ()
    every = retrieval.search(model, other, Settings(k=6, rescored=8))
    assert {*found} == {*every}
    for system, rows in found.items():
        assert len(rows) == 4
        for query, row in rows.items():
            whole = every[system][query.replace("a", "q")]
            assert query in whole and query not in row
            left = [name for name in whole if name != query]
            assert list(row) == left[:5] and len(row) == min(5, len(left))
    assert next(iter(every["dense"]["q0"])) == "a0"


def test_what_is_judged_stays(tmp_path: Path, model: Embedder) -> None:
    path = write(tmp_path / "set", judged="a2\ta2\t1\n")
    data, notes = retrieval.read(path, "test")
    assert notes == (NOTE.format(3),)
    found = retrieval.search(model, data, Settings(k=5))
    for rows in found.values():
        assert [query in row for query, row in rows.items()] == [False] * 2 + [
            True,
            False,
        ]
        assert all(len(row) <= 5 for row in rows.values())


def test_across_languages(tmp_path: Path, model: Embedder) -> None:
    parts = {one: write(tmp_path / one) for one in ("de", "en")}
    alone, _ = retrieval.read(parts["de"], "test")
    expected = retrieval.search(model, alone, Settings(k=5, rescored=8))
    every = across.outcomes("set", model, parts, Settings(k=5, rescored=8))
    for made, found, _ in every:
        own = made.language == made.passage_language
        assert made.notes == ((NOTE.format(4),) if own else ())
        for system, rows in found.items():
            assert {q: list(row) for q, row in rows.items()} == {
                q: list(row) for q, row in expected[system].items()
            }


def test_the_same_id_by_chance_is_another_passage(tmp_path: Path) -> None:
    # As in Cranfield, where both are numbered from 1.
    path = write(tmp_path / "set")
    rows = [{"_id": f"a{i}", "text": ARGUMENTS[i + 1]} for i in range(4)]
    write_jsonl(path / "queries.jsonl", rows)
    data, notes = retrieval.read(path, "test")
    assert notes == () and not retrieval.themselves(data)


def test_blank_texts_are_said(tmp_path: Path) -> None:
    path = write(tmp_path / "set")
    texts = ["gold", "salt", "iron", "  "]
    rows = [{"_id": f"a{i}", "text": text} for i, text in enumerate(texts)]
    write_jsonl(path / "queries.jsonl", rows)
    _, notes = retrieval.read(path, "test")
    assert notes[-1] == "1 of 4 queries are blank, and measured as they are: 'a3'"
