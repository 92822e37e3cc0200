"""Answers as strings: does a passage that was found contain one of them?"""

import functools
import unicodedata
from collections.abc import Iterable, Mapping

from m3jax.core.errors import InputError

# Runs of letters, digits and marks; and each other sign that is seen.
_TOKEN = r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]"


def answer_recall(
    results: Mapping[str, Mapping[str, float]],
    corpus_texts: Mapping[str, str],
    answers: Mapping[str, Iterable[str]],
    *,
    k: int = 100,
) -> float:
    """Share of the queries with an answer in one of their k best passages.

    recall@k = mean over the queries of [some answer is in the passage i, for i <= k].
    A passage contains an answer if the tokens of the answer follow one another in it.
    This is the recall of RocketQA, by which MKQA is reported.

    Args:
        results: query id -> passage id -> score; of equal scores the earlier is better.
        corpus_texts: passage id -> text, of all that were found.
        answers: query id -> strings that answer it. A query without any, or without
            results, is missed; an answer without a token is in no passage.
        k: passages of each query that are looked into.

    Returns:
        The recall, from 0 to 1.

    Raises:
        InputError: k is below 1, there is no query, or a query or passage of the
            results is not there.

    Source: Qu et al. 2021 (RocketQA), section 4.1; Karpukhin et al. 2020 (DPR).

    Example:
        >>> texts = {"a": "It is the capital of France.", "b": "Paris, by night"}
        >>> found = {"q": {"a": 2.0, "b": 1.0}}
        >>> [answer_recall(found, texts, {"q": ["Paris"]}, k=k) for k in (1, 2)]
        [0.0, 1.0]
    """
    if k < 1:
        raise InputError("a positive number", f"{k}", where="k")
    if not answers:
        raise InputError("at least one query with answers", "none", where="answers")
    for query in results:
        if query not in answers:
            expected = "answers of every query that was searched"
            raise InputError(expected, f"none of {query!r}", where="answers")
    spelled: dict[str, str] = {}  # a passage is found by many queries
    hits = 0
    for query, wanted in answers.items():
        strings = [one for one in map(_spelled, wanted) if one.strip()]
        row = results.get(query, {})
        for passage in sorted(row, key=lambda name: -row[name])[:k]:
            if passage not in spelled:
                spelled[passage] = _spelled(_text(corpus_texts, passage))
            if any(string in spelled[passage] for string in strings):
                hits += 1
                break
    return hits / len(answers)


def tokens(text: str) -> list[str]:
    """Split a text as DPR does before it looks for an answer.

    The text is decomposed (NFD); a token is a run of letters, digits and marks, or any
    other single sign; tokens are put into lower case, and white space goes. So accents
    and punctuation count, and a run of Chinese characters is one token.

    Args:
        text: any text.

    Returns:
        Its tokens.

    Source: `SimpleTokenizer` of facebookresearch/DPR, as FlagEmbedding takes it for
    MKQA from facebookresearch/contriever.

    Example:
        >>> tokens("St. Paul, 1675"), tokens("東京都 2,000")
        (['st', '.', 'paul', ',', '1675'], ['東京都', '2', ',', '000'])
    """
    return [one.lower() for one in _token().findall(unicodedata.normalize("NFD", text))]


def _spelled(text: str) -> str:
    # No token has a blank in it: what follows one another is found as a string.
    return f" {' '.join(tokens(text))} "


def _text(texts: Mapping[str, str], passage: str) -> str:
    if passage not in texts:
        expected = "the text of every passage that was found"
        raise InputError(expected, f"none of {passage!r}", where="corpus_texts")
    return texts[passage]


@functools.cache
def _token():
    import regex  # the standard library knows no \p

    return regex.compile(_TOKEN)
