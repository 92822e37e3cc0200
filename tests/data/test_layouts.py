import dataclasses
import json
import math
import pickle
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.data.fields import json_object
from m3jax.data.layouts import LAYOUTS, find, parse
from m3jax.data.records import Labelled, Pairs, Record, Scored, Text

WHERE = "a.jsonl:17"

# JSON cannot carry half a surrogate pair, and a blank text is an error of its own.
texts = st.text(st.characters(exclude_categories=["Cs"]))
words = texts.filter(str.strip)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw: st.DrawFn) -> Pairs:
    pos = draw(st.lists(words, min_size=1, max_size=3))
    neg = draw(st.lists(texts, max_size=3))

    def scores(count: int) -> st.SearchStrategy[tuple[float, ...] | None]:
        return st.none() | st.tuples(*[numbers] * count)

    return Pairs(
        query=draw(words),
        pos=tuple(pos),
        neg=tuple(neg),
        pos_scores=draw(scores(len(pos))),
        neg_scores=draw(scores(len(neg))),
        prompt=draw(st.none() | texts),
        language=draw(st.none() | words),
    )


@settings(deadline=None)
@given(row=rows(), ascii_only=st.booleans(), as_bytes=st.booleans())
def test_parse_gives_back_what_json_was_made_from(
    row: Pairs, ascii_only: bool, as_bytes: bool
):
    line = json.dumps(dataclasses.asdict(row), ensure_ascii=ascii_only)
    assert parse(line.encode() if as_bytes else line, where=WHERE) == row


@settings(deadline=None)
@given(row=rows())
def test_parse_ignores_other_keys_and_reads_null_as_absent(row: Pairs):
    given_ = dataclasses.asdict(row)
    extra = {"id": 7, "type": "symmetric_sts", "more": {"query": None}}
    assert parse(json.dumps(given_ | extra), where=WHERE) == row
    names = ["neg", "pos_scores", "neg_scores", "prompt", "language"]
    optional = dict.fromkeys(names)
    short = {"query": row.query, "pos": row.pos}
    expected = Pairs(row.query, row.pos)
    assert parse(json.dumps(short), where=WHERE) == expected
    assert parse(json.dumps(short | optional), where=WHERE) == expected


def test_scores_are_floats_also_where_json_has_integers():
    row = parse('{"query": "q", "pos": ["p"], "pos_scores": [1]}', where=WHERE)
    assert isinstance(row, Pairs)
    assert row.pos_scores is not None
    assert [type(score) for score in row.pos_scores] == [float]


