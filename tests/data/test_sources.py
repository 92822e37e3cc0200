import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data import sources
from m3jax.data.records import Pairs, content_hash
from m3jax.data.sources import hold_out, lines, read_beir, read_pairs

ROW = b'{"query": "q", "pos": ["p"]}\n'


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_reads_plain_and_gzip_whatever_the_name(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str
):
    path = tmp_path / name
    path.write_bytes(pack("\ufeff1\r\n\n \t\r\n{né}\n3".encode()))
    expected = [(1, b"1"), (4, "{né}".encode()), (5, b"3")]
    assert list(lines(path)) == [(f"{path}:{n}", line) for n, line in expected]


def test_lines_keeps_unicode_line_separators_inside_a_line(tmp_path: Path):
    text = json.dumps({"query": "a\u2028b\x0c", "pos": ["c"]}, ensure_ascii=False)
    (tmp_path / "a").write_text(text, encoding="utf-8")
    assert read_pairs(tmp_path / "a") == [Pairs("a\u2028b\x0c", ("c",))]


def test_read_pairs_keeps_the_order(tmp_path: Path):
    rows = [Pairs(f"q{i}", (f"p{i}",), ("n",) * i) for i in range(5)]
    text = "\n".join(json.dumps(vars(row)) for row in rows)
    (tmp_path / "a").write_text(text)
    assert read_pairs(str(tmp_path / "a")) == rows


def test_a_bad_line_is_named_as_the_user_named_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(ROW + b"\n" + ROW + b'{"query": "q", "pos": [1]}\n')
    with pytest.raises(InputError, match=r"^a\.jsonl:4: pos\[0\]: expected a string"):
        read_pairs("a.jsonl")


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path):
    (tmp_path / "train.jsonl").write_bytes(ROW)
    (tmp_path / "other.csv").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "trian.jsonl")
    assert str(caught.value) == (
        f"{tmp_path}/trian.jsonl: expected a file, found nothing of that name. "
        f"Did you mean {tmp_path}/train.jsonl?"
    )
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path / "unlike")
    assert caught.value.do == ""


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=f"There is no folder {tmp_path}/no.$"):
        read_pairs(tmp_path / "no" / "a.jsonl")


def test_a_folder_is_no_file(tmp_path: Path):
    with pytest.raises(InputError, match="expected a file, found a folder"):
        read_pairs(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path):
    (tmp_path / "a").write_bytes(ROW)
    with pytest.raises(InputError, match="a file where its folder should be"):
        read_pairs(tmp_path / "a" / "b")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object):
        raise PermissionError

    # Permissions do not stop root, who runs the tests in a container.
    monkeypatch.setattr(sources, "open", refuse, raising=False)
    with pytest.raises(InputError, match="a: expected a file, found one that may not"):
        read_pairs(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_a_file_without_rows(tmp_path: Path, content: bytes):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="a: expected a row a line, found an empty"):
        read_pairs(tmp_path / "a")


WHOLE = b"".join(b'{"query": "%d", "pos": ["p"]}\n' % i for i in range(9_000))


def cut(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


def wrong_checksum(packed: bytes) -> bytes:
    return packed[:-8] + bytes(4) + packed[-4:]


def append(packed: bytes) -> bytes:
    return packed + b"tail"


def not_deflate(packed: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    start = packer.compress(WHOLE[:100_000]) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + b"\xff" * 9  # no block begins like this


@pytest.mark.parametrize("damage", [cut, wrong_checksum, append, not_deflate])
def test_a_damaged_gzip_names_the_last_good_line(
    tmp_path: Path, damage: Callable[[bytes], bytes]
):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(WHOLE)))
    read = []
    with pytest.raises(InputError) as caught:
        for _, line in lines(path):
            read.append(line)
    assert caught.value.where == str(path)
    assert f"damaged after line {len(read)} (" in caught.value.found
    assert len(read) > 1_000
    assert read == WHOLE.splitlines()[: len(read)]
    with pytest.raises(InputError, match="expected a whole gzip file"):
        read_pairs(path)


# BEIR folders


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


