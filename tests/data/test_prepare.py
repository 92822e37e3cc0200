"""Data sets turned into shards of tokens."""

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.data import tokenised, tokenize
from m3jax.data.config import Dataset
from m3jax.data.prepare import Texts, prepare
from m3jax.data.records import Labelled, Pairs, Scored, Text, content_hash
from m3jax.data.sources.array_records import Prepared, open_prepared
from m3jax.data.sources.base import Source
from m3jax.data.sources.listed import listed
from m3jax.data.sources.open import open_source
from m3jax.testing import TEXTS, tiny_tokenizer, write_jsonl

GOLDEN = Path(__file__).parent / "golden"
ROWS = [
    {"query": f"{text[:9]} {i}", "pos": [text], "neg": [text[5:], text[:20]]}
    for i, text in enumerate(TEXTS * 4)
]


def source(folder: Path, rows: Any = ROWS, **fields: Any) -> Source:
    path = folder / "a.jsonl"
    new = write_jsonl(folder / "new.jsonl", rows)
    if not path.exists() or path.read_bytes() != new.read_bytes():
        new.rename(path)
    return open_source(Dataset(str(path), **fields), cache_folder=str(folder / "cache"))


def call(folder: Path, given: Source | None = None, **options: Any) -> Prepared:
    options = {"root": folder / "cache", "show": False, "processes": 0} | options
    tokenizer = options.pop("tokenizer", None) or tiny_tokenizer()
    given = source(folder) if given is None else given
    return prepare(given, tokenizer, folder / "out", **options)


def content(prepared: Prepared) -> list[Any]:
    return [prepared[i] for i in range(len(prepared))]


def ids(tokenizer: tokenize.Tokenizer, text: str, length: int) -> Any:
    (found,) = tokenize.encode(tokenizer, [text], max_length=length)
    return tokenised.TokenText(found, content_hash(text.removeprefix("q: ")))


def test_rows_are_tokens(tmp_path: Path) -> None:
    texts = Texts("q: ", "", 12, 16)
    found = call(tmp_path, texts=texts, shards=5)
    tokenizer = tiny_tokenizer()
    assert (len(found), found.kind, found.bad_rows) == (12, "pairs", 0)
    for record, row in zip(content(found), ROWS, strict=True):
        passages = [ids(tokenizer, text, 16) for text in (*row["pos"], *row["neg"])]
        expected: Any = Pairs(
            ids(tokenizer, f"q: {row['query']}", 12), (passages[0],), (*passages[1:],)
        )
        assert record == expected
    long = tokenize.encode_counted(
        tokenizer, [r["pos"][0] for r in ROWS], max_length=16
    )
    assert found.cut_passages >= long[1] == 12
    assert found.tokenizer == tokenised.tokenizer_digest(tokenizer)
    assert (found.query_prompt, found.query_length, found.passage_length) == (
        "q: ",
        12,
        16,
    )
    assert found.records.ends == (2, 4, 7, 9, 12)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    shards = [f"shard-{at:05d}-of-00005.array_record" for at in range(5)]
    assert names == ["prepared.json", *shards]
    about = json.loads((tmp_path / "out" / "prepared.json").read_text())
    sizes = [[len(t) for t in tokenised.texts_of(one)] for one in content(found)]
    assert about["tokens"]["queries"] == sum(size[0] for size in sizes)
    assert about["tokens"]["passages"] == sum(sum(size[1:]) for size in sizes)


def test_shortened_texts_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    short = call(tmp_path, texts=Texts(passage_length=9))
    shutil.rmtree(tmp_path / "out")
    whole = call(tmp_path)
    for one, other in zip(content(short), content(whole), strict=True):
        cut = [tokenised.shorten(text, 9, end=whole.end_tokens) for text in other.pos]
        assert [*one.pos] == cut


@pytest.mark.parametrize(
    "record",
    [
        Text("salt and sea", language="en"),
        Scored("salt", "sea", 0.25),
        Labelled("salt", "food"),
        Pairs("salt", ("sea",), (), (0.5,), None, "own: "),
    ],
)
def test_every_kind(tmp_path: Path, record: Any) -> None:
    found = call(
        tmp_path, listed("mine", [record]), texts=Texts("query: ", "passage: ")
    )
    texts = tokenised.texts_of(record)
    first = (getattr(record, "prompt", None) or "query: ") + texts[0]
    given = [first, *(f"passage: {text}" for text in texts[1:])]
    made = tokenize.encode(tiny_tokenizer(), given, max_length=512)
    new = [
        tokenised.TokenText(one, content_hash(text))
        for one, text in zip(made, texts, strict=True)
    ]
    assert found[0] == tokenised.with_texts(record, new)
    assert found.kind == type(record).__name__.lower()