def bad(**changes: object) -> str:
    return json.dumps({"query": "q", "pos": ["p", "r"], "neg": ["n"]} | changes)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "\xff"}', "expected UTF-8, found byte 0xff at offset 11 of the"),
        ('{"query": "q",}', "expected a line of JSON, found "),
        ("", "expected a line of JSON, found an error at column 1 (Expecting value)"),
        ('{"a": 1} {"b": 2}', "found an error at column 10 (Extra data)"),
        ("[" * 100_000, "expected a line of JSON, found maximum recursion depth"),
        ('{"id": ' + "1" * 5_000 + "}", "expected a line of JSON, found Exceeds"),
        ('["query", "pos"]', "expected a JSON object, found a list"),
        ("null", "expected a JSON object, found null"),
        ("{}", "expected the columns of a known layout, found an empty row"),
        ('{"text": "t", "pos": ["p"]}', "a known layout, found the columns text, pos"),
        (bad(query=1), "query: expected a string, found a number"),
        (bad(query=["q"]), "query: expected a string, found a list"),
        (bad(query=None), "query: expected a string, found null"),
        (bad(query=""), "query: expected a text, found an empty string"),
        (bad(query=" \n\u3000"), "query: expected a text, found only white space"),
        (bad(query="\ud800"), "query: expected Unicode text, found half of a surrog"),
        (bad(pos=[]), "pos: expected at least one text, found an empty list"),
        (bad(pos=None), "pos: expected a list of strings, found null"),
        (
            bad(pos="p"),
            "pos: expected a list of strings, found a string. Put it in a l",
        ),
        (bad(pos={"a": "b"}), "pos: expected a list of strings, found an object"),
        (bad(pos=["p", True]), "pos[1]: expected a string, found a boolean"),
        (bad(pos=["p", None]), "pos[1]: expected a string, found null"),
        (bad(pos=["p", ["r"]]), "pos[1]: expected a string, found a list"),
        (bad(pos=["p", "\t"]), "pos[1]: expected a text, found only white space"),
        (bad(pos=["", "r"]), "pos[0]: expected a text, found an empty string"),
        (
            bad(neg="n"),
            "neg: expected a list of strings, found a string. Put it in a l",
        ),
        (bad(neg=3.5), "neg: expected a list of strings, found a number"),
        (bad(neg=["n", {}]), "neg[1]: expected a string, found an object"),
        (bad(neg=["\udc00"]), "neg[0]: expected Unicode text"),
        (bad(pos_scores=[1]), "pos_scores: expected 2 scores, one a text, found 1"),
        (bad(neg_scores=[1, 2]), "neg_scores: expected 1 scores, one a text, found 2"),
        (bad(pos_scores=0.5), "pos_scores: expected a list of numbers, found a number"),
        (bad(pos_scores=[1, "2"]), "pos_scores[1]: expected a number, found a string"),
        (bad(pos_scores=[1, True]), "pos_scores[1]: expected a number, found a bool"),
        (bad(neg_scores=[None]), "neg_scores[0]: expected a number, found null"),
        (
            bad(neg_scores=[math.nan]),
            "neg_scores[0]: expected a finite number, found n",
        ),
        (
            bad(neg_scores=[-math.inf]),
            "neg_scores[0]: expected a finite number, found -",
        ),
        (bad(neg_scores=[10**400]), "neg_scores[0]: expected a finite number, found i"),
        (bad(prompt=1), "prompt: expected a string, found a number"),
        (bad(prompt=["p"]), "prompt: expected a string, found a list"),
    ],
)
def test_a_bad_line_names_file_line_key_and_fault(line: bytes | str, message: str):
    with pytest.raises(InputError) as caught:
        parse(line, where=WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert message in str(caught.value)


@settings(deadline=None)
@given(value=st.none() | st.booleans() | st.floats() | st.text())
def test_only_an_object_is_an_object(value: object):
    with pytest.raises(InputError, match=r"a.jsonl:17: expected a JSON object"):
        json_object(json.dumps(value), where=WHERE)


@settings(deadline=None)
@given(line=st.binary())
def test_any_bytes_are_a_row_or_an_input_error(line: bytes):
    try:
        assert isinstance(parse(line, where=WHERE), Record)
    except InputError as error:
        assert WHERE in error.where


# Every layout


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def passage(text: str, **more: object) -> dict[str, object]:
    return {"docid": "7", "text": text} | more


EXAMPLES: list[tuple[str, Mapping[str, object], Record]] = [
    (
        "flagembedding",
        {"query": "q", "pos": ["p"], "neg": ["n"], "lang": "ko"},
        Pairs("q", ("p",), ("n",), language="ko"),
    ),
    (
        "tevatron",
        {
            "query_id": "1",
            "query": "q",
            "positive_passages": [passage("p", title="t"), passage("r", title=None)],
            "negative_passages": [passage("n", title="")],
        },
        Pairs("q", ("t p", "r"), ("n",)),
    ),
    (
        "tevatron",
        {"query_text": "q", "positive_passages": [passage("p")], "language": "en"},
        Pairs("q", ("p",), language="en"),
    ),
    (
        "messages",
        {
            "messages": user("q"),
            "positive_messages": [user("p")],
            "negative_messages": [user("n"), user("m")],
            "images": [],
            "positive_images": [[]],
        },
        Pairs("q", ("p",), ("n", "m")),
    ),
    (
        "messages",
        {
            "messages": [{"role": "system", "content": "Find it."}, *user("q")],
            "positive_messages": [
                [{"role": "system", "content": "Told:"}, *user("p")],
            ],
            "negative_messages": [[{"role": "assistant", "content": "n"}]],
        },
        Pairs("q", ("Told: p",), ("n",), prompt="Find it. "),
    ),
    (
        "messages",
        {"messages": user("q"), "positive_messages": [user("p")], "label": 0.8},
        Scored("q", "p", 0.8),
    ),
    (
        "messages",
        {
            "messages": [{"role": "system", "content": "Find it."}, *user("q")],
            "positive_messages": [user("p")],
            "label": 1,
        },
        Scored("Find it. q", "p", 1.0),
    ),
    ("pairs", {"anchor": "q", "positive": "p"}, Pairs("q", ("p",))),
    ("pairs", {"question": "q", "answer": "p", "id": 3}, Pairs("q", ("p",))),
    (
        "pairs",
        {"query": "q", "positive": ["p", "r"], "negative": ["n", ""]},
        Pairs("q", ("p", "r"), ("n", "")),
    ),
    (
        "pairs",
        {f"negative_{i}": f"n{i}" for i in (10, 2, 1)}
        | {"positive": "p", "query": "q"},
        Pairs("q", ("p",), ("n1", "n2", "n10")),
    ),
    (
        "pairs",
        {"query": "q", "answer": "p", "negative_1": "n", "scores": [3, 0.5]},
        Pairs("q", ("p",), ("n",), (3.0,), (0.5,)),
    ),
    (
        "pairs",
        {"query": "q", "positive": "p", "negative": "n", "score": 2.5},
        Pairs("q", ("p",), ("n",)),
    ),
    (
        "pairs",
        {"query": "q", "response": "p", "rejected_response": ["n", "m"]},
        Pairs("q", ("p",), ("n", "m")),
    ),
    ("pairs", {"sentence1": "a", "sentence2": "b", "id": "7"}, Pairs("a", ("b",))),
    ("pairs", {"sentence": "a", "paraphrase": "b"}, Pairs("a", ("b",))),
    (
        "scored",
        {"sentence1": "a", "sentence2": "b", "score": 5, "genre": "news"},
        Scored("a", "b", 5.0),
    ),
    ("scored", {"sentence_A": "a", "sentence_B": "b", "label": 1}, Scored("a", "b", 1)),
    (
        "scored",
        {"sentence1": "a", "sentence2": "b", "similarity_score": 0.5, "lang": "de"},
        Scored("a", "b", 0.5, "de"),
    ),
    ("scored", {"query": "a", "response": "b", "label": 0.8}, Scored("a", "b", 0.8)),
    ("labelled", {"text": "t", "label": "food"}, Labelled("t", "food")),
    ("labelled", {"text": "t", "label": 0, "lang": "it"}, Labelled("t", "0", "it")),
    ("labelled", {"sentence": "t", "label": -1}, Labelled("t", "-1")),
    (
        "labelled",
        {"id": "7", "text": "t", "label": 3, "label_text": "food"},
        Labelled("t", "food"),
    ),
    ("text", {"text": "t"}, Text("t")),
    ("text", {"id": 1, "url": "u", "sentence": "t", "language": "fr"}, Text("t", "fr")),
]


@pytest.mark.parametrize(("name", "row", "record"), EXAMPLES)
def test_auto_finds_the_layout_and_reads_the_row(
    name: str, row: Mapping[str, object], record: Record
):
    layout = find("auto", (), row)
    assert layout.name == name
    assert layout.grouped == ()
    assert layout.read(row) == record
    assert find(name, (), row).read(row) == record
    assert parse(json.dumps(row), where=WHERE) == record
    assert pickle.loads(pickle.dumps(layout)).read(row) == record


def test_every_layout_has_an_example():
    assert {name for name, _, _ in EXAMPLES} | {"nli"} == {one.name for one in LAYOUTS}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        (
            {"premise": "a", "hypothesis": "b", "label": 0, "idx": 3},
            ("premise", "hypothesis", "label"),
        ),
        (
            {"gold_label": "-", "sentence1": "a", "sentence2": "b", "pairID": "7"},
            ("sentence1", "sentence2", "gold_label"),
        ),
    ],
)
def test_nli_rows_are_no_records_alone(
    row: dict[str, object], columns: tuple[str, ...]
):
    layout = find("auto", (), row)
    assert (layout.name, layout.grouped) == ("nli", columns)
    with pytest.raises(
        InputError, match=r"a\.jsonl:17: expected a row that is a record"
    ):
        parse(json.dumps(row), where=WHERE)
    named = find("nli", ("id", "x", "y"), {"id": "a", "x": "b", "y": 0})
    assert (named.name, named.grouped) == ("nli(id,x,y)", ("id", "x", "y"))


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"text": "sel", "english": "salt"},  # two languages
        {"text": "t", "title": "a"},  # a title may be a query
        {"text": "t", "pos": ["p"]},
        {"question": "q", "sentence": "s", "label": "entailment"},  # QNLI
        {"sentence1": "a", "sentence2": "b", "is_duplicate": True},
        {"query_text": "q", "positive_document_ids": ["7"]},
        {"query": "q"},
        {"positive": "p", "negative": "n"},
        {"messages": [{"role": "user", "content": "q"}]},
        {"premise": "a", "hypothesis": "b"},
        {"question": "q", "context": "c", "answers": {"text": ["a"]}},
    ],
)
def test_what_could_be_something_else_is_no_layout(row: dict[str, object]):
    with pytest.raises(InputError) as caught:
        find("auto", (), row)
    assert caught.value.expected == "the columns of a known layout"
    for name in row:
        assert name in caught.value.found
    for known in LAYOUTS:
        assert f"{known.name} ({known.keys})" in caught.value.do
    assert "\n" not in str(caught.value)


