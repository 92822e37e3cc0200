import json
import pickle
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.records import Pairs
from m3jax.data.sources.lines import LineRows, open_lines
from m3jax.data.sources.nli import Grouped, open_nli


@dataclass(frozen=True)
class Listed:
    """Rows in memory."""

    listed: Sequence[Mapping[str, object]]
    name: str = "nli"

    @property
    def fingerprint(self) -> str:
        return json.dumps(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    def row(self, index: int) -> Mapping[str, object]:
        return self.listed[index]

    def where(self, index: int) -> str:
        return f"{self.name}:{index + 1}"

    def check(self) -> None:
        pass


def row(premise: str, hypothesis: str, label: object) -> dict[str, object]:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


ROWS = [
    row("b", "neutral only", 1),
    row("a", "a1", "Entailment"),
    row("c", "c1", 2),
    row("b", "b1", "contradiction"),
    row("a", "a2", None),
    row("b", "b2", 0),
    row("a", "a3", 0),
    row("d", "", -1),
    row("b", "b3", 2),
    row("a", "a4", "-"),
    row("c", "c2", "neutral"),
    row("a", "a1", 0),
    row("b", "b2", 2),
    row("b", "b3", 2),
]
EXPECTED = [Pairs("a", ("a1", "a3")), Pairs("b", ("b2",), ("b1", "b3"))]


def written(folder: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path = folder / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def opened(folder: Path, rows: Sequence[Mapping[str, object]] = ROWS) -> Grouped:
    lines = open_lines(written(folder, rows), root=folder / "cache")
    return open_nli(lines, folder / "cache")


def test_one_record_a_premise_that_entails_something(tmp_path: Path):
    for source in (open_nli(Listed(ROWS), tmp_path), opened(tmp_path)):
        # The first row of b is neutral, and counts for nothing.
        assert [source[i] for i in range(len(source))] == EXPECTED
        with pytest.raises(IndexError):
            source[2]
        with pytest.raises(IndexError):
            source[-1]
        assert source.where(1).endswith(":6")  # its first entailed row
    assert source.name == f"{tmp_path}/a.jsonl"


def test_premises_stay_in_the_order_of_the_file(tmp_path: Path):
    rows = [row(f"premise {i}", f"text {i}", 0) for i in range(50)]
    again = [row(f"premise {i}", f"more {i}", 2) for i in reversed(range(50))]
    source = open_nli(Listed(rows + again), tmp_path)
    expected = [
        Pairs(f"premise {i}", (f"text {i}",), (f"more {i}",)) for i in range(50)
    ]
    assert [source[i] for i in range(50)] == expected


LABELS = [0, 1, 2, -1, "entailment", "neutral", "contradiction", None]


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.builds(
            row,
            st.sampled_from("abcd"),
            st.sampled_from("pqrstu"),
            st.sampled_from(LABELS),
        ),
        max_size=25,
    )
)
def test_groups_are_those_of_a_dictionary(
    rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
):
    pos: dict[object, list[object]] = defaultdict(list)
    neg: dict[object, list[object]] = defaultdict(list)
    for one in rows:
        if one["label"] in (0, "entailment"):
            pos[one["premise"]].append(one["hypothesis"])
        if one["label"] in (2, "contradiction"):
            neg[one["premise"]].append(one["hypothesis"])
    expected = {
        premise: (set(texts), set(neg[premise]) - set(texts))
        for premise, texts in pos.items()
    }
    folder = tmp_path_factory.mktemp("nli")
    try:
        source = open_nli(Listed(rows), folder, ("premise", "hypothesis", "label"))
    except InputError as error:
        assert not expected
        assert str(error) == "nli: expected an entailed hypothesis, found none"
        return
    read = [source[i] for i in range(len(source))]
    assert {one.query: (set(one.pos), set(one.neg)) for one in read} == expected
    assert len(read) == len(expected)
    for one in read:
        assert len(set(one.pos + one.neg)) == len(one.pos + one.neg)


def test_raw_snli_and_columns_of_other_names(tmp_path: Path):
    raw = [
        {"gold_label": "-", "sentence1": "a", "sentence2": "x", "pairID": "0"},
        {"gold_label": "entailment", "sentence1": "a", "sentence2": "y", "pairID": "1"},
    ]
    assert opened(tmp_path, raw)[0] == Pairs("a", ("y",))
    foreign = [{"eins": "a", "zwei": "b", "urteil": 0}]
    columns = ["eins", "zwei", "urteil"]
    source = open_nli(Listed(foreign), tmp_path, columns)
    assert source[0] == Pairs("a", ("b",))
    with pytest.raises(InputError, match="nli: expected the columns premise, hypoth"):
        open_nli(Listed(foreign), tmp_path)


