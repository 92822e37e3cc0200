import gzip
import json
import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data.records import Pairs
from m3jax.data.retrieval import read_beir
from m3jax.data.sources.beir import Judged, open_beir

CORPUS = [
    {"_id": "p1", "title": "Sum", "text": "It is 4."},
    {"_id": "p2", "title": "", "text": "It is 5."},
    {"_id": "p3", "text": "No title.", "metadata": {}},
    {"_id": "p4", "title": None, "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "2 + 2?"},
    {"_id": "q2", "text": "2 + 3?", "title": "not part of a query", "lang": "en"},
    {"_id": "q3", "text": "never judged"},
    {"_id": "q4", "text": "judged, but nothing answers"},
]
HEADER = "query-id\tcorpus-id\tscore\n"
QRELS = "q2\tp3\t0\nq2\tp2\t2\nq1\tp1\t1\nq1\tp2\t-1\nq4\tp1\t0\nq1\tp4\t0\nq1\tp3\t1\n"
EXPECTED = [
    Pairs("2 + 3?", ("It is 5.",), ("No title.",), language="en"),
    Pairs("2 + 2?", ("Sum It is 4.", "No title."), ("It is 5.", "")),
]


def json_lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_bytes(json_lines(CORPUS))
    (tmp_path / "queries.jsonl").write_bytes(json_lines(QUERIES))
    (tmp_path / "qrels" / "train.tsv").write_text(HEADER + QRELS)
    return tmp_path


def opened(folder: Path, split: str = "train") -> Judged:
    return open_beir(folder, split, folder / "cache")


def all_of(source: Judged) -> list[Pairs]:
    return [source[index] for index in range(len(source))]


def test_a_query_with_its_judged_passages(folder: Path):
    source = opened(folder)
    assert all_of(source) == EXPECTED
    assert source.name == str(folder)
    assert source.where(1) == f"{folder}/queries.jsonl:1"
    for index in (-1, 2):
        with pytest.raises(IndexError):
            source[index]


def test_a_later_judgement_of_the_same_counts(folder: Path):
    later = "q2\tp3\t1\nq2\tp2\t0\nq4\tp2\t1\nq4\tp2\t0\n"
    (folder / "qrels" / "train.tsv").write_text(HEADER + QRELS + later)
    first, second = all_of(opened(folder))
    assert first == Pairs("2 + 3?", ("No title.",), ("It is 5.",), language="en")
    assert second == EXPECTED[1]


def zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstd)])
def test_packed_files(folder: Path, ending: str, pack: Callable[[bytes], bytes]):
    for name in ("corpus.jsonl", "queries.jsonl"):
        packed = pack((folder / name).read_bytes())
        (folder / f"{name}{ending}").write_bytes(packed)
        (folder / name).unlink()
    source = opened(folder)
    assert all_of(source) == EXPECTED
    assert source.where(0) == f"{folder}/queries.jsonl{ending}:2"


def test_it_agrees_with_the_whole_task_in_memory(folder: Path):
    rng = random.Random(0)
    corpus = [{"_id": f"p{i}", "text": f"passage {i}"} for i in range(300)]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(50)]
    (folder / "corpus.jsonl").write_bytes(json_lines(corpus))
    (folder / "queries.jsonl").write_bytes(json_lines(queries))
    pairs = rng.sample([(q, p) for q in range(50) for p in range(300)], 200)
    judged = [f"q{q}\tp{p}\t{rng.choice([0, 0, 0, 1, 2])}\n" for q, p in pairs]
    (folder / "qrels" / "train.tsv").write_text(HEADER + "".join(judged))
    task = read_beir(folder, "train")
    expected = [
        Pairs(
            task.queries[query],
            tuple(task.corpus[name] for name in grades if grades[name] > 0),
            tuple(task.corpus[name] for name in grades if grades[name] == 0),
        )
        for query, grades in task.qrels.items()
    ]
    assert all_of(opened(folder)) == expected
    assert 10 < len(expected) < 50


def test_it_survives_a_trip_to_another_process_and_is_small(folder: Path):
    source = opened(folder)
    source[0]
    packed = pickle.dumps(source)
    assert len(packed) < 3_000
    assert all_of(pickle.loads(packed)) == EXPECTED


def test_ids_are_kept_for_another_split(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    source = opened(folder)
    (folder / "qrels" / "dev.tsv").write_text(HEADER + "q3\tp1\t1\n")
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("cache/**/*.npy")}
    assert len(made) > 6
    dev = opened(folder, "dev")
    assert all_of(dev) == [Pairs("never judged", ("Sum It is 4.",))]
    assert dev.fingerprint != source.fingerprint
    assert opened(folder) == source
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert capsys.readouterr().err == ""