def test_rows_of_one_file_may_have_more_or_fewer_negatives():
    layout = find("auto", (), {"query": "q", "positive": "p"})
    row = {"query": "q", "positive": "p", "negative_2": None, "negative_1": "n"}
    assert layout.read(row) == Pairs("q", ("p",), ("n",))
    layout = find("auto", (), row)
    assert layout.read({"query": "q", "positive": "p"}) == Pairs("q", ("p",))


# Columns by their order


@pytest.mark.parametrize(
    ("layout", "columns", "row", "name", "record"),
    [
        ("columns", (), {"a": "t"}, "text(a)", Text("t")),
        ("columns", (), {"a": "q", "b": "p"}, "pairs(a,b)", Pairs("q", ("p",))),
        (
            "columns",
            (),
            {"lang": "fr", "z": "q", "y": ["p"], "x": "n", "a": ["m"]},
            "pairs(z,y,x,a)",
            Pairs("q", ("p",), ("n", "m"), language="fr"),
        ),
        (
            "columns",
            (),
            {"label": 2, "b": "x", "a": "y"},
            "scored(b,a,label)",
            Scored("x", "y", 2.0),
        ),
        (
            "columns",
            (),
            {"a": "t", "labels": 2},
            "labelled(a,labels)",
            Labelled("t", "2"),
        ),
        (
            "columns",
            (),
            {"a": "q", "b": "p", "c": "n", "scores": [1, 2]},
            "pairs(a,b,c,scores)",
            Pairs("q", ("p",), ("n",), (1.0,), (2.0,)),
        ),
        (
            "columns",
            (),
            {"a": "q", "b": "p", "scores": [1]},
            "pairs(a,b,scores)",
            Pairs("q", ("p",), (), (1.0,), ()),
        ),
        (
            "columns",
            (),
            {"a": "q", "b": "p", "c": "n", "score": 3},
            "pairs(a,b,c)",
            Pairs("q", ("p",), ("n",)),
        ),
        (
            "auto",
            ("english", "text"),
            {"text": "sel", "english": "salt"},
            "pairs(english,text)",
            Pairs("salt", ("sel",)),
        ),
        (
            "auto",
            ("positive", "query"),
            {"query": "q", "positive": "p"},
            "pairs(positive,query)",
            Pairs("p", ("q",)),
        ),
        (
            "labelled",
            ("utterance", "intent"),
            {"intent": "pay", "utterance": "u"},
            "labelled(utterance,intent)",
            Labelled("u", "pay"),
        ),
        (
            "scored",
            ("a", "b", "similar"),
            {"a": "x", "b": "y", "similar": 0.5},
            "scored(a,b,similar)",
            Scored("x", "y", 0.5),
        ),
        (
            "pairs",
            ("label", "score"),
            {"label": "q", "score": "p"},
            "pairs(label,score)",
            Pairs("q", ("p",)),
        ),
        ("text", ("body",), {"body": "t", "x": 1}, "text(body)", Text("t")),
    ],
)
def test_columns_by_their_order(
    layout: str,
    columns: tuple[str, ...],
    row: dict[str, object],
    name: str,
    record: Record,
):
    found = find(layout, columns, row)
    assert found.name == name
    assert found.read(row) == record
    assert pickle.loads(pickle.dumps(found)).read(row) == record


