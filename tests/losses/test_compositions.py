"""Published losses as short compositions: against float64, and other libraries.

The compositions are those of docs/losses.md. The definitions after them are written
from the papers and the published code, one candidate after the other.
"""

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.losses.definitions import unit
from tests.losses.recipes import recipes

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
B, G, E = GOLDEN["passage"].shape
DIMS = tuple(GOLDEN["dims"].tolist())
WEIGHTS = tuple(GOLDEN["weights"].tolist())
TEACHER = GOLDEN["kd/teacher"]
ALPHA, LOG_WEIGHT, MARGIN = 0.2, 0.7, 0.1


PAGE = recipes()
simlm, symmetric_of = PAGE["simlm"], PAGE["symmetric"]
qwen3_swift = functools.partial(PAGE["qwen3_swift"], temperature=0.05)
kalm = functools.partial(PAGE["kalm"], dims=DIMS, weights=WEIGHTS, temperature=0.05)


def simcse_unsupervised(query: jax.Array, passage: jax.Array) -> jax.Array:
    return PAGE["simcse_unsupervised"](query, passage[:, :1])


def simcse_supervised(query: jax.Array, passage: jax.Array) -> jax.Array:
    return PAGE["simcse_supervised"](query, passage[:, :2], LOG_WEIGHT)


def e5(query: jax.Array, passage: jax.Array) -> jax.Array:
    return PAGE["e5"](query, passage, jnp.asarray(TEACHER), ALPHA)


def qwen3(query: jax.Array, passage: jax.Array) -> jax.Array:
    ids = jnp.asarray(QUERY_IDS), jnp.asarray(PASSAGE_IDS)
    return PAGE["qwen3"](query, passage, *ids, temperature=0.05)


def symmetric(query: jax.Array, passage: jax.Array) -> jax.Array:
    return symmetric_of(query, passage[:, :1])


def with_hard_negatives(query: jax.Array, passage: jax.Array) -> jax.Array:
    """What supervised SimCSE is with a weight of 1 and larger groups."""
    return PAGE["simcse_supervised"](query, passage)


# What they should be, in float64. q, p: rows of length 1.


def nce(positive: float, negatives: list[float], temperature: float) -> float:
    return np.log1p(sum(np.exp((s - positive) / temperature) for s in negatives))


def others(i: int) -> list[int]:
    return [j for j in range(B) if j != i]


def of_simcse_unsupervised(q: np.ndarray, p: np.ndarray) -> list[float]:
    q, p = unit(q), unit(p)
    rows = range(B)
    return [
        nce(q[i] @ p[i, 0], [q[i] @ p[j, 0] for j in others(i)], 0.05) for i in rows
    ]


def of_simcse_supervised(q: np.ndarray, p: np.ndarray) -> list[float]:
    q, p = unit(q), unit(p)
    losses = []
    for i in range(B):
        total = sum(np.exp(q[i] @ p[j, 0] / 0.05) for j in range(B))
        for j in range(B):
            logit = q[i] @ p[j, 1] / 0.05
            total += np.exp(logit + LOG_WEIGHT if i == j else logit)
        losses.append(np.log(total) - q[i] @ p[i, 0] / 0.05)
    return losses


def of_simlm(q: np.ndarray, p: np.ndarray, temperature: float = 0.02) -> list[float]:
    q, p = unit(q), unit(p)
    losses = []
    for i in range(B):
        all_p = [q[i] @ p[j, c] for j in range(B) for c in range(G) if (j, c) != (i, 0)]
        p_q = [p[i, 0] @ q[j] for j in others(i)]
        q_q = [q[i] @ q[j] for j in others(i)]
        p_p = [p[i, 0] @ p[j, 0] for j in others(i)]
        losses.append(nce(q[i] @ p[i, 0], all_p + p_q + q_q + p_p, temperature))
    return losses