def test_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    whole = content(call(tmp_path, shards=4))
    shutil.rmtree(tmp_path / "out")
    stopped: list[str] = []

    def stop(message: str) -> None:
        stopped.append(message)
        if len(stopped) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, shards=4, say=stop)
    with pytest.raises(InputError, match=r"with prepared\.json, found none"):
        open_prepared(tmp_path / "out")
    left = [p for p in (tmp_path / "out").glob("*.array_record")]
    times = {path: path.stat().st_mtime_ns for path in left}
    assert len(times) == 2
    # One that was damaged since is written again, the other is kept.
    damaged, kept = sorted(times)
    damaged.write_bytes(b"")
    (tmp_path / "out" / ".shard-00002-of-00004.array_record.7.tmp").write_bytes(b"left")
    said: list[str] = []
    found = call(tmp_path, shards=4, say=said.append)
    assert content(found) == whole
    assert said[0] == f"{kept.name}: was there" and len(said) == 4
    assert kept.stat().st_mtime_ns == times[kept]
    assert len(list((tmp_path / "out").iterdir())) == 5
    # And all of it the third time.
    said.clear()
    assert content(call(tmp_path, shards=4, say=said.append)) == whole
    assert said == [f"{tmp_path}/out: all shards were there"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    call(tmp_path, shards=2, texts=Texts(query_length=20))
    with pytest.raises(InputError) as error:
        call(tmp_path, shards=3, texts=Texts("q: ", query_length=20))
    assert str(error.value) == (
        f"{tmp_path}/out: expected the settings that this folder was begun with, found "
        "others: query_prompt:  -> q: , shards: 2 -> 3. Ask for the same, name another "
        "folder, or start anew (--fresh)."
    )
    with pytest.raises(InputError, match="others: tokenizer: "):
        other = tiny_tokenizer(["other words in it"])
        call(tmp_path, shards=2, texts=Texts(query_length=20), tokenizer=other)
    # Also in a folder that is not whole.
    (tmp_path / "out" / "prepared.json").rename(tmp_path / "out" / "unfinished.json")
    with pytest.raises(InputError, match="others: shards: 2 -> 3"):
        call(tmp_path, shards=3, texts=Texts(query_length=20))
    found = call(tmp_path, shards=3, fresh=True)
    assert len(found.records.files) == 3
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_source_that_changed(tmp_path: Path) -> None:
    call(tmp_path)
    with pytest.raises(
        InputError, match=r"expected .*a\.jsonl as it was when this fold"
    ):
        call(tmp_path, source(tmp_path, ROWS[1:]))
    given = source(tmp_path)

    def change(rows: int) -> None:
        write_jsonl(tmp_path / "a.jsonl", ROWS[2:])

    with pytest.raises(InputError, match=r"a\.jsonl: expected the file as it was"):
        call(tmp_path, given, fresh=True, show=change)
    assert not list((tmp_path / "out").glob("*.array_record"))


def test_bad_rows(tmp_path: Path) -> None:
    rows = [*ROWS[:3], {"query": "no answer"}, *ROWS[3:], {"query": "", "pos": ["a"]}]
    with pytest.raises(InputError, match=r"a\.jsonl:4: "):
        call(tmp_path, source(tmp_path, rows))
    assert not (tmp_path / "out").exists()
    found = call(tmp_path, source(tmp_path, rows), on_bad_row="skip", shards=2)
    assert (len(found), found.bad_rows) == (12, 2)
    about = json.loads((tmp_path / "out" / "prepared.json").read_text())
    assert "a.jsonl:4: " in about["bad_rows"]["reasons"][0]
    shutil.rmtree(tmp_path / "out")
    assert content(found := call(tmp_path, shards=2)) and found.bad_rows == 0


def test_refusals(tmp_path: Path) -> None:
    for options, message in [
        ({"shards": 0}, "shards: expected a positive number, found 0"),
        ({"shards": 13}, "shards: expected at most 12, one a row, found 13"),
        ({"processes": -1}, "processes: expected a number, 0 for none, found -1"),
        ({"texts": Texts(query_length=2)}, "query_length: expected at least 3 tokens"),
        ({"texts": Texts(passage_length=0)}, "passage_length: expected at least 3 tok"),
    ]:
        with pytest.raises(InputError, match=message):
            call(tmp_path, **options)
    assert not (tmp_path / "out").exists()
    found = call(tmp_path)
    with pytest.raises(
        InputError, match="expected texts, found a folder that was prep"
    ):
        call(tmp_path, found)


def test_folders_of_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("mine")
    with pytest.raises(InputError, match="or one that was begun before, found a file"):
        call(tmp_path)
    out.unlink()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"found other files: mine\.txt\. Name another"
    ):
        call(tmp_path, fresh=True)
    assert (out / "mine.txt").exists()
    (out / "mine.txt").rename(out / "shard-00000-of-00001.array_record")
    with pytest.raises(InputError, match=r"found shards and no unfinished\.json"):
        call(tmp_path)
    (out / "unfinished.json").write_text("{")
    with pytest.raises(InputError, match=r"unfinished\.json: expected what was asked"):
        call(tmp_path)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(
        InputError, match=r"out: expected about 4,\d\d\d bytes of free spac"
    ):
        call(tmp_path)
    assert not list((tmp_path / "out").iterdir())
    # What was finished before stays.
    monkeypatch.undo()
    out = tmp_path / "out"
    call(tmp_path, shards=2)
    shard = out / "shard-00001-of-00002.array_record"
    (out / "prepared.json").rename(out / "unfinished.json")
    counts = {"rows": 6, "cut": {}, "tokens": {}, "bytes": shard.stat().st_size}
    shard.with_suffix(".json").write_text(json.dumps(counts))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(InputError, match="bytes of free space"):
        call(tmp_path, shards=2)
    assert shard.exists() and (out / "unfinished.json").exists()


def test_bad_rows_are_told(tmp_path: Path) -> None:
    told: list[str] = []
    rows: Any = [*ROWS, *[{"query": "", "pos": ["a"]}] * 4]
    given = source(tmp_path, rows, on_bad_row="skip")
    call(tmp_path, given, on_bad_row="skip", say=told.append)
    place = f"{tmp_path}/a.jsonl"
    assert told[0].startswith(f"skipped: {place}:{len(ROWS) + 1}: query: expected a te")
    of = f"4 of {len(rows)} rows of {place}, the first 3 are above"
    assert told[3] == f"skipped: {of}"
