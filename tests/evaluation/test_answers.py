import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.answers import answer_recall, tokens


def hit(answer: str, passage: str) -> bool:
    found = answer_recall({"q": {"p": 1.0}}, {"p": passage}, {"q": [answer]})
    assert found in (0, 1)
    return found == 1


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Paris", "in PARIS, by night"),
        ("New York", "new\n York\u00a0city"),
        ("U.S.", "the u . s . a"),
        ("1,000", "1,000 miles"),
        ("Zürich", "Zu\u0308rich"),  # composed, and with a mark of its own
        ("हिन्दी", "भाषा हिन्दी है"),  # marks are parts of a word
        ("東京", "首都は「東京」です"),
        ("$5", "for $5 or less"),
        ("C++", "in C++."),
    ],
)
def test_an_answer_is_found(answer: str, passage: str):
    assert hit(answer, passage)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Paris", "the parish"),  # a word, not a part of one
        ("New York", "York, new"),
        ("New York", "new, York"),  # punctuation counts
        ("Zürich", "Zurich"),  # and so do accents
        ("1000", "1,000"),
        ("東京", "東京都"),  # a run of characters is one token
        ("a b c", "a b"),
        ("don't", "don\u2019t"),
        ("İzmir", "İZMİR"),  # the lower case of İ has a dot more than i
        ("", "anything"),
        (" \t", "anything"),
        ("", ""),
    ],
)
def test_an_answer_is_not_found(answer: str, passage: str):
    assert not hit(answer, passage)


def test_tokens():
    assert tokens("Æsop's  2nd\u200btale\n(é)…") == [
        *("æsop", "'", "s", "2nd", "tale", "(", "e\u0301", ")", "…")
    ]


def test_recall_is_the_share_of_queries_with_a_hit_among_the_k_best():
    texts = {"a": "red", "b": "green", "c": "blue", "d": "red"}
    results = {
        # Not in the order of their scores; and of two hits the first is enough.
        "last": {"a": 1.0, "b": 3.0, "c": 2.0, "d": 0.5},
        "tie": {"c": 1.0, "a": 1.0},
        "never": {"a": 1.0, "b": 0.5},
        "either": {"b": 1.0},
    }
    answers = {
        "last": ["red"],
        "tie": ["red"],
        "never": ["blue"],
        "either": ["white", "green"],
        "none": [],
        "without results": ["red"],
    }
    recall = [answer_recall(results, texts, answers, k=k) for k in (1, 2, 3, 4)]
    assert recall == [1 / 6, 2 / 6, 3 / 6, 3 / 6]
    assert answer_recall(results, texts, answers) == 3 / 6


def test_a_hundred_passages_by_default():
    row = {f"p{i}": -float(i) for i in range(101)}
    texts = {name: "no" for name in row}
    for at, found in ((99, 1), (100, 0)):
        hits = texts | {f"p{at}": "yes"}
        assert answer_recall({"q": row}, hits, {"q": ["yes"]}) == found


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        answer_recall({}, {}, {"q": ["a"]}, k=0)
    with pytest.raises(InputError, match="answers: expected at least one query"):
        answer_recall({}, {}, {})
    with pytest.raises(InputError, match="was searched, found none of 'q'"):
        answer_recall({"q": {}}, {}, {"r": ["a"]})
    with pytest.raises(InputError, match=r"corpus_texts: .*, found none of 'p'"):
        answer_recall({"q": {"p": 1.0}}, {}, {"q": ["a"]})