def of_e5(q: np.ndarray, p: np.ndarray) -> list[float]:
    contrast = of_simlm(q, p, 0.01)
    q, p = unit(q), unit(p)
    losses = []
    for i in range(B):
        t = np.exp(np.float64(TEACHER[i]))
        t /= t.sum()
        s = p[i] @ q[i] / 0.01
        log_share = s - s.max() - np.log(np.exp(s - s.max()).sum())
        losses.append((t * (np.log(t) - log_share)).sum() + ALPHA * contrast[i])
    return losses


def of_qwen3(
    q: np.ndarray, p: np.ndarray, struck: Counter[str] | None = None
) -> list[float]:
    q, p, losses = unit(q), unit(p), []
    struck = Counter() if struck is None else struck
    for i in range(B):
        positive = q[i] @ p[i, 0]
        negatives = []

        def judge(
            name: str, score: float, same: bool, limit: float, into: list
        ) -> None:
            if same or score > limit:
                struck[f"{name}, {'same' if same else 'margin'}"] += 1
            else:
                into.append(score)

        for k in range(1, G):
            same = ID[i][k] == ID[i][0]
            judge("own", q[i] @ p[i, k], same, positive + MARGIN, negatives)
        for j in others(i):
            for c in range(G):
                same = ID[j][c] == ID[i][0]
                judge("passage", q[i] @ p[j, c], same, positive + MARGIN, negatives)
            same = ID[j][0] == ID[i][0]
            judge("query", q[i] @ q[j], same, positive + MARGIN, negatives)
            # The paper has no threshold for a score of two passages.
            judge("positive", p[i, 0] @ p[j, 0], same, np.inf, negatives)
        losses.append(nce(positive, negatives, 0.05))
    return losses


def of_qwen3_swift(
    q: np.ndarray, p: np.ndarray, struck: Counter[str] | None = None
) -> list[float]:
    q, p, losses = unit(q), unit(p), []
    struck = Counter() if struck is None else struck
    for i in range(B):
        positive = q[i] @ p[i, 0]
        flat = [(j, c) for j in range(B) for c in range(G) if (j, c) != (i, 0)]
        meets = [q[i] @ p[j, c] for j, c in flat] + [q[i] @ q[j] for j in others(i)]
        kept = [score for score in meets if score <= positive + MARGIN]
        struck["margin"] += len(meets) - len(kept)
        losses.append(nce(positive, kept + [p[i, 0] @ p[j, c] for j, c in flat], 0.05))
    return losses


def of_kalm(q: np.ndarray, p: np.ndarray) -> list[float]:
    losses = np.zeros(B)
    for dim, weight in zip(DIMS, WEIGHTS, strict=True):
        losses += weight * np.array(of_hard(q[:, :dim], p[:, :, :dim]))
    return losses.tolist()


def of_hard(q: np.ndarray, p: np.ndarray) -> list[float]:
    q, p, losses = unit(q), unit(p), []
    for i in range(B):
        logits = [q[i] @ p[j, c] / 0.05 for j in range(B) for c in range(G)]
        losses.append(np.log(np.exp(logits).sum()) - q[i] @ p[i, 0] / 0.05)
    return losses


def of_symmetric(q: np.ndarray, p: np.ndarray) -> list[float]:
    there = of_simcse_unsupervised(q, p)
    back = of_simcse_unsupervised(p[:, 0], q[:, None])
    return [(one + two) / 2 for one, two in zip(there, back, strict=True)]


# Inputs, once as they are and once with equal and with nearly equal texts.


def numbered() -> tuple[np.ndarray, np.ndarray]:
    """Ids of queries and passages, all different but where `repeated` repeats."""
    query = np.arange(B, dtype=np.uint32)[:, None]
    passage = np.arange(B * G, dtype=np.uint32).reshape(B, G, 1)
    query[5] = query[1]
    for (j, c), (i, k) in EQUAL.items():
        passage[j, c] = passage[i, k]
    return query, passage


# Another row once more; a positive among other's hard negatives, and among its own.
EQUAL = {(5, 0): (1, 0), (2, 1): (4, 0), (3, 2): (3, 0)}
QUERY_IDS, PASSAGE_IDS = numbered()
ID = PASSAGE_IDS[..., 0].tolist()


