"""BGE-M3's loss: FlagEmbedding's numbers, the definition, and any number of devices."""

import functools
import inspect
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from m3jax.core.errors import InputError
from m3jax.core.types import Embeddings, Multivec, Sparse
from m3jax.losses.bge_m3 import M3Loss, m3
from m3jax.losses.nested import matryoshka
from tests.compare import assert_same
from tests.losses import definitions
from tests.losses.recipes import recipes

GOLDEN = Path(__file__).parent.parent / "golden" / "m3_loss.npz"
B, G, TEMPERATURE = 4, 3, 0.1
HEADS = ("dense", "sparse", "multivec")
LEAVES = ("dense", "weights", "vectors")


@functools.cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def side(name: str, rows: int, group: int | None) -> Embeddings:
    """Embeddings as our heads give them: no CLS vector, special tokens weigh 0."""

    def read(key: str) -> Any:
        found = golden()[f"{name}_{key}"][:rows]
        found = found.astype(np.float32) if found.dtype == np.float64 else found
        return found if group is None else found.reshape(-1, group, *found.shape[1:])

    special = read("ids") < 4
    return jax.tree.map(
        jnp.asarray,
        Embeddings(
            read("dense"),
            Sparse(read("ids").astype(np.int32), np.where(special, 0, read("weights"))),
            Multivec(read("vectors"), read("attention_mask")[..., 1:]),
        ),
    )


def both(devices: int = 1) -> tuple[Embeddings, Embeddings]:
    rows = devices * B
    return side("query", rows, None), side("passage", rows * G, G)


def slopes(found: tuple[Any, Any]) -> dict[str, np.ndarray]:
    """Gradients under the names of the golden file."""
    told = {}
    for name, part in zip(("query", "passage"), found, strict=True):
        leaves = part.dense, part.sparse.weights, part.multivec.vectors
        for key, leaf in zip(LEAVES, leaves, strict=True):
            flat = leaf if name == "query" else leaf.reshape(-1, *leaf.shape[2:])
            told[f"{name}_{key}"] = np.asarray(flat)
    return told


def as_golden(case: str, value: Any, gradient: Any, rows: int) -> None:
    if value is not None:
        np.testing.assert_allclose(value, golden()[f"{case}/loss"], rtol=1e-5)
    for key, found in slopes(gradient).items():
        expected = golden()[f"{case}/{key}"]
        if key.endswith("weights"):
            # FlagEmbedding has a gradient for what it then multiplies by 0.
            name = key.split("_")[0]
            ids = golden()[f"{name}_ids"][: len(found)]
            found, expected = (np.where(ids < 4, 0, x) for x in (found, expected))
        if key.endswith("vectors"):
            name = key.split("_")[0]
            real = golden()[f"{name}_attention_mask"][: len(found), 1:, None]
            found, expected = found * real, expected * real
        limit = 2e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=key)


CASES: dict[str, dict[str, Any]] = {
    "base": {},
    "distill": {"distill": 1.0},
    "kl_div": {"teacher_loss": "kl"},
    "m3_kd_loss": {"teacher_loss": "m3_kd", "distill": 1.0},
}


def with_teacher(options: dict[str, Any], rows: int) -> dict[str, Any]:
    if "teacher_loss" not in options:
        return options
    teacher = jnp.asarray(golden()["teacher_scores"][:rows], jnp.float32)
    return options | {"teacher_scores": teacher}


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("base", "distill")),
        *("kl_div", "m3_kd_loss"),
    ],
)
def test_is_flagembedding_on_one_device(case: str) -> None:
    options = with_teacher(CASES[case], B)

    @jax.jit
    def run(arrays: Any) -> Any:
        def loss(arrays: Any) -> Any:
            found = m3(
                *arrays, temperature=TEMPERATURE, compat="flagembedding", **options
            )
            return found.loss.mean()

        return jax.value_and_grad(loss, allow_int=True)(arrays)

    value, gradient = run(both())
    as_golden(case, value, gradient, B)


MESHES = {1: ((1, 1), 1), 2: ((2, 1), 2), 4: ((2, 2), 4), 8: ((4, 2), 8)}


