import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data.retrieval import read_beir

CORPUS = [
    {"_id": "p1", "title": "Sum", "text": "It is 4."},
    {"_id": "p2", "title": "", "text": "It is 5."},
    {"_id": "p3", "text": "No title.", "metadata": {}},
    {"_id": "p4", "title": None, "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "2 + 2?"},
    {"_id": "q2", "text": "2 + 3?", "title": "not part of a query"},
    {"_id": "q3", "text": "never judged"},
    {"_id": "q4", "text": "judged, but nothing answers"},
]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = HEADER + "q2\tp2\t2\nq1\tp1\t1\nq1\tp2\t0\nq4\tp1\t0\n"


def json_lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_bytes(json_lines(CORPUS))
    (tmp_path / "queries.jsonl").write_bytes(json_lines(QUERIES))
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def test_read_beir(beir: Path):
    task = read_beir(beir)
    texts = ["Sum It is 4.", "It is 5.", "No title.", ""]
    assert task.corpus == dict(zip(["p1", "p2", "p3", "p4"], texts, strict=True))
    assert task.queries == {"q1": "2 + 2?", "q2": "2 + 3?"}
    assert task.qrels == {"q1": {"p1": 1, "p2": 0}, "q2": {"p2": 2}}


def test_read_beir_reads_the_named_split_and_windows_line_ends(beir: Path):
    (beir / "qrels" / "dev.tsv").write_bytes(
        (HEADER + "q3\tp4\t1").replace("\n", "\r\n").encode()
    )
    assert read_beir(str(beir), "dev").qrels == {"q3": {"p4": 1}}


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_read_beir_reads_packed_files(
    beir: Path, ending: str, pack: Callable[[bytes], bytes]
):
    plain = read_beir(beir)
    for name in ["corpus.jsonl", "queries.jsonl"]:
        file = beir / name
        (beir / f"{name}{ending}").write_bytes(pack(file.read_bytes()))
        file.unlink()
    assert read_beir(beir) == plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", b"{]", "corpus.jsonl:1: expected a line of JSON"),
        ("corpus.jsonl", b"[]", "corpus.jsonl:1: expected a JSON object, found a list"),
        ("corpus.jsonl", b"\xff", "corpus.jsonl:1: expected UTF-8"),
        ("corpus.jsonl", b"\n", "corpus.jsonl: expected a passage a line"),
        (
            "corpus.jsonl",
            b'\n{"id": "p1", "text": ""}',
            "corpus.jsonl:2: expected the key '_id', found only 'id', 'text'",
        ),
        ("corpus.jsonl", b'{"_id": "p1"}', "corpus.jsonl:1: expected the key 'text'"),
        (
            "corpus.jsonl",
            b'{"_id": "p", "text": ["t"]}',
            "corpus.jsonl:1: text: expected a string, found a list",
        ),
        (
            "corpus.jsonl",
            b'{"_id": "p", "title": 1, "text": ""}',
            "corpus.jsonl:1: title: expected a string, found a number",
        ),
        (
            "corpus.jsonl",
            b'{"_id": "p", "text": "a"}\n{"_id": "p", "text": "a"}',
            "corpus.jsonl:2: _id: expected a new _id, found 1 again: 'p'",
        ),
        (
            "queries.jsonl",
            b'{"_id": 1, "text": "a"}',
            "queries.jsonl:1: _id: expected a string, found a number",
        ),
        (
            "queries.jsonl",
            b'{"_id": "q", "text": "a"}\n\n{"_id": "q", "text": "b"}',
            "queries.jsonl:3: _id: expected a new _id, found 1 again: 'q'",
        ),
        (
            "queries.jsonl",
            b'{"_id": "q", "title": "t"}',
            "queries.jsonl:1: expected the key 'text', found only '_id', 'title'",
        ),
        (
            "qrels/test.tsv",
            b"q1\tp1\t1\n",
            "test.tsv:1: expected the header 'query-id corpus-id score', with tabs, "
            "found 'q1 p1 1'",
        ),
        (
            "qrels/test.tsv",
            b"query-id corpus-id score\nq1 p1 1\n",
            "with tabs, found 'query-id corpus-id score', without",
        ),
        ("queries.jsonl", b"", "queries.jsonl: expected a query a line, found an em"),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\t0\tp1\t1",
            "test.tsv:2: expected 3 columns with tabs between, found 4",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t1\n\nq1 p1 1",
            "test.tsv:4: expected 3 columns with tabs between, found 1",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t0.5",
            "test.tsv:2: score: expected an integer of at most 9 digits, found '0.5'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t" + b"9" * 400,
            "test.tsv:2: score: expected an integer of at most 9 digits, found 400 cha",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t\xff",
            "test.tsv:2: expected UT",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q9\tp1\t1",
            "test.tsv:2: expected queries and passages that are there, each pair "
            "judged once, found unknown query-id, 1: 'q9'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t1\nq1\tp9\t0",
            "test.tsv:3: expected queries and passages that are there, each pair "
            "judged once, found unknown corpus-id, 1: 'p9'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t1\nq1\tp1\t1",
            "test.tsv:3: expected queries and passages that are there, each pair "
            "judged once, found judged again, 1: 'q1 p1'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t0\nq2\tp1\t-1",
            "test.tsv: expected a query with an answer, found no judgement above 0",
        ),
        ("qrels/test.tsv", b"", "test.tsv: expected a query with an answer"),
    ],
)
def test_a_bad_beir_file_names_file_line_and_key(
    beir: Path, name: str, content: bytes, message: str
):
    (beir / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_beir(beir)
    assert str(caught.value).startswith(str(beir))
    assert message in str(caught.value)


@pytest.mark.parametrize("stem", ["corpus", "queries"])
def test_ids_that_come_twice_are_counted(beir: Path, stem: str):
    rows = [{"_id": name, "text": "a"} for name in "abcdeabcdaa"]
    (beir / f"{stem}.jsonl").write_bytes(json_lines(rows))
    with pytest.raises(InputError) as caught:
        read_beir(beir)
    found = (
        f"{stem}.jsonl:6: _id: expected a new _id, found 4 again: 'a', 'b', 'c', ..."
    )
    assert str(caught.value) == f"{beir}/{found}"


def test_everything_wrong_with_judgements_is_counted_in_one_line(beir: Path):
    bad = "q1\tp8\t0\nq9\tp1\t1\nq9\tp9\t1\nq1\tp1\t0\nq1\tp1\t1\nq2\tp8\t1\n"
    (beir / "qrels" / "test.tsv").write_text(QRELS + bad)
    with pytest.raises(InputError) as caught:
        read_beir(beir)
    assert caught.value.where == f"{beir}/qrels/test.tsv:7"
    assert caught.value.found == (
        "unknown query-id, 1: 'q9'; unknown corpus-id, 2: 'p8', 'p9'; "
        "judged again, 1: 'q1 p1'"
    )
    assert "\n" not in str(caught.value)


def test_queries_that_are_left_out_are_said(beir: Path):
    told: list[str] = []
    read_beir(beir, say=told.append)
    file = beir / "qrels" / "test.tsv"
    assert told == [
        f"{file}: 1 of 4 queries has no passage judged above 0 and is left out: 'q4'",
        f"{file}: 1 of 4 queries is not judged and is left out: 'q3'",
    ]


def test_many_queries_that_are_left_out_are_counted(beir: Path):
    names = [f"q{i}" for i in range(1_005)]
    rows = [{"_id": name, "text": "a"} for name in names]
    (beir / "queries.jsonl").write_bytes(json_lines(rows))
    judged = "".join(f"{name}\tp1\t0\n" for name in names[1:5])
    (beir / "qrels" / "test.tsv").write_text(f"{HEADER}q0\tp1\t1\n{judged}")
    told: list[str] = []
    assert list(read_beir(beir, say=told.append).queries) == ["q0"]
    assert [message.partition(": ")[2] for message in told] == [
        "4 of 1,005 queries have no passage judged above 0 and are left out: "
        "'q1', 'q2', 'q3', ...",
        "1,000 of 1,005 queries are not judged and are left out: 'q5', 'q6', 'q7', ...",
    ]


def test_nothing_is_said_where_nothing_is_left_out(beir: Path):
    rows = [row for row in QUERIES if row["_id"] in ("q1", "q2")]
    (beir / "queries.jsonl").write_bytes(json_lines(rows))
    (beir / "qrels" / "test.tsv").write_text(HEADER + "q2\tp2\t2\nq1\tp1\t1\n")
    told: list[str] = []
    assert len(read_beir(beir, say=told.append).queries) == 2
    assert told == []


@pytest.mark.parametrize("stem", ["corpus", "queries"])
def test_a_missing_beir_file_says_which_names_were_looked_for(beir: Path, stem: str):
    (beir / f"{stem}.jsonl").unlink()
    names = f"{stem}.jsonl, {stem}.jsonl.gz or {stem}.jsonl.zst"
    message = f"{beir}: expected {names}, found none"
    with pytest.raises(InputError, match=message):
        read_beir(beir)


def test_a_missing_split_names_the_others(beir: Path):
    (beir / "qrels" / "train.tsv").write_text(QRELS)
    with pytest.raises(InputError) as caught:
        read_beir(beir, "dev")
    assert caught.value.where == str(beir / "qrels" / "dev.tsv")
    assert caught.value.do == "Splits in this folder: test, train."


def test_a_missing_qrels_folder(beir: Path):
    (beir / "qrels" / "test.tsv").unlink()
    (beir / "qrels").rmdir()
    with pytest.raises(InputError, match=r"test\.tsv: expected a file of judgements"):
        read_beir(beir)


def test_a_missing_beir_folder_gets_the_nearest_name(beir: Path):
    with pytest.raises(InputError, match=f"Did you mean {beir}/qrels"):
        read_beir(beir / "qrel")
    with pytest.raises(InputError, match="expected a folder in BEIR's layout, found a"):
        read_beir(beir / "corpus.jsonl")
