"""Run files: trec_eval's own ranks, every float32, and bad lines by number."""

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation.retrieval import ranked
from m3jax.evaluation.trec import check_ids, read_run, stream_run, write_run

# Few values, so that many are equal; some only in float32.
SCORES = st.sampled_from([0.0, -0.0, 0.5, 0.5 + 1e-9, 0.5 + 1e-7, -3.0, 1e-30, 7e9])
IDS = st.text("aAbZ09é中😀-~", min_size=1, max_size=3)


def trec_rank(row: dict[str, float], passage: str) -> int:
    """Where trec_eval puts a passage: the reciprocal rank of it alone."""
    judge = pytrec_eval.RelevanceEvaluator({"q": {passage: 1}}, {"recip_rank"})
    return round(1 / judge.evaluate({"q": row})["q"]["recip_rank"])


@given(st.dictionaries(IDS, SCORES, min_size=1, max_size=12))
def test_ranks_are_those_of_trec_eval(row: dict[str, float]) -> None:
    order = [name for name, _ in ranked(row)]
    assert [trec_rank(row, name) for name in order] == list(range(1, len(row) + 1))


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.trec"
    rows = {"q2": {"a": 0.1, "b": 0.1, "c": 3}, "q1": {"z": -1e-30}, "none": {}}
    write_run(path, rows, tag="dense+sparse")
    assert path.read_text() == (
        "q2 Q0 c 1 3.0 dense+sparse\n"
        "q2 Q0 b 2 0.1 dense+sparse\n"
        "q2 Q0 a 3 0.1 dense+sparse\n"
        "q1 Q0 z 1 -1e-30 dense+sparse\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.trec"]
    found = read_run(path)
    assert found == {query: row for query, row in rows.items() if row}
    assert list(found["q2"]) == ["c", "b", "a"]


@pytest.mark.parametrize(
    ("query", "passage", "message"),
    [
        ("q", "a b", "passage 'a b': expected a name without white space"),
        ("q\u00a0", "a", "query 'q\\xa0': expected a name without white space"),
        ("q", "", "passage '': expected a name without white space"),
    ],
)
def test_ids_are_looked_at_beforehand(query: str, passage: str, message: str) -> None:
    judged = {query: {passage: 1}}
    texts = {query: "?", "not judged": "?"}
    with pytest.raises(InputError) as caught:
        check_ids(Retrieval(texts, {"p": "a", passage: "b"}, judged))
    assert str(caught.value).startswith(message)
    check_ids(Retrieval(texts, {"p": "a"}, {"q": {"p": 1}}))


def test_every_float32_survives(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 5_000, dtype=np.uint32).view(np.float32)
    scores = bits[np.isfinite(bits)]
    row = {str(i): float(score) for i, score in enumerate(scores)}
    write_run(tmp_path / "a", {"q": row}, tag="t")
    read = read_run(tmp_path / "a")["q"]
    again = np.array([read[name] for name in row]).astype(np.float32)
    np.testing.assert_array_equal(again, scores)
    # So what is measured of the file is what was measured before.
    qrels = {"q": {"17": 1, "800": 2}}
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"map", "ndcg"})
    assert judge.evaluate({"q": read}) == judge.evaluate({"q": row})


@pytest.mark.parametrize(
    ("rows", "tag", "message"),
    [
        ({"q 1": {"a": 1}}, "t", "query 'q 1': expected a name without .*, found ' '"),
        ({"q": {"a\tb": 1}}, "t", r"query 'q': passage 'a\\tb': .*, found '\\t'"),
        ({"q": {"a\u3000b": 1}}, "t", "passage .* found '\\\\u3000'"),
        ({"q": {"": 1}}, "t", "passage '': expected a name .*, found an empty one"),
        ({"q": {"a": 1}}, "my run", "tag: expected a name .*, found ' '"),
        ({"q": {"a": 1, "\ud800": 1}}, "t", "found half of a surrogate pair"),
        ({"q": {"a": 1, "b": np.nan}}, "t", "query 'q': passage 'b': .*, found nan"),
        ({"q": {"a": 1e39}}, "t", r"a score that float32 can hold, found 1e\+39"),
        (
            [("q", {"a": 1}), ("q", {"b": 1})],
            "t",
            "query 'q': expected each query once",
        ),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, rows, tag: str, message: str) -> None:
    path = tmp_path / "a.trec"
    path.write_text("as it was")
    with pytest.raises(InputError, match=message):
        write_run(path, rows, tag=tag)
    assert [file.name for file in tmp_path.iterdir()] == ["a.trec"]
    assert path.read_text() == "as it was"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 c 3 0.5", ":3: expected six columns: .*, found 5"),
        ("q Q0 c 3 0.5 t t", ":3: expected six columns: .*, found 7"),
        ("q Q0 c 3 high t", ":3: expected a finite number as score, found 'high'"),
        ("q Q0 c 3 nan t", ":3: expected a finite number as score, found 'nan'"),
        ("q Q0 a 3 0.5 t", ":3: expected each passage of a query once, found passage"),
        (b"q Q0 \xff 3 0.5 t", ":3: expected UTF-8, found byte 0xff"),
    ],
)
@pytest.mark.parametrize("read", [read_run, lambda path: list(stream_run(path))])
def test_bad_lines(tmp_path: Path, read, line: str | bytes, message: str) -> None:
    path = tmp_path / "a.trec"
    line = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b"q Q0 a 1 2 t\nq Q0 b 2 1 t\n" + line + b"\n")
    with pytest.raises(InputError, match=message) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:3: ")


def test_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "a.trec.gz"
    # Ranks from 0, tabs, a blank line, a no-break space, queries that alternate.
    text = "q\tQ0\ta\xa0b\t0\t12\tx\n\nr Q0 a 0 3e-1 x\r\nq Q0 c 0 13 x"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_run(path) == {"q": {"a\xa0b": 12.0, "c": 13.0}, "r": {"a": 0.3}}
    with pytest.raises(InputError, match=r"gz:4: .* together, found query 'q' again"):
        list(stream_run(path))
    with pytest.raises(InputError, match="nothing of that name"):
        read_run(tmp_path / "b.trec.gz")


def test_streams(tmp_path: Path) -> None:
    path = tmp_path / "large.trec"
    count = 300

    def rows() -> Iterator[tuple[str, dict[str, float]]]:
        for query in range(count):
            yield f"q{query}", {f"passage-{i}": float(i) for i in range(40)}

    tracemalloc.start()
    write_run(path, rows(), tag="t")
    found = 0
    for query, row in stream_run(path):
        assert query == f"q{found}" and len(row) == 40
        found += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == count
    assert peak < path.stat().st_size / 4
