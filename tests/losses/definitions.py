"""What the losses should be: numpy in float64, one candidate after the other.

Arguments have the names that the losses give them.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

HEADS: tuple[str, ...] = ("dense", "sparse", "multivec")


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1; zeros stay zeros."""
    length = np.sqrt((x * x).sum(-1, keepdims=True))
    return x / np.where(length > 0, length, 1)


def log_softmax(logits: Sequence[float]) -> np.ndarray:
    logs = np.array(logits) - max(logits)
    return logs - np.log(np.exp(logs).sum())


def softmax(logits: Sequence[float]) -> np.ndarray:
    return np.exp(log_softmax(logits))


def names(ids: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """A number for each text, equal where all words of the id are."""
    if ids is None:
        return np.arange(np.prod(shape)).reshape(shape)
    known: dict[bytes, int] = {}
    flat = [
        known.setdefault(x.tobytes(), len(known))
        for x in ids.reshape(-1, ids.shape[-1])
    ]
    return np.array(flat).reshape(shape)


def info_nce(
    query: np.ndarray,
    passage: np.ndarray,
    *,
    temperature: float,
    negatives: Sequence[str] = ("own", "passages"),
    where: np.ndarray | None = None,
    in_batch: np.ndarray | None = None,
    query_ids: np.ndarray | None = None,
    passage_ids: np.ndarray | None = None,
    false_negative_margin: float | None = None,
    margin_on: Sequence[str] = ("own", "passages", "queries"),
    hard_negative_weight: float = 0.0,
    hardness_weight: float = 0.0,
    bidirectional: bool = False,
) -> np.ndarray:
    b, g, _ = passage.shape
    where = np.ones((b, g), bool) if where is None else where
    in_batch = np.ones(b, bool) if in_batch is None else in_batch
    queries, texts = names(query_ids, (b,)), names(passage_ids, (b, g))

    def one(i: int) -> float:
        if not where[i, 0]:
            return 0.0
        positive = query[i] @ passage[i, 0]
        terms = [positive / temperature]

        def add(score: float, block: str, own: bool = False) -> None:
            name = "own" if own else block
            limit = false_negative_margin
            if limit is not None and name in margin_on and score > positive + limit:
                return
            terms.append(score / temperature + (hard_negative_weight if own else 0))

        for j, c in itertools.product(range(b), range(g)):
            if not where[j, c] or (j != i and not in_batch[i]):
                continue
            if texts[j, c] == texts[i, 0] or (c == 0 and queries[j] == queries[i]):
                continue
            if j == i and "own" in negatives:
                add(query[i] @ passage[j, c], "own", own=True)
            if j != i and "passages" in negatives:
                add(query[i] @ passage[j, c], "passages")
            if "positive_passage" in negatives:
                add(passage[i, 0] @ passage[j, c], "positive_passage")
            if j != i and c == 0 and "positive_positive" in negatives:
                add(passage[i, 0] @ passage[j, 0], "positive_positive")
        for j in range(b):
            if j == i or not where[j, 0] or not in_batch[i]:
                continue
            if queries[j] == queries[i]:
                continue
            if "queries" in negatives:
                add(query[i] @ query[j], "queries")
            if "positive_query" in negatives and texts[j, 0] != texts[i, 0]:
                add(passage[i, 0] @ query[j], "positive_query")
        return -log_softmax(terms)[0]

    loss = np.array([one(i) for i in range(b)])
    if bidirectional:
        loss += info_nce(
            passage[:, 0],
            query[:, None],
            temperature=temperature,
            negatives=("passages",),
            where=where[:, :1],
            in_batch=in_batch,
            query_ids=None if passage_ids is None else passage_ids[:, 0],
            passage_ids=None if query_ids is None else query_ids[:, None],
            false_negative_margin=false_negative_margin,
            margin_on=margin_on,
        )
        loss /= 2
    return loss * (-np.expm1(-loss)) ** hardness_weight


def matryoshka(
    loss: Callable[..., np.ndarray], dims: Sequence[int], weights: Any = None
) -> Callable[..., np.ndarray]:
    def nested(query: Any, passage: Any, **options: Any) -> np.ndarray:
        parts = [
            weight * loss(unit(query[..., :dim]), unit(passage[..., :dim]), **options)
            for dim, weight in zip(dims, weights or [1] * len(dims), strict=True)
        ]
        return np.sum(parts, axis=0)

    return nested


def softmax_cross_entropy(
    scores: np.ndarray,
    target: np.ndarray,
    *,
    temperature: float = 1.0,
    where: Any = None,
) -> np.ndarray:
    losses = []
    for i, (row, right) in enumerate(zip(scores, target, strict=True)):
        there = [c for c in range(len(row)) if where is None or where[i, c]]
        if right in there:
            logs = log_softmax([row[c] / temperature for c in there])
            losses.append(-logs[there.index(right)])
        else:
            losses.append(0.0)
    return np.array(losses)


def distill_kl(
    scores: np.ndarray,
    teacher_scores: np.ndarray,
    *,
    temperature: float,
    teacher_temperature: float = 1.0,
    where: Any = None,
) -> np.ndarray:
    losses = np.zeros(len(scores))
    for i, (row, told) in enumerate(zip(scores, teacher_scores, strict=True)):
        there = [c for c in range(len(row)) if where is None or where[i, c]]
        if there:
            t = log_softmax([told[c] / teacher_temperature for c in there])
            p = log_softmax([row[c] / temperature for c in there])
            losses[i] = (np.exp(t) * (t - p)).sum()
    return losses


def m3_kd(
    scores: np.ndarray,
    teacher_scores: np.ndarray,
    own: np.ndarray,
    *,
    temperature: float = 1.0,
    where: Any = None,
) -> np.ndarray:
    """Strike out one own passage after the other."""
    losses = np.zeros(len(scores))
    for i, row in enumerate(scores):
        logits = {
            c: row[c] / temperature
            for c in range(len(row))
            if where is None or where[i, c]
        }
        group = [k for k in range(own.shape[1]) if int(own[i, k]) in logits]
        if not group:
            continue
        shares = softmax([teacher_scores[i, k] for k in group])
        for share, k in zip(shares, group, strict=True):
            target = list(logits).index(int(own[i, k]))
            losses[i] -= share * log_softmax(list(logits.values()))[target]
            del logits[int(own[i, k])]
    return losses


def cosent(
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    temperature: float = 0.05,
    where: Any = None,
) -> float:
    terms = [0.0]
    for i, j in itertools.product(range(len(scores)), repeat=2):
        there = where is None or (where[i] and where[j])
        if there and labels[i] < labels[j]:
            terms.append((scores[i] - scores[j]) / temperature)
    return -log_softmax(terms)[0]


def rerank_pointwise(
    yes: np.ndarray, no: np.ndarray, labels: np.ndarray, *, where: Any = None
) -> np.ndarray:
    """By the softmax over the two answers."""
    losses = []
    for i, label in enumerate(labels):
        said_yes, said_no = log_softmax([yes[i], no[i]])
        there = where is None or where[i]
        losses.append(-label * said_yes - (1 - label) * said_no if there else 0.0)
    return np.array(losses)


def rerank_listwise(
    scores: np.ndarray, *, temperature: float = 1.0, where: Any = None
) -> np.ndarray:
    first = np.zeros(len(scores), int)
    return softmax_cross_entropy(scores, first, temperature=temperature, where=where)


def masked_lm(
    hidden: np.ndarray,
    table: np.ndarray,
    labels: np.ndarray,
    *,
    bias: Any = None,
    where: Any = None,
) -> np.ndarray:
    losses = np.zeros(labels.shape)
    for at in np.ndindex(labels.shape):
        if labels[at] >= 0 if where is None else where[at]:
            logits = [row @ hidden[at] for row in table]
            if bias is not None:
                logits = [x + y for x, y in zip(logits, bias, strict=True)]
            losses[at] = -log_softmax(logits)[labels[at]]
    return losses


def retromae(
    encoder_hidden: np.ndarray,
    decoder_hidden: np.ndarray,
    table: np.ndarray,
    encoder_labels: np.ndarray,
    decoder_labels: np.ndarray,
    *,
    bias: Any = None,
    encoder_where: Any = None,
    decoder_where: Any = None,
) -> float:
    total = 0.0
    for hidden, labels, where in (
        (encoder_hidden, encoder_labels, encoder_where),
        (decoder_hidden, decoder_labels, decoder_where),
    ):
        there = labels >= 0 if where is None else where
        if there.any():
            losses = masked_lm(hidden, table, labels, bias=bias, where=there)
            total += losses.sum() / there.sum()
    return total


# BGE-M3. Embeddings come as they are, with numpy arrays as leaves.


def head_score(
    head: str, query: Any, passage: Any, i: int, j: int, c: int, *, padded: bool = False
) -> float:
    """Of the i-th query and the c-th passage of the j-th group."""
    if head == "dense":
        return float(query.dense[i] @ passage.dense[j, c])
    if head == "sparse":
        mine, theirs = (
            strongest(ids, weights)
            for ids, weights in (
                (query.sparse.ids[i], query.sparse.weights[i]),
                (passage.sparse.ids[j, c], passage.sparse.weights[j, c]),
            )
        )
        return sum(weight * theirs.get(token, 0.0) for token, weight in mine.items())
    ours = query.multivec.vectors[i][query.multivec.mask[i]]
    vectors, real = passage.multivec.vectors[j, c], passage.multivec.mask[j, c]
    vectors = np.where(real[:, None], vectors, 0) if padded else vectors[real]
    return float((ours @ vectors.T).max(1).mean())


def strongest(ids: np.ndarray, weights: np.ndarray) -> dict[int, float]:
    found: dict[int, float] = {}
    for token, weight in zip(ids.tolist(), weights.tolist(), strict=True):
        found[token] = max(weight, found.get(token, 0.0))
    return found


def m3(
    query: Any,
    passage: Any,
    *,
    temperature: float,
    score_weights: Sequence[float] = (1, 0.3, 1),
    loss_weights: Sequence[float] = (1, 0.1, 1),
    ensemble_weight: float = 1.0,
    distill: float = 0.0,
    teacher_scores: Any = None,
    teacher_loss: str = "kl",
    where: Any = None,
    in_batch: Any = None,
    query_ids: Any = None,
    passage_ids: Any = None,
    dims: Sequence[int] | None = None,
    dim_weights: Any = None,
    compat: str | None = None,
) -> np.ndarray:
    """The loss; with compat, on one device."""
    heads = [name for name in HEADS if getattr(query, name) is not None]
    leaf = (
        passage.dense
        if passage.dense is not None
        else (
            passage.sparse.ids if passage.sparse is not None else passage.multivec.mask
        )
    )
    b, g = leaf.shape[:2]
    where = np.ones((b, g), bool) if where is None else where
    in_batch = np.ones(b, bool) if in_batch is None else in_batch
    queries, texts = names(query_ids, (b,)), names(passage_ids, (b, g))
    places = list(itertools.product(range(b), range(g)))
    own_weights = dict(zip(HEADS, loss_weights, strict=True))
    mix = dict(zip(HEADS, score_weights, strict=True))

    def candidates(i: int) -> Iterator[tuple[int, int]]:
        for j, c in places:
            if not where[j, c] or (j != i and not in_batch[i]):
                continue
            wrong = texts[j, c] == texts[i, 0] or (c == 0 and queries[j] == queries[i])
            if (j, c) == (i, 0) or not wrong:
                yield j, c

    def logit(
        head: str, i: int, place: tuple[int, int], dim: int | None = None
    ) -> float:
        if dim is not None:
            ours, theirs = unit(query.dense[i, :dim]), unit(passage.dense[place][:dim])
            return float(ours @ theirs) / temperature
        padded = compat is not None
        return head_score(head, query, passage, i, *place, padded=padded) / temperature

    def row(i: int) -> float:
        if not where[i, 0]:
            return 0.0
        there = list(candidates(i))
        own = [(i, c) for c in range(g) if where[i, c]]
        # (head, weight, logits of all places, for one prefix)
        views = [
            (
                head,
                own_weights[head] * weight,
                {x: logit(head, i, x, dim) for x in places},
            )
            for head in heads
            for dim, weight in (
                zip(dims, dim_weights or [1] * len(dims), strict=True)
                if head == "dense" and dims is not None
                else [(None, 1)]
            )
        ]
        whole = {
            x: sum(mix[head] * logit(head, i, x) for head in heads) for x in places
        }

        def direct(logits: dict[tuple[int, int], float]) -> float:
            if teacher_scores is not None and teacher_loss == "m3_kd":
                seen = np.array([[logits[x] for x in places]])
                mask = np.array([[x in there for x in places]])
                columns = np.array([[places.index((i, c)) for c in range(g)]])
                return m3_kd(seen, teacher_scores[i][None], columns, where=mask)[0]
            found = -log_softmax([logits[x] for x in there])[there.index((i, 0))]
            if teacher_scores is not None:
                told = softmax([teacher_scores[i, c] for _, c in own])
                found -= told @ log_softmax([logits[x] for x in own])
            return found

        losses = [weight * direct(logits) for _, weight, logits in views]
        if len(heads) == 1:
            return sum(losses)
        parts = len(heads) + (ensemble_weight != 0)
        base = (sum(losses) + ensemble_weight * direct(whole)) / parts
        told = softmax([whole[x] for x in there])
        learned = [
            -weight * (told @ log_softmax([logits[x] for x in there]))
            for _, weight, logits in views
        ]
        return float((base + distill * sum(learned) / len(heads)) / (1 + distill))

    return np.array([row(i) for i in range(b)])