def test_read_beir_reads_gzip(beir: Path):
    plain = read_beir(beir)
    for name in ["corpus.jsonl", "queries.jsonl"]:
        file = beir / name
        (beir / f"{name}.gz").write_bytes(gzip.compress(file.read_bytes()))
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
            "corpus.jsonl:2: _id: expected a new _id, found 'p' again",
        ),
        (
            "queries.jsonl",
            b'{"_id": 1, "text": "a"}',
            "queries.jsonl:1: _id: expected a string, found a number",
        ),
        (
            "queries.jsonl",
            b'{"_id": "q", "text": "a"}\n\n{"_id": "q", "text": "b"}',
            "queries.jsonl:3: _id: expected a new _id, found 'q' again",
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
            "test.tsv:2: score: expected an integer, found '0.5'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t\xff",
            "test.tsv:2: expected UT",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q9\tp1\t1",
            "test.tsv:2: query-id: expected the _id of a query, found 'q9'",
        ),
        (
            "qrels/test.tsv",
            HEADER.encode() + b"q1\tp1\t1\nq1\tp9\t0",
            "test.tsv:3: corpus-id: expected the _id of a passage, found 'p9'",
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
def test_a_missing_beir_file_says_which_names_were_looked_for(beir: Path, stem: str):
    (beir / f"{stem}.jsonl").unlink()
    message = f"{beir}: expected {stem}.jsonl or {stem}.jsonl.gz, found neither"
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


# The held-out share


def number(query: str) -> int:
    return int.from_bytes(content_hash(query), "big")


def many_rows() -> list[Pairs]:
    rows = [Pairs(f"query {i}", (f"answer {i}",), ("none",)) for i in range(2_000)]
    return rows + [Pairs(f"query {i}", (f"more {i}", "none")) for i in range(0, 99, 3)]


def test_hold_out_takes_every_row_of_the_queries_with_low_hashes():
    rows = many_rows()
    train, dev = hold_out(rows, share=0.1)
    low = {row.query for row in rows if number(row.query) < 0.1 * 2**64}
    assert set(dev.queries.values()) == low
    assert train == [row for row in rows if row.query not in low]
    assert 150 < len(low) < 250


def test_hold_out_judges_all_positives_and_offers_negatives():
    rows = [
        Pairs("q", ("p1",), ("n1", "shared")),
        Pairs("q", ("p2",), ("n1",)),
        Pairs("other", ("shared",)),
    ]
    train, dev = hold_out(rows, share=1)
    ids = {text: content_hash(text).hex() for text in ["p1", "n1", "shared", "p2"]}
    q, other = content_hash("q").hex(), content_hash("other").hex()
    assert train == []
    assert dev.queries == {q: "q", other: "other"}
    assert dev.corpus == {key: text for text, key in ids.items()}
    assert dev.qrels == {
        q: {ids["p1"]: 1, ids["p2"]: 1},
        other: {ids["shared"]: 1},
    }


def test_hold_out_does_not_depend_on_order_or_on_other_rows():
    rows = many_rows()
    shuffled = random.Random(0).sample(rows, len(rows))
    half = [row for row in rows if int(row.query.split()[1]) < 1_000]
    dev, of_shuffled, of_half = (
        hold_out(some, share=0.1)[1] for some in (rows, shuffled, half)
    )
    assert dev == of_shuffled
    assert set(of_half.queries) < set(dev.queries)
    in_both = set(dev.queries.values()) & {row.query for row in half}
    assert set(of_half.queries.values()) == in_both


def test_hold_out_keeps_the_smallest_hashes_and_trains_on_the_rest():
    rows = many_rows()
    train, dev = hold_out(rows, share=0.1, at_most=7)
    smallest = sorted({row.query for row in rows}, key=number)[:7]
    assert sorted(dev.queries.values(), key=number) == smallest
    assert len(train) == len(rows) - sum(row.query in smallest for row in rows)


def test_hold_out_at_the_ends_of_share():
    rows = many_rows()
    train, dev = hold_out(rows, share=0)
    assert train == rows and dev.queries == dev.corpus == dev.qrels == {}
    assert hold_out(rows, share=1, at_most=len(rows))[0] == []


@pytest.mark.parametrize("share", [2, -0.1, float("nan")])
def test_hold_out_refuses_what_is_no_share(share: float):
    with pytest.raises(InputError, match="share: expected a share from 0 to 1"):
        hold_out([], share=share)
