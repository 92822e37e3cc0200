"""BM25, the baseline that an embedding model has to beat, in any language."""

import functools
import itertools
import logging
import re
import sys
import unicodedata
from collections.abc import Callable

import bm25s
from bm25s.stopwords import STOPWORDS_EN

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.data.tokenize import Tokenizer
from m3jax.inference.best import best_places

# How fast a repeated word stops counting, and how much a long passage is discounted.
K1, B = 1.5, 0.75
# Scripts written without spaces, or, as Korean, with endings joined to the words: Thai,
# Lao, Burmese, Khmer, Japanese, Chinese, Hangul.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_STOP = frozenset(STOPWORDS_EN)
_ASCII = re.compile("[a-z0-9]+")  # what `_word` finds in most texts, and much faster
_RUN = re.compile(f"([{_UNSPACED}]+)|[^{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Split a text into words, without case, punctuation and English stop words.

    A word is a run of letters, marks and digits. Where a script has no spaces, every
    two neighbouring characters are a word, as in Lucene's CJKAnalyzer.

    Args:
        text: any text.

    Returns:
        Its words, repeats included.

    Example:
        >>> words("The Fox's den, 2nd"), words("東京都 BM25")
        (['fox', 's', 'den', '2nd'], ['東京', '京都', 'bm25'])
    """
    found = []
    text = unicodedata.normalize("NFKC", text).lower().replace("_", " ")
    pattern = _ASCII if text.isascii() else _word()
    for word in pattern.findall(text):
        if word.isascii():
            found.append(word)
            continue
        for run in _RUN.finditer(word):
            text = run[0]
            if run[1] and len(text) > 1:
                found += map("".join, itertools.pairwise(text))
            else:
                found.append(text)
    return [word for word in found if word not in _STOP]


def token_words(tokenizer: Tokenizer) -> Callable[[str], list[str]]:
    """Make a splitter into the tokens of a model, so that both read the same words.

    Texts are not cut; special tokens and what the vocabulary does not know are left
    out.

    Args:
        tokenizer: of the model.

    Returns:
        A function like `words`: from a text to the ids of its tokens, as strings.

    Source: BGE-M3 reports BM25 with both (arXiv:2402.03216); FlagEmbedding's
        bm25_baseline_same_tokenizer.py.

    Example:
        >>> from m3jax.testing import tiny_tokenizer
        >>> split = token_words(tiny_tokenizer())
        >>> split("the sea") == split("the") + split("sea")
        True
    """
    special = set(tokenizer.special_ids)

    def split(text: str) -> list[str]:
        found = tokenizer.backend.encode(text, add_special_tokens=False).ids
        return [str(token) for token in found if token not in special]

    return split


def search(
    data: Retrieval, k: int = 100, *, words: Callable[[str], list[str]] = words
) -> dict[str, dict[str, float]]:
    """Search a corpus by the words that a query and a passage share.

    s_qp = sum_w idf_w tf_wp / (tf_wp + k1 (1 - b + b l_p / mean l)), over the words w
    of the query, with idf_w = ln(1 + (n - n_w + 1/2) / (n_w + 1/2)): Lucene's form,
    k1 = 1.5, b = 0.75. By default, Lucene's 33 English stop words are left out: they
    weigh too much where passages are code, and leaving them out of texts in eleven
    other languages moves nDCG@10 by less than 0.002. There is no stemming.

    Args:
        data: queries and corpus; queries without judgements are passed over.
        k: passages kept of each query, at most.
        words: splits queries and passages; `token_words` does it as a model reads them.

    Returns:
        Query id -> passage id -> score, the best first and of equal scores the earlier
        passage; passages that share no word with the query are left out.

    Raises:
        InputError: k is below 1.

    Source: Robertson and Zaragoza 2009; bm25s, arXiv:2407.03618.

    Example:
        >>> corpus = {"a": "a red fox", "b": "a grey wolf"}
        >>> task = Retrieval({"q": "Fox!"}, corpus, {"q": {"a": 1}})
        >>> list(search(task)["q"])
        ['a']
    """
    if k < 1:
        raise InputError("a positive number", f"{k}", where="k")
    passages = list(data.corpus)
    queries = [name for name in data.queries if name in data.qrels]
    corpus = [words(text) for text in data.corpus.values()]
    if not any(corpus):
        return {query: {} for query in queries}
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index
    model = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
    model.index(corpus, show_progress=False)
    results = {}
    for query in queries:
        known = model.get_tokens_ids(words(data.queries[query]))
        scores = model.get_scores_from_ids(known)
        results[query] = {passages[i]: float(scores[i]) for i in best_places(scores, k)}
    return results


@functools.cache
def _word() -> re.Pattern[str]:
    # Python's \w leaves out marks, among them the vowel signs of Hindi.
    every = map(chr, range(sys.maxunicode + 1))
    marks = "".join(char for char in every if unicodedata.category(char)[0] == "M")
    return re.compile(rf"[\w{marks}]+")