ROW = {"a": "x", "b": "y", "label": 1}


@pytest.mark.parametrize(
    ("layout", "columns", "message"),
    [
        ("tevatrom", (), "layout: expected one of auto, columns, messages, tevatron, "),
        ("auto", ("a", "c"), "columns: expected a column 'c', found a, b, label"),
        ("auto", ("label",), "columns: expected a column of texts, found label"),
        ("tevatron", ("a", "b"), "columns: expected no columns, because those of teva"),
        ("scored", ("a", "b"), "columns: expected columns for two texts, the score, f"),
        ("labelled", ("a",), "columns: expected columns for the text, the label, foun"),
        ("text", ("a", "b"), "columns: expected columns for the text, found a, b"),
        ("pairs", ("a",), "columns: expected columns for the query, the positive, any"),
        ("nli", ("a", "b"), "columns: expected columns for the premise, the hypothesi"),
        ("nli", (), "expected the columns premise, hypothesis, label or sentence1, se"),
    ],
)
def test_a_layout_that_cannot_be(layout: str, columns: tuple[str, ...], message: str):
    with pytest.raises(InputError) as caught:
        find(layout, columns, ROW)
    assert str(caught.value).startswith(message)


# Bad rows of the other layouts


TEVATRON = {"query": "q", "positive_passages": [passage("p")]}
MESSAGES = {"messages": user("q"), "positive_messages": [user("p")]}
PAIRS = {"question": "q", "answer": "p", "negative_1": "n"}
SCORED = {"sentence1": "a", "sentence2": "b", "score": 1}
SYSTEM = {"role": "system", "content": "i"}