def test_it_survives_a_trip_to_another_process_and_is_small(tmp_path: Path):
    source = opened(tmp_path, ROWS * 100)
    source[0]
    packed = pickle.dumps(source)
    assert len(packed) < 2_000
    again = pickle.loads(packed)
    assert [again[i] for i in range(2)] == [source[i] for i in range(2)]


def test_the_grouping_is_kept_and_made_anew_for_another_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source = opened(tmp_path)
    assert isinstance(source.rows, LineRows)
    members = source.folder / "members.npy"
    before = members.stat().st_mtime_ns
    assert open_nli(source.rows, tmp_path / "cache") == source
    assert members.stat().st_mtime_ns == before
    content = bytearray(members.read_bytes())
    content[-8] ^= 1
    members.write_bytes(content)
    damaged = open_nli(source.rows, tmp_path / "cache")
    assert [damaged[i] for i in range(2)] == EXPECTED
    assert f"{tmp_path}/a.jsonl is damaged: rebuilt" in capsys.readouterr().err
    changed = opened(tmp_path, [row("new", "text", 0)])
    assert len(changed) == 1
    assert changed[0] == Pairs("new", ("text",))
    assert changed.fingerprint != source.fingerprint
    with pytest.raises(InputError, match="one that has changed since"):
        source.check()


def test_files_of_one_name_in_two_folders_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sources = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, [row(name, "text", 0)])
        monkeypatch.chdir(tmp_path / name)
        sources.append(open_nli(open_lines("a.jsonl", root=tmp_path), tmp_path))
    assert [source[0].query for source in sources] == ["one", "two"]
    assert all(source.folder.exists() for source in sources)


def test_settings_are_kept_apart(tmp_path: Path):
    rows = [row("a", "b", 0) | {"other": 2}, row("a", "c", 2) | {"other": 0}]
    one = open_nli(Listed(rows), tmp_path)
    two = open_nli(Listed(rows), tmp_path, ("premise", "hypothesis", "other"))
    assert one.fingerprint != two.fingerprint
    assert (one[0].pos, two[0].pos) == (("b",), ("c",))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("a", "b", "maybe"), "label: expected 0, 1, 2, entailment, neutral, contr"),
        (row("a", "b", 3), "label: expected 0, 1, 2, entailment, neutral, contradicti"),
        (row("a", "b", True), "label: expected 0, 1, 2, entailment, neutral, contradi"),
        (row("a", "b", [0]), "or -1, found a list"),
        (row("a", "", 0), "hypothesis: expected a text, found an empty string"),
        (row(" ", "b", 2), "premise: expected a text, found only white space"),
        ({"premise": "a", "label": 0}, "expected the key 'hypothesis', found only"),
        ({"premise": "a", "hypothesis": "b"}, "expected the key 'label', found only"),
    ],
)
def test_a_bad_row_stops_or_is_left_out(
    tmp_path: Path,
    bad: dict[str, object],
    message: str,
    capsys: pytest.CaptureFixture[str],
):
    rows = [*ROWS, bad, {"premise": 7}]
    with pytest.raises(InputError) as caught:
        opened(tmp_path, rows)
    assert str(caught.value).startswith(f"{tmp_path}/a.jsonl:{len(ROWS) + 1}: ")
    assert message in str(caught.value)
    lines = open_lines(written(tmp_path, rows), root=tmp_path)
    for _ in range(2):  # made, and found in the cache
        source = open_nli(lines, tmp_path, on_bad_row="skip")
        assert [source[i] for i in range(len(source))] == EXPECTED
        told = capsys.readouterr().err
        assert told.startswith(f"{tmp_path}/a.jsonl: 2 rows that cannot be read are le")
        assert str(caught.value) in told


def test_a_line_that_is_no_json_is_named_once(tmp_path: Path):
    path = written(tmp_path, ROWS)
    path.write_text(path.read_text() + "\n{]")
    with pytest.raises(InputError) as caught:
        open_nli(open_lines(path, root=tmp_path), tmp_path)
    assert str(caught.value).startswith(f"{path}:15: expected a line of JSON")


def test_a_row_that_changed_since_is_named(tmp_path: Path):
    source = open_nli(Listed(ROWS), tmp_path)
    rows = [row("a", "", 0)] * len(ROWS)
    changed = Grouped(Listed(rows), source.columns, source.folder, "")
    with pytest.raises(InputError, match="nli:2: hypothesis: expected a text"):
        changed[0]
