"""Every loss with its inputs, values of its arguments, and what it should be."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from m3jax import losses
from m3jax.core.types import Embeddings, Multivec, Sparse
from tests.losses import definitions

B, G, E, J, N, V = 8, 3, 4, 4, 6, 7
RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def mask(*shape: int) -> np.ndarray:
    """True in the first column, and where nobody else is."""
    real = RNG.random(shape) > 0.3
    real[..., 0] = True
    return real


def ids(*shape: int) -> np.ndarray:
    """Different ones, but for some that meet."""
    found = np.arange(2 * np.prod(shape), dtype=np.uint32).reshape(*shape, 2)
    found[(5, *[0] * (len(shape) - 1))] = found[(1, *[0] * (len(shape) - 1))]
    found[(3, *[-1] * (len(shape) - 1))] = found[(6, *[0] * (len(shape) - 1))]
    return found


Given = dict[str, Any]


class Loss(NamedTuple):
    """A loss with its inputs.

    Attributes:
        call: takes arrays and arguments by name.
        definition: the same in float64.
        arrays: what has a gradient.
        values: values of every other argument; the first are the usual ones.
        rows: names of all that has a row for each text or pair.
        absent: name of a mask, and the axis of what its last entry stands for.
        hand: arguments, and what comes out.
        shift: moves what may be moved by a number without changing the loss.
        same: arguments that are not to change the result.
        held: arguments under which the definition's slope is not that of the loss,
            which stops a gradient.
    """

    call: Callable[..., Any]
    definition: Callable[..., Any]
    arrays: Given
    values: dict[str, list[Any]]
    rows: tuple[str, ...]
    absent: tuple[str, dict[str, int]] | None
    hand: tuple[Given, Any]
    shift: Callable[[Given, float], Given]
    same: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


def unit(x: np.ndarray) -> np.ndarray:
    return definitions.unit(x).astype(np.float32)


def moved(name: str) -> Callable[[Given, float], Given]:
    return lambda given, by: given | {name: given[name] + by}


SIMLM = ("own", "passages", "queries", "positive_positive", "positive_query")
NCE_VALUES: dict[str, list[Any]] = {
    "temperature": [0.5, 1, 0.1, jnp.float32(3)],
    "axis_name": [None],
    "negatives": [
        ("own", "passages"),
        ["own"],
        ("passages", "positive_passage"),
        SIMLM,
    ],
    "where": [mask(B, G), None, np.eye(B, G) < 1],
    "in_batch": [np.arange(B) != 6, None, np.arange(B) > 5],
    "query_ids": [ids(B), None, ids(B) // 4],
    "passage_ids": [ids(B, G), None, ids(B, G) // 8],
    "false_negative_margin": [None, 0.1, 0, -0.3],
    "margin_on": [("own", "passages", "queries"), ("own",), ("passages",), SIMLM],
    "hard_negative_weight": [0.0, 1, -2.5],
    "hardness_weight": [0.0, 1, 0.5],
    "bidirectional": [False, True],
    "tile": [None, 3, 100],
    "transport": ["gather"],
    "gradient": [None, "eager", "late"],
}
EYES: Given = {"query": np.eye(2), "passage": np.eye(2)[:, None], "temperature": 0.5}


def shift_passages(given: Given, by: float) -> Given:
    return given | {"passage": given["passage"] + by}


def nested(*, loss: Any, dims: Any, weights: Any, **given: Any) -> Any:
    return losses.matryoshka(loss, dims, weights)(**given)


def nested_definition(*, loss: Any, dims: Any, weights: Any, **given: Any) -> Any:
    known = {losses.info_nce: definitions.info_nce, cosines: cosines_definition}
    return definitions.matryoshka(known[loss], dims, weights)(**given)


def cosines(
    query: jax.Array, passage: jax.Array, where: Any = None, **_: Any
) -> jax.Array:
    found = (query[:, None] * passage).sum(-1) ** 3
    return (found if where is None else found * where).sum(1)


cosines_definition = cosines
SCORES = normal(B, N)
LABELS = RNG.integers(0, V, (B, J))
LABELS[RNG.random((B, J)) > 0.6] = -1
LABELS[:, 0] = 2
LM_VALUES: dict[str, list[Any]] = {
    "bias": [normal(V), None],
    "tile": ["auto", None, 5],
}


def sides() -> tuple[Given, Given]:
    """Heads of queries and of passages; every query token is in some passage."""

    def text(*shape: int, tokens: int) -> Given:
        real = mask(*shape, tokens)
        weights = np.where(real, RNG.uniform(0.2, 1, real.shape), 0)
        return {
            "dense": normal(*shape, E),
            "sparse": Sparse(
                RNG.integers(4, 9, real.shape), weights.astype(np.float32)
            ),
            "multivec": Multivec(normal(*shape, tokens, E), real),
        }

    return text(B, tokens=3), text(B, G, tokens=J)


QUERY, PASSAGE = (Embeddings(**x) for x in sides())


def m3(**given: Any) -> Any:
    return losses.m3(**given).loss


def shift_dense(given: Given, by: float) -> Given:
    passage = given["passage"]
    dense = passage.dense + by
    return given | {"passage": Embeddings(dense, passage.sparse, passage.multivec)}


NCE = Loss(
    losses.info_nce,
    definitions.info_nce,
    {"query": unit(normal(B, E)), "passage": unit(normal(B, G, E))},
    NCE_VALUES,
    ("query", "passage", "where", "in_batch", "query_ids", "passage_ids"),
    ("where", {"passage": 1, "where": 1, "passage_ids": 1}),
    # Scores 1 and 0, twice as logits.
    (EYES, [np.log1p(np.exp(-2))] * 2),
    shift_passages,
    same=("tile", "gradient"),
    held=("hardness_weight",),
)
ENROLLED: dict[str, Loss] = {
    "info_nce": NCE,
    "contrast": NCE._replace(call=lambda **given: losses.contrast(**given).loss),
    "matryoshka": Loss(
        nested,
        nested_definition,
        {"query": normal(B, E), "passage": normal(B, G, E)},
        {
            "loss": [losses.info_nce, cosines],
            "dims": [(2, 4), [1, 3]],
            "weights": [(0.3, 1), None, [-1, 2.5]],
            "temperature": [0.5],
            "where": [mask(B, G)],
        },
        ("query", "passage", "where"),
        ("where", {"passage": 1, "where": 1}),
        # Prefixes: all the same, and scores 1 and 0.
        (
            {"query": np.array([[2.0, 0.0], [1.0, 1.0]]), "passage": np.eye(2)[:, None]}
            | {"loss": cosines, "dims": (1,), "weights": (3,)},
            [3, 0],
        ),
        lambda given, by: given | {"query": given["query"] * np.exp(by)},
    ),
    "softmax_cross_entropy": Loss(
        losses.softmax_cross_entropy,
        definitions.softmax_cross_entropy,
        {"scores": SCORES},
        {
            "target": [np.arange(B) % (N - 1), np.zeros(B, int)],
            "temperature": [1.0, 2, 0.05, jnp.float32(0.3)],
            "where": [mask(B, N), None, np.eye(B, N) < 1],
        },
        ("scores", "target", "where"),
        ("where", {"scores": 1, "where": 1}),
        (
            {
                "scores": np.log([[1, 2, 3]]),
                "target": np.array([1]),
                "temperature": 0.5,
            },
            [np.log(14 / 4)],
        ),
        moved("scores"),
    ),
    "distill_kl": Loss(
        losses.distill_kl,
        definitions.distill_kl,
        {"scores": SCORES},
        {
            "teacher_scores": [normal(B, N), 5 * normal(B, N)],
            "temperature": [0.5, 2, jnp.float32(0.1)],
            "teacher_temperature": [1.0, 3, 0.2],
            "where": [mask(B, N), None, np.eye(B, N) < 1],
        },
        ("scores", "teacher_scores", "where"),
        ("where", {"scores": 1, "teacher_scores": 1, "where": 1}),
        (
            {"scores": np.log([[1, 1]]), "teacher_scores": np.log([[1, 3]])}
            | {"temperature": 1},
            [np.log(2) + np.log(1 / 4) / 4 + np.log(3 / 4) * 3 / 4],
        ),
        lambda given, by: (
            given
            | {"scores": given["scores"] + by}
            | {"teacher_scores": given["teacher_scores"] - 2 * by}
        ),
    ),
    "m3_kd": Loss(
        losses.m3_kd,
        definitions.m3_kd,
        {"scores": SCORES},
        {
            "teacher_scores": [normal(B, G), 5 * normal(B, G)],
            "own": [
                np.stack([RNG.permutation(N - 1)[:G] for _ in range(B)]),
                np.tile(np.arange(G), (B, 1)),
            ],
            "temperature": [1.0, 2, 0.05, jnp.float32(0.3)],
            "where": [mask(B, N), None, np.eye(B, N) < 1],
        },
        ("scores", "teacher_scores", "own", "where"),
        ("where", {"scores": 1, "where": 1}),
        # Half of the first of all three, and half of the second of two.
        (
            {"scores": np.log([[1, 2, 3]]), "teacher_scores": np.zeros((1, 2))}
            | {"own": np.array([[0, 1]])},
            [(np.log(6) + np.log(5 / 2)) / 2],
        ),
        moved("scores"),
    ),
    "rerank_pointwise": Loss(
        losses.rerank_pointwise,
        definitions.rerank_pointwise,
        {"yes": normal(B), "no": normal(B)},
        {
            "labels": [np.arange(B) % 2, np.linspace(0, 1, B).astype(np.float32)],
            "where": [mask(B), None, np.arange(B) > 3],
        },
        ("yes", "no", "labels", "where"),
        ("where", {"yes": 0, "no": 0, "labels": 0, "where": 0}),
        # Shares 3/4 and 1/4.
        (
            {"yes": np.log([3, 3]), "no": np.zeros(2), "labels": np.array([1, 0])},
            np.log([4 / 3, 4]),
        ),
        lambda given, by: given | {"yes": given["yes"] + by, "no": given["no"] + by},
    ),
    "rerank_listwise": Loss(
        losses.rerank_listwise,
        definitions.rerank_listwise,
        {"scores": SCORES},
        {
            "temperature": [1.0, 2, 0.05, jnp.float32(0.3)],
            "where": [mask(B, N), None, np.eye(B, N) < 1],
        },
        ("scores", "where"),
        ("where", {"scores": 1, "where": 1}),
        ({"scores": np.log([[2, 1, 3]]), "temperature": 0.5}, [np.log(14 / 4)]),
        moved("scores"),
    ),
    "cosent": Loss(
        losses.cosent,
        definitions.cosent,
        {"scores": normal(B)},
        {
            "labels": [np.arange(B) % 3, np.linspace(1, 0, B).astype(np.float32)],
            "temperature": [0.5, 2, 0.05, jnp.float32(0.3)],
            "axis_name": [None],
            "where": [mask(B), None, np.arange(B) > 3],
        },
        ("scores", "labels", "where"),
        ("where", {"scores": 0, "labels": 0, "where": 0}),
        # The second is to be lowest and is above both, by 0.2 and by 0.1.
        (
            {"scores": np.array([0.3, 0.5, 0.4]), "labels": np.array([1, 0, 1])}
            | {"temperature": 0.1},
            np.log(1 + np.exp(2) + np.exp(1)),
        ),
        moved("scores"),
    ),
    "masked_lm": Loss(
        losses.masked_lm,
        definitions.masked_lm,
        {"hidden": normal(B, J, E), "table": normal(V, E)},
        {
            "labels": [np.abs(LABELS), np.zeros((B, J), int)],
            "where": [mask(B, J), None, np.eye(B, J) < 1],
            "gradient": ["eager", "late"],
            **LM_VALUES,
        },
        ("hidden", "labels", "where"),
        ("where", {"hidden": 1, "labels": 1, "where": 1}),
        # Logits log 2 and log 6.
        (
            {"hidden": np.ones((1, 1, 1)), "table": np.log([[1], [3]])}
            | {"labels": np.array([[1]]), "bias": np.log([2, 2])},
            [[np.log(4 / 3)]],
        ),
        moved("bias"),
        same=("tile", "gradient"),
    ),
    "retromae": Loss(
        losses.retromae,
        definitions.retromae,
        {
            "encoder_hidden": normal(B, J, E),
            "decoder_hidden": normal(B, J, E),
            "table": normal(V, E),
        },
        {
            "encoder_labels": [LABELS, (np.abs(LABELS) + 1) % V],
            "decoder_labels": [np.abs(LABELS), (np.abs(LABELS) + 2) % V],
            "encoder_where": [LABELS >= 0, None, (LABELS >= 0) & (np.eye(B, J) < 1)],
            "decoder_where": [mask(B, J), None, np.eye(B, J) < 1],
            "axis_name": [None],
            **LM_VALUES,
        },
        tuple(
            f"{side}_{what}"
            for side in ("encoder", "decoder")
            for what in ("hidden", "labels", "where")
        ),
        (
            "decoder_where",
            {"decoder_hidden": 1, "decoder_labels": 1, "decoder_where": 1},
        ),
        # A mean of log(4/3) and log 4, and log 4.
        (
            {"encoder_hidden": np.ones((1, 3, 1)), "decoder_hidden": np.ones((1, 1, 1))}
            | {"encoder_labels": np.array([[1, 0, -1]]), "table": np.log([[1], [3]])}
            | {"decoder_labels": np.array([[0]])},
            (np.log(4 / 3) + np.log(4)) / 2 + np.log(4),
        ),
        moved("bias"),
        same=("tile",),
    ),
    "m3": Loss(
        m3,
        definitions.m3,
        {"query": QUERY, "passage": PASSAGE},
        {
            "temperature": [0.5, 1, jnp.float32(3)],
            "axis_name": [None],
            "score_weights": [(1, 0.3, 1), (0.2, 2.0, 0.5)],
            "loss_weights": [(1, 0.1, 1), (0.2, 2.0, 0.5)],
            "ensemble_weight": [1.0, 0, 0.3],
            "distill": [0.0, 1, jnp.float32(0.6)],
            "teacher_scores": [None, normal(B, G)],
            "teacher_loss": ["kl", "m3_kd"],
            "where": [mask(B, G), None, np.eye(B, G) < 1],
            "in_batch": [np.arange(B) != 6, None, np.arange(B) > 5],
            "query_ids": [ids(B), None],
            "passage_ids": [ids(B, G), None, ids(B, G) // 8],
            "dims": [None, (2, 4), [3]],
            "dim_weights": [None, [0.2]],
            "compat": [None, "flagembedding"],
        },
        ("query", "passage", "where", "in_batch", "query_ids", "passage_ids"),
        ("where", {"passage": 1, "where": 1, "passage_ids": 1}),
        # Dense alone: an InfoNCE.
        (
            {"query": Embeddings(np.eye(2)), "passage": Embeddings(np.eye(2)[:, None])}
            | {"temperature": 0.5},
            [np.log1p(np.exp(-2))] * 2,
        ),
        shift_dense,
        held=("distill",),
    ),
}
# What an argument needs beside it to matter, or to be allowed.
BESIDE: dict[tuple[str, str], Given] = {
    **{
        (name, argument): beside
        for name in ("info_nce", "contrast")
        for argument, beside in {
            "margin_on": {"false_negative_margin": 0.05, "negatives": SIMLM},
            "gradient": {"tile": 3},
        }.items()
    },
    ("masked_lm", "gradient"): {"tile": 3},
    ("m3", "where"): {"teacher_scores": normal(B, G)},
    ("m3", "teacher_loss"): {"teacher_scores": normal(B, G)},
    ("m3", "dim_weights"): {"dims": (3,)},
}


def on_device(given: Given) -> Given:
    def convert(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return jnp.asarray(x, jnp.float32 if x.dtype == np.float64 else None)
        return x

    return {
        name: jax.tree.map(convert, x)
        if isinstance(x, Embeddings)
        else x
        if name == "dims"
        else convert(x)
        for name, x in given.items()
    }


def in_float64(given: Given) -> Given:
    def convert(x: Any) -> Any:
        kind = getattr(x, "dtype", None)
        return np.asarray(x, np.float64) if kind == np.float32 else x

    return {
        name: jax.tree.map(convert, x) if isinstance(x, Embeddings) else convert(x)
        for name, x in given.items()
    }


def defined(name: str, given: Given) -> np.ndarray:
    loss = ENROLLED[name]
    given = {k: x for k, x in in_float64(given).items() if k not in UNDEFINED}
    return np.asarray(loss.definition(**given))


UNDEFINED = ("axis_name", "tile", "gradient", "transport")


def usual(name: str) -> Given:
    loss = ENROLLED[name]
    return {**loss.arrays, **{k: v[0] for k, v in loss.values.items()}}