def mapped(devices: int, check_vma: bool = True, **options: Any) -> Any:
    """Mean loss with its gradient, on a mesh of two axes."""
    shape, count = MESHES[devices]
    axes, types = ("data", "fsdp"), (AxisType.Auto,) * 2
    mesh = jax.make_mesh(shape, axes, types, devices=jax.devices()[:count])

    def local(query: Embeddings, passage: Embeddings, rows: Any) -> M3Loss:
        return m3(
            query, passage, temperature=TEMPERATURE, axis_name=axes, **options, **rows
        )

    over = jax.shard_map(
        local, mesh=mesh, in_specs=P(axes), out_specs=P(axes), check_vma=check_vma
    )

    def loss(arrays: Any, rows: Any) -> Any:
        query, passage = arrays
        found = over(query, passage, rows)
        return (found.loss * jnp.linspace(1, 2, len(found.loss))).sum(), found

    def even(arrays: Any, rows: Any) -> Any:
        query, passage = arrays
        found = over(query, passage, rows)
        return found.loss.mean(), found

    return tuple(
        jax.jit(jax.value_and_grad(f, has_aux=True, allow_int=True))
        for f in (even, loss)
    )


@pytest.mark.parametrize(
    "case", [pytest.param("two_devices", marks=pytest.mark.slow), "two_devices_kl"]
)
def test_is_flagembedding_on_two_devices(case: str) -> None:
    """The dense loss sees both, with half its weight; all else sees its own device."""
    options: dict[str, Any] = {"compat": "flagembedding"}
    options |= {"distill": 1.0} if case == "two_devices" else {}
    rows = with_teacher({"teacher_loss": "kl"} if case.endswith("kl") else {}, 2 * B)
    rows.pop("teacher_loss", None)
    (_, found), gradient = mapped(2, **options)[0](both(2), rows)
    as_golden(case, None, gradient, 2 * B)
    # Its value counts the dense loss whole; with that, it is ours.
    factor = 2 * 4 if case == "two_devices" else 4
    whole = (found.loss + found.dense / factor).mean()
    if case == "two_devices":
        np.testing.assert_allclose(whole, golden()[f"{case}/loss"], rtol=1e-5)


@functools.cache
def truth(kind: str) -> Any:
    return [run(both(2), arrays(kind)) for run in mapped(1, **KINDS[kind])]


KINDS: dict[str, dict[str, Any]] = {
    "distill": {"distill": 0.6},
    "dims": {"distill": 0.3, "dims": (3, 8), "dim_weights": (0.5, 1.0)},
}


def arrays(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    where = rng.random((2 * B, G)) > 0.2
    where[:, 0] = True
    where[3] = False
    ids = np.arange(2 * B * G, dtype=np.uint32).reshape(2 * B, G, 1)
    ids[2, 1] = ids[6, 0]
    query_ids = np.arange(2 * B, dtype=np.uint32)[:, None]
    query_ids[5] = query_ids[1]
    found = {
        "where": where,
        "in_batch": np.arange(2 * B) != 4,
        "query_ids": query_ids,
        "passage_ids": ids,
    }
    if kind == "dims":
        found["teacher_scores"] = golden()["teacher_scores"].astype(np.float32)
    return jax.tree.map(jnp.asarray, found)


@pytest.mark.parametrize(
    ("kind", "devices", "check_vma"),
    [
        pytest.param("distill", 8, False, marks=pytest.mark.slow),
        pytest.param("dims", 4, True, marks=pytest.mark.slow),
        pytest.param("distill", 2, True, marks=pytest.mark.slow),
    ],
)
def test_devices_change_nothing(kind: str, devices: int, check_vma: bool) -> None:
    found = [
        run(both(2), arrays(kind)) for run in mapped(devices, check_vma, **KINDS[kind])
    ]
    assert_same(found, truth(kind), 2e-5)


def test_nothing_larger_than_the_queries_travels() -> None:
    """Passages are 3 x as many, and their token vectors 1.5 x as long."""
    run = mapped(8)[0]
    text = run.lower(both(2), {}).compile().as_text()
    kinds = "all-gather|all-to-all|collective-permute|all-reduce|reduce-scatter"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    assert {kind for _, kind in found} >= {"all-gather", "all-to-all"}
    sizes = [
        np.prod([int(n) for n in shape.split(",") if n])
        for types, _ in found
        for shape in re.findall(r"\w+\[([\d,]*)\]", types)
    ]
    query, passage = both(2)
    assert query.multivec is not None and passage.multivec is not None
    largest = query.multivec.vectors.size
    assert max(sizes) <= largest < passage.multivec.vectors.size


def in_float64(x: jax.Array) -> np.ndarray:
    return np.asarray(x, np.float64 if x.dtype == jnp.float32 else None)


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        pytest.param(("dense", "multivec"), {"distill": 0.4}, marks=pytest.mark.slow),
        (("sparse", "multivec"), {"ensemble_weight": 0, "distill": 1}),
        (("sparse",), {"distill": 0.4}),
    ],
)
def test_some_of_the_heads(heads: tuple[str, ...], options: dict[str, Any]) -> None:
    query, passage = (
        Embeddings(**{name: getattr(whole, name) for name in heads}) for whole in both()
    )
    loss = functools.partial(m3, temperature=TEMPERATURE, **options)
    found = jax.jit(loss)(query, passage)
    exact = jax.tree.map(in_float64, (query, passage))
    expected = definitions.m3(*exact, temperature=TEMPERATURE, **options)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    for name in HEADS:
        assert (getattr(found, name) is None) == (name not in heads)
    assert (found.ensemble is None) == (found.distill is None) == (len(heads) == 1)