def test_a_damaged_index_is_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    source = opened(folder)
    passages = source.folder / "passages.npy"
    passages.write_bytes(passages.read_bytes()[:-8])
    assert all_of(opened(folder)) == EXPECTED
    told = f"index of {folder}/qrels/train.tsv is damaged: rebuilt\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_a_file_that_changes_under_a_running_job(folder: Path, name: str):
    source = opened(folder)
    source.check()
    with open(folder / name, "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=f"{name}: expected the file as it was when"):
        source.check()
    again = opened(folder)
    again.check()
    assert all_of(again) == EXPECTED
    assert again.fingerprint != source.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", b'{"_id": "p1", "text": "a"}\n{]', ":2: expected a line of"),
        ("corpus.jsonl", b"[]", ":1: expected a JSON object, found a list"),
        ("corpus.jsonl", b"\n", ": expected a row a line, found an empty file"),
        ("corpus.jsonl", b'{"id": "p"}', ":1: expected the key '_id', found only 'id'"),
        (
            "corpus.jsonl",
            b'{"_id": "p"}\n{"_id": "r"}\n\n{"_id": "r"}\n{"_id": "p"}',
            ":4: _id: expected a new _id, found 'r' again",
        ),
        ("queries.jsonl", b'{"_id": 1}', ":1: _id: expected a string, found a number"),
        (
            "queries.jsonl",
            b'{"_id": "q"}\n{"_id": "q"}',
            ":2: _id: expected a new _id, found 'q' again",
        ),
        ("qrels/train.tsv", b"q1\tp1\t1\n", ":1: expected the header 'query-id corpu"),
        (
            "qrels/train.tsv",
            b"",
            ": expected a query with an answer, found no judgement",
        ),
        (
            "qrels/train.tsv",
            HEADER.encode(),
            ": expected a query with an answer, found",
        ),
        (
            "qrels/train.tsv",
            HEADER.encode() + b"q1\tp1\t0\nq2\tp1\t-1",
            ": expected a query with an answer, found no judgement above 0",
        ),
        (
            "qrels/train.tsv",
            HEADER.encode() + b"q1\tp1\t1\n\nq9\tp1\t1",
            ":4: query-id: expected the _id of a query, found 'q9'",
        ),
        (
            "qrels/train.tsv",
            HEADER.encode() + b"q1\tp1\t1\nq1\tp9\t0\nq9\tp1\t1",
            ":3: corpus-id: expected the _id of a passage, found 'p9'",
        ),
    ],
)
def test_a_bad_file_is_named_with_line_and_key(
    folder: Path, name: str, content: bytes, message: str
):
    (folder / name).write_bytes(content)
    for _ in range(2):  # nothing half-made is left behind
        with pytest.raises(InputError) as caught:
            opened(folder)
        assert str(caught.value).startswith(f"{folder}/{name}{message}")


@pytest.mark.parametrize(
    ("name", "content", "index", "message"),
    [
        (
            "queries.jsonl",
            QUERIES[0] | {"text": " "},
            1,
            ":1: text: expected a text, fo",
        ),
        ("queries.jsonl", {"_id": "q1"}, 1, ":1: expected the key 'text', found only"),
        (
            "corpus.jsonl",
            {"_id": "p1", "text": "", "title": ""},
            1,
            ":1: text: expected a text, found an empty string",
        ),
        (
            "corpus.jsonl",
            {"_id": "p1", "text": "a", "title": 3},
            1,
            ":1: title: expected a string, found a number",
        ),
    ],
)
def test_a_bad_text_is_named_when_it_is_read(
    folder: Path, name: str, content: dict[str, object], index: int, message: str
):
    lines = (folder / name).read_bytes().split(b"\n")
    (folder / name).write_bytes(b"\n".join([json.dumps(content).encode(), *lines[1:]]))
    source = opened(folder)
    assert source[0] == EXPECTED[0]
    with pytest.raises(InputError) as caught:
        source[index]
    assert str(caught.value).startswith(f"{folder}/{name}{message}")


def test_missing_files(folder: Path):
    with pytest.raises(InputError) as caught:
        opened(folder, "dev")
    assert caught.value.do == "Splits in this folder: train."
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"or corpus\.jsonl\.zst, found none"):
        opened(folder)
    with pytest.raises(
        InputError, match="expected a folder in BEIR's layout, found no"
    ):
        opened(folder / "no")
