"""Why a passage was found: what each head says, and which tokens say it."""

from dataclasses import dataclass

import numpy as np

from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import ids_of
from m3jax.inference.encoded import Encoded
from m3jax.inference.index import Index


@dataclass(frozen=True)
class Match:
    """Two tokens, one of the query and one of the passage.

    Attributes:
        query: token of the query.
        passage: token of the passage; for a shared token the same.
        score: what the two add to the score of the head: a product of weights, or the
            cosine of their vectors.
    """

    query: str
    passage: str
    score: float


@dataclass(frozen=True)
class Why:
    """What the heads say of one query and one passage.

    Attributes:
        scores: head -> score.
        sparse: shared tokens; their scores add up to the sparse score.
        multivec: for each token of the query the best one of the passage. The multivec
            score is the mean over all tokens; pairs with a special one such as [SEP],
            which is no word to a reader, are not listed.
    """

    scores: dict[str, float]
    sparse: tuple[Match, ...] = ()
    multivec: tuple[Match, ...] = ()


def explain(
    embedder: Embedder, index: Index, query: str, encoded: Encoded, at: int
) -> Why:
    """Say why a passage was found.

    Args:
        embedder: the model of the index.
        index: the corpus.
        query: as the model read it, with its prompt.
        encoded: this one query.
        at: number of the passage.

    Returns:
        What adds most comes first.
    """
    segment, row = index.place(at)
    heads = [head for head in segment.heads if getattr(encoded, head) is not None]
    place = np.array([row])
    scores = {head: float(segment.score(head, encoded, place)[0]) for head in heads}
    sparse: list[Match] = []
    name = embedder.tokenizer.backend.id_to_token
    if segment.sparse is not None and encoded.sparse is not None:
        for token, (q, p) in segment.sparse.shared(encoded.sparse, row).items():
            word = _word(name(token))
            sparse.append(Match(word, word, q * p))
    multivec: list[Match] = []
    if segment.multivec is not None and encoded.multivec is not None:
        places, best = segment.best_tokens(encoded.multivec[0], row)
        text = embedder.prompts.passage + segment.texts[row]
        left = _tokens(embedder, query, embedder.max_length)
        right = _tokens(embedder, text, index.about["max_length"])
        # Without a vector in the passage there is no match.
        pairs = zip(left, places.tolist(), best.tolist(), strict=bool(places.size))
        special = {*embedder.tokenizer.special_ids}
        multivec = [
            Match(_word(name(one)), _word(name(right[j])), score)
            for one, j, score in pairs
            if not {one, right[j]} & special
        ]
        multivec.sort(key=lambda match: -match.score)
    return Why(scores, tuple(sparse), tuple(multivec))


def _tokens(embedder: Embedder, text: str, max_length: int) -> list[int]:
    """The tokens that have a vector: all but the first one."""
    config = embedder.module.config
    ids = ids_of(config, embedder.tokenizer, [text], max_length)[0]
    return ids[1:].tolist()


def _word(token: str | None) -> str:
    """A token as people read it: SentencePiece and byte pairs mark the space before."""
    return (token or "").replace("\u2581", "").replace("\u0120", "") or "\u2423"