def repeated() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    query, passage = GOLDEN["query"].copy(), GOLDEN["passage"].copy()
    query[5] = query[1]
    for (j, c), (i, k) in EQUAL.items():
        passage[j, c] = passage[i, k]
    noise = rng.normal(size=(3, E)).astype(np.float32) / 2
    query[4] = query[0] + noise[0]  # false negatives by the margin
    passage[0, 1] = query[0] + noise[1]
    passage[2, 2] = query[3] + noise[2]
    return query, passage


PLAIN = GOLDEN["query"], GOLDEN["passage"]
Loss = Callable[[Any, Any], Any]
CASES: list[tuple[Loss, Loss, tuple[np.ndarray, np.ndarray]]] = [
    (simcse_unsupervised, of_simcse_unsupervised, PLAIN),
    (simcse_supervised, of_simcse_supervised, PLAIN),
    (simlm, of_simlm, PLAIN),
    (e5, of_e5, PLAIN),
    (qwen3, of_qwen3, repeated()),
    (qwen3_swift, of_qwen3_swift, repeated()),
    (kalm, of_kalm, PLAIN),
    (symmetric, of_symmetric, PLAIN),
    (with_hard_negatives, of_hard, PLAIN),
]


@functools.cache
def compiled(loss: Loss) -> Callable[..., Any]:
    """The losses, and the gradients of their mean."""

    def mean(query: jax.Array, passage: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = loss(query, passage)
        return found.mean(), found

    return jax.jit(jax.grad(mean, (0, 1), has_aux=True))


@pytest.mark.parametrize(("loss", "definition", "inputs"), CASES)
def test_is_the_definition(loss: Loss, definition: Loss, inputs: Any) -> None:
    slopes, found = compiled(loss)(*inputs)
    q, p = (x.astype(np.float64) for x in inputs)
    np.testing.assert_allclose(found, definition(q, p), rtol=1e-4, atol=1e-5)
    # The slope in a direction, by differences of the definition.
    rng = np.random.default_rng(2)
    dq, dp = rng.normal(size=q.shape), rng.normal(size=p.shape)
    step = 1e-6
    ahead, behind = (np.mean(definition(q + h * dq, p + h * dp)) for h in (step, -step))
    slope = sum((x * d).sum() for x, d in zip(slopes, (dq, dp), strict=True))
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-3)


def test_the_masks_had_something_to_strike() -> None:
    struck: Counter[str] = Counter()
    q, p = (x.astype(np.float64) for x in repeated())
    of_qwen3(q, p, struck)
    own, passage = ("own, same", "own, margin"), ("passage, same", "passage, margin")
    query = ("query, same", "query, margin")
    assert set(struck) == {*own, *passage, *query, "positive, same"}
    struck.clear()
    of_qwen3_swift(q, p, struck)
    assert struck["margin"] > 2


@pytest.mark.parametrize(
    ("loss", "names"),
    [
        (simcse_unsupervised, ("ranking", "cached", "simcse")),
        (simcse_supervised, ("simcse_weighted",)),
        (with_hard_negatives, ("ranking_hard", "cached_hard")),
        (symmetric, ("ranking_symmetric",)),
        (kalm, ("nested_hard",)),
    ],
)
def test_says_what_other_libraries_say(loss: Loss, names: tuple[str, ...]) -> None:
    """sentence-transformers, with gradients cached or not, and SimCSE's formula."""
    (by_query, by_passage), found = compiled(loss)(*PLAIN)
    for name in names:
        expected = GOLDEN[f"{name}/passage"]
        given = expected.shape[1]
        np.testing.assert_allclose(found.mean(), GOLDEN[f"{name}/loss"], rtol=1e-5)
        for slope, theirs in (
            (by_query, GOLDEN[f"{name}/query"]),
            (by_passage[:, :given], expected),
        ):
            np.testing.assert_allclose(slope, theirs, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(by_passage[:, given:], 0)
