"""BM25 against its formula, in several languages, without a word on the terminal."""

import math
from collections import Counter

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.data.records import Retrieval
from m3jax.evaluation import bm25
from m3jax.testing import tiny_tokenizer

CORPUS = {
    "fox": "A red fox. The fox!",
    "wolf": "one grey wolf",
    "both": "fox or wolf: red red fur",
    "again": "One grey WOLF.",
    "nothing": "...",
}


def task(*queries: str, corpus: dict[str, str] = CORPUS) -> Retrieval:
    names = {f"q{i}": query for i, query in enumerate(queries)}
    return Retrieval(names, corpus, {name: {"fox": 1} for name in names})


def formula(query: list[str], corpus: dict[str, list[str]]) -> dict[str, float]:
    """Lucene's BM25, word by word."""
    mean = sum(map(len, corpus.values())) / len(corpus)
    scores = {}
    for name, passage in corpus.items():
        score = 0.0
        for word, tf in Counter(passage).items():
            holds = sum(word in other for other in corpus.values())
            idf = math.log(1 + (len(corpus) - holds + 0.5) / (holds + 0.5))
            norm = 1.5 * (1 - 0.75 + 0.75 * len(passage) / mean)
            score += query.count(word) * idf * tf / (tf + norm)
        scores[name] = score
    return {name: score for name, score in scores.items() if score > 0}


@pytest.mark.parametrize("query", ["fox", "Red wolf?", "fur grey fur", "one"])
def test_formula(query: str) -> None:
    (row,) = bm25.search(task(query)).values()
    words = {name: bm25.words(text) for name, text in CORPUS.items()}
    assert words["both"] == ["fox", "wolf", "red", "red", "fur"]
    expected = formula(bm25.words(query), words)
    assert row == pytest.approx(expected, rel=1e-5)
    assert list(row) == sorted(expected, key=lambda name: -expected[name])


def test_ties_keep_the_order_of_the_corpus() -> None:
    rng = np.random.default_rng(0)
    texts = rng.choice(["same", "same here", "same here now"], 300)
    corpus = {f"{i}": str(text) for i, text in enumerate(texts)} | {"fox": "other"}
    whole = bm25.search(task("same", corpus=corpus), k=300)["q0"]
    assert len(set(whole.values())) == 3
    shortest_first = sorted(range(300), key=lambda i: len(texts[i]))
    assert list(whole) == [f"{i}" for i in shortest_first]
    for k in (3, 150):
        found = bm25.search(task("same", corpus=corpus), k=k)["q0"]
        assert list(found) == list(whole)[:k]


@pytest.mark.parametrize("k", [1, 2, 3, 100])
def test_the_k_best(k: int) -> None:
    rng = np.random.default_rng(k)
    texts = [
        " ".join(rng.choice(list("bcdefg"), rng.integers(1, 9))) for _ in range(60)
    ]
    data = task("b c d", corpus={f"{i}": text for i, text in enumerate(texts)})
    whole = bm25.search(data, k=60)["q0"]
    assert list(bm25.search(data, k=k)["q0"].items()) == list(whole.items())[:k]


def test_nothing_in_common() -> None:
    found = bm25.search(task("bear", "", "the", "fox"))
    assert [len(row) for row in found.values()] == [0, 0, 0, 2]
    empty = task("fox", corpus={"fox": "", "wolf": "!"})
    assert bm25.search(empty) == {"q0": {}}


def test_unjudged_queries_are_passed_over() -> None:
    data = Retrieval({"a": "fox", "b": "fox"}, CORPUS, {"b": {"fox": 1}})
    assert list(bm25.search(data)) == ["b"]


def test_silent(capfd: pytest.CaptureFixture) -> None:
    bm25.search(task("fox"))
    assert capfd.readouterr() == ("", "")


def test_k_below_one() -> None:
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        bm25.search(task("fox"), k=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The Fox's den: 2nd_floor!", ["fox", "s", "den", "2nd", "floor"]),
        ("Straße ÉTÉ \uff21\uff22", ["straße", "été", "ab"]),
        ("e\u0301te\u0301", ["été"]),
        ("été_là _", ["été", "là"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("اللُّغَة", ["اللُّغَة"]),
        ("東京・大阪府 a犬b", ["東京", "大阪", "阪府", "犬", "b"]),
        ("カタカナ", ["カタ", "タカ", "カナ"]),
        ("한국어는", ["한국", "국어", "어는"]),
        ("ไทย", ["ไท", "ทย"]),
        ("\U00020000\U00020001", ["\U00020000\U00020001"]),
        ("...", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert bm25.words(text) == words


def test_words_of_a_model() -> None:
    texts = [*CORPUS.values(), "fur of a wolf"]
    tokenizer = tiny_tokenizer(texts, 60)
    split = bm25.token_words(tokenizer)
    (row,) = tokenize.encode(tokenizer, [CORPUS["both"]], max_length=99)
    assert split(CORPUS["both"]) == [str(i) for i in row[1:-1]]  # without CLS and SEP
    special = {tokenizer.backend.token_to_id(token) for token in ("[UNK]", "[SEP]")}
    text = "fox \u6771 [SEP] wolf"
    ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
    assert special <= set(ids)
    assert split(text) == [str(i) for i in ids if i not in special]
    assert split("") == []
    found = bm25.search(task("the wolf of the", "Fox fur"), words=split)
    corpus = {name: split(text) for name, text in CORPUS.items()}
    for query, result in zip(
        ("the wolf of the", "Fox fur"), found.values(), strict=True
    ):
        assert result == pytest.approx(formula(split(query), corpus), rel=1e-5)
    assert found != bm25.search(task("the wolf of the", "Fox fur"))


def test_words_are_the_default() -> None:
    data = task("fox", "Red wolf?")
    assert bm25.search(data, words=bm25.words) == bm25.search(data)
    assert bm25.search(data, words=lambda text: [text])["q0"] == {}


def test_chinese_is_searched() -> None:
    corpus = {"fox": "红色的狐狸住在森林里", "wolf": "灰色的狼住在山上"}
    assert list(bm25.search(task("狐狸在哪里", corpus=corpus))["q0"]) == ["fox"]