@pytest.mark.parametrize(
    ("row", "change", "message"),
    [
        (TEVATRON, {"query": " "}, "query: expected a text, found only white space"),
        (
            TEVATRON,
            {"positive_passages": []},
            "positive_passages: expected at least one passage, found an empty list",
        ),
        (
            TEVATRON,
            {"positive_passages": "p"},
            "positive_passages: expected a list of passages, found a string",
        ),
        (
            TEVATRON,
            {"negative_passages": [passage("n"), "m"]},
            "negative_passages[1]: expected an object with a text, found a string",
        ),
        (
            TEVATRON,
            {"negative_passages": [{"docid": "7"}]},
            "negative_passages[0]: expected the key 'text', found only 'docid'",
        ),
        (
            TEVATRON,
            {"positive_passages": [passage("p", title=3)]},
            "positive_passages[0].title: expected a string, found a number",
        ),
        (
            TEVATRON,
            {"positive_passages": [passage("", title=" ")]},
            "positive_passages[0]: expected a text, found an empty string",
        ),
        (MESSAGES, {"messages": "q"}, "messages: expected a list of messages, found a"),
        (
            MESSAGES,
            {"messages": []},
            "messages: expected one message of the user, with at most a system message "
            "before it, found an empty list",
        ),
        (MESSAGES, {"messages": user("q") + user("r")}, "found user, user"),
        (MESSAGES, {"messages": [SYSTEM]}, "found system"),
        (MESSAGES, {"messages": [*user("q"), SYSTEM]}, "found user, system"),
        (
            MESSAGES,
            {"messages": [{"role": "assistant", "content": "q"}]},
            "of the user, with at most a system message before it, found assistant",
        ),
        (MESSAGES, {"messages": ["q"]}, "messages[0]: expected a message, found a str"),
        (
            MESSAGES,
            {"messages": [SYSTEM, {"role": "user", "content": None}]},
            "messages[1].content: expected a string, found null",
        ),
        (
            MESSAGES,
            {"positive_messages": user("p")},
            "positive_messages[0]: expected a list of messages, found an object",
        ),
        (
            MESSAGES,
            {"positive_messages": []},
            "positive_messages: expected at least one passage, found an empty list",
        ),
        (
            MESSAGES,
            {"negative_messages": [user("")]},
            "negative_messages[0][0].content: expected a text, found an empty string",
        ),
        (
            MESSAGES,
            {"label": 1, "negative_messages": [user("n")]},
            "label: expected one positive beside a label, found 1 positives and 1 nega",
        ),
        (MESSAGES, {"label": "1"}, "label: expected a number, found a string"),
        (
            MESSAGES,
            {"positive_images": [[], ["a.jpg"]]},
            "positive_images: expected a row of texts, found positive_images in it",
        ),
        (PAIRS, {"question": ["q"]}, "question: expected a string, found a list"),
        (PAIRS, {"answer": None}, "answer: expected a list of strings, found null"),
        (PAIRS, {"answer": []}, "answer: expected at least one text, found an empty"),
        (PAIRS, {"answer": ["p", " "]}, "answer[1]: expected a text, found only white"),
        (PAIRS, {"answer": ""}, "answer: expected a text, found an empty string"),
        (PAIRS, {"negative_1": 5}, "negative_1: expected a list of strings, found a n"),
        (PAIRS, {"negative_1": "\ud800"}, "negative_1: expected Unicode text, found h"),
        (PAIRS, {"scores": [1]}, "scores: expected 2 scores, one a text, found 1"),
        (SCORED, {"score": math.inf}, "score: expected a finite number, found inf"),
        (SCORED, {"score": True}, "score: expected a number, found a boolean"),
        (SCORED, {"score": None}, "score: expected a number, found null"),
        (
            SCORED,
            {"sentence2": ""},
            "sentence2: expected a text, found an empty string",
        ),
        (
            {"text": "t", "label": 0.5},
            {},
            "label: expected a name or a whole number, f",
        ),
        (
            {"text": "t", "label": True},
            {},
            "label: expected a name or a whole number, f",
        ),
        (
            {"text": "t", "label": ""},
            {},
            "label: expected a text, found an empty string",
        ),
        (
            {"text": "", "label": "a"},
            {},
            "text: expected a text, found an empty string",
        ),
        ({"text": ["t"]}, {}, "text: expected a string, found a list"),
    ],
)
def test_a_bad_row_of_another_layout(
    row: Mapping[str, object], change: dict[str, object], message: str
):
    with pytest.raises(InputError) as caught:
        parse(json.dumps({**row, **change}), where=WHERE)
    assert str(caught.value).startswith(f"{WHERE}: ")
    assert message in str(caught.value)


def test_a_row_without_the_columns_of_its_layout():
    layout = find("auto", (), {"question": "q", "answer": "p"})
    with pytest.raises(InputError, match="the layout pairs, found only 'q', 'answer'"):
        layout.read({"q": "q", "answer": "p"})
    with pytest.raises(InputError, match="the layout pairs, found an empty object"):
        layout.read({})
    named = find("auto", ("a", "b"), ROW)
    with pytest.raises(InputError, match="expected the key 'b', found only 'a', 'c'"):
        named.read({"a": "x", "c": "y"})


@settings(deadline=None)
@given(
    row=st.dictionaries(
        st.sampled_from(
            "query pos neg positive negative_1 positive_passages messages label text "
            "positive_messages sentence1 sentence2 score lang scores".split()
        ),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["role", "content", "text"]), inner)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_row_is_a_record_or_an_input_error(row: dict[str, object]):
    try:
        assert isinstance(parse(json.dumps(row), where=WHERE), Record)
    except InputError as error:
        assert error.where.startswith(WHERE)