def logits_of(head: str, query: Embeddings, passage: Embeddings) -> np.ndarray:
    pairs = [
        [
            definitions.head_score(head, query, passage, i, n // G, n % G)
            for n in range(B * G)
        ]
        for i in range(B)
    ]
    return np.array(pairs) / TEMPERATURE


def cross(target: np.ndarray, logits: np.ndarray) -> np.ndarray:
    logs = logits - logits.max(1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(1, keepdims=True))
    return -(target * logs).sum(1)


def test_the_first_version_of_the_paper() -> None:
    """Its unweighted mean of three losses L, and L' of the same, added: L + L'."""
    query, passage = both()
    exact = jax.tree.map(in_float64, (query, passage))
    ones = (1.0, 1.0, 1.0)
    options: dict[str, Any] = {
        "temperature": TEMPERATURE,
        "score_weights": ones,
        "loss_weights": ones,
        "ensemble_weight": 0,
    }
    # As it stands in docs/losses.md.
    first_version = recipes()["m3_first_version"]
    found = jax.jit(first_version)(query, passage, TEMPERATURE)
    one, two = (definitions.m3(*exact, distill=d, **options) for d in (0, 1))
    np.testing.assert_allclose(found, 2 * two, rtol=1e-5)
    learned = 2 * two - one
    np.testing.assert_allclose(found, one + learned, rtol=1e-5)
    right = np.zeros((B, B * G))
    right[np.arange(B), np.arange(B) * G] = 1
    plain = [cross(right, logits_of(head, *exact)) for head in HEADS]
    np.testing.assert_allclose(one, np.mean(plain, 0), rtol=1e-6)


def test_matryoshka_cuts_dense_only() -> None:
    query, passage = both()

    def run(loss: Any, *sides: Embeddings, **options: Any) -> M3Loss:
        options |= {"temperature": TEMPERATURE}
        return jax.jit(functools.partial(loss, **options))(*sides)

    dims, weights = (3, 8), (0.5, 1.0)
    nested = matryoshka(m3, dims, weights)
    found = run(nested, query, passage, distill=0.5)
    same = run(m3, query, passage, distill=0.5, dims=dims, dim_weights=weights)
    np.testing.assert_array_equal(found.loss, same.loss)
    whole = run(m3, query, passage, distill=0.5)

    def cut(x: Any, dim: int) -> Any:
        return x[..., :dim] / jnp.linalg.norm(x[..., :dim], axis=-1, keepdims=True)

    dense = [
        run(m3, *(Embeddings(cut(x.dense, dim)) for x in (query, passage))).loss
        for dim in dims
    ]
    np.testing.assert_allclose(found.dense, 0.5 * dense[0] + dense[1], rtol=1e-5)
    for name in ("sparse", "multivec", "ensemble"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(whole, name), rtol=1e-6
        )


def test_nothing_to_learn_from_is_zero() -> None:
    query, passage = both()
    where = jnp.ones((B, G), bool).at[1].set(False)

    def loss(arrays: Any) -> Any:
        found = m3(*arrays, temperature=TEMPERATURE, distill=1.0, where=where)
        return found.loss.sum(), found

    run = jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))
    (_, found), gradient = run((query, passage))
    for leaf in jax.tree.leaves(found):
        assert leaf[1] == 0 and (np.delete(leaf, 1) > 0).all()
    for name, slope in slopes(gradient).items():
        assert np.isfinite(slope).all(), name
    assert np.abs(gradient[0].dense[1]).max() == 0


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "arrays": (
        lambda q, p: (q.dense, p.dense),
        {},
        "query: expected Embeddings, found",
    ),
    "a part": (
        lambda q, p: (
            Embeddings(multivec=Multivec(q.multivec.vectors, None)),
            Embeddings(multivec=p.multivec),
        ),
        {},
        "query.multivec.mask: expected an array, found NoneType",
    ),
    "weight names": (
        None,
        {"score_weights": {"dense": 1}},
        "expected a tuple of 3 weights, of",
    ),
    "no distill": (None, {"distill": None}, "distill: expected a number from 0 to 1"),
    "no head": (
        lambda q, p: (Embeddings(), Embeddings()),
        {},
        "the heads of query: at",
    ),
    "one side": (
        lambda q, p: (q, Embeddings(p.dense)),
        {},
        "passage: expected the heads of query: dense, sparse, multivec, found dense",
    ),
    "flat passages": (
        lambda q, p: (Embeddings(q.dense), Embeddings(p.dense[:, 0])),
        {},
        "passage: expected [b g ...], the positive first, found shape (4, 8)",
    ),
    "another group": (
        lambda q, p: (q, Embeddings(p.dense[:, :2], p.sparse, p.multivec)),
        {},
        "passage.sparse: expected shape (4, 2, 9), found (4, 3, 9)",
    ),
    "weights": (
        None,
        {"score_weights": (1, 1)},
        "score_weights: expected a tuple of 3 weights",
    ),
    "loss weights": (
        None,
        {"loss_weights": (1,)},
        "loss_weights: expected a tuple of 3 weights",
    ),
    "distill": (None, {"distill": 1.5}, "distill: expected a number from 0 to 1"),
    "temperature": (None, {"temperature": 0}, "a temperature above 0, found 0"),
    "teacher": (
        None,
        {"teacher_scores": jnp.ones((B, 2))},
        "teacher_scores: expected shape (4, 3), found (4, 2)",
    ),
    "teacher loss": (
        None,
        {"teacher_loss": "mse"},
        "teacher_loss: expected 'kl' or 'm3_kd'",
    ),
    "compat": (
        None,
        {"compat": "tevatron"},
        "compat: expected None or 'flagembedding'",
    ),
    "dims": (None, {"dims": (8, 3)}, "dims: expected positive integers, ascending"),
    "no teacher": (None, {"teacher_loss": "m3_kd"}, "expected teacher_scores with"),
    "sparse dims": (
        lambda q, p: (Embeddings(sparse=q.sparse), Embeddings(sparse=p.sparse)),
        {"dims": (3, 8)},
        "query: expected a dense head with dims, found sparse",
    ),
    "dim weights": (
        None,
        {"dims": (3, 8), "dim_weights": (1,)},
        "dim_weights: expected 2 weights, one for each dim, found 1",
    ),
    "distills": (None, {"distill": jnp.ones(B)}, "distill: expected one number, found"),
    "no dims": (None, {"dim_weights": (1,)}, "dims: expected dims with dim_weights"),
    "wide": (None, {"dims": (3, 9)}, "dims: expected at most the width 8, found 9"),
    "no query": (
        lambda q, p: (Embeddings(q.dense[:0]), Embeddings(p.dense[:0])),
        {},
        "query: expected at least one query, found none",
    ),
    "a list": (
        lambda q, p: (Embeddings(q.dense.tolist()), Embeddings(p.dense)),
        {},
        "query.dense: expected an array, found list",
    ),
    "short mask": (
        lambda q, p: (
            Embeddings(multivec=q.multivec),
            Embeddings(multivec=Multivec(p.multivec.vectors, p.multivec.mask[..., 1:])),
        ),
        {},
        "passage.multivec.mask: expected shape (4, 3, 8), found (4, 3, 7)",
    ),
    "another width": (
        lambda q, p: (Embeddings(q.dense[:, 1:]), Embeddings(p.dense)),
        {},
        "passage.dense: expected width 7, found 8",
    ),
    "axis": (None, {"axis_name": "rows"}, "axis_name: expected a mapped axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_arguments_that_do_not_fit(case: str) -> None:
    change, options, said = BAD[case]
    # Without the suite's own shape checks, which users do not have.
    loss = inspect.unwrap(m3)
    given = both() if change is None else change(*both())
    with pytest.raises(InputError) as error:
        loss(*given, **{"temperature": TEMPERATURE, **options})
    assert said in str(error.value)
