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


@pytest.mark.parametrize("case", CASES)
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
        found = over(*arrays, rows)
        return (found.loss * jnp.linspace(1, 2, len(found.loss))).sum(), found

    def even(arrays: Any, rows: Any) -> Any:
        found = over(*arrays, rows)
        return found.loss.mean(), found

    return tuple(
        jax.jit(jax.value_and_grad(f, has_aux=True, allow_int=True))
        for f in (even, loss)
    )


@pytest.mark.parametrize("case", ["two_devices", "two_devices_kl"])
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


def assert_same(found: Any, expected: Any) -> None:
    def close(x: Any, y: Any) -> None:
        if y.dtype == jnp.float32:
            limit = 2e-5 * float(np.abs(y).max())
            np.testing.assert_allclose(x, y, rtol=0, atol=limit)

    jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
    ("kind", "devices", "check_vma"),
    [("distill", 2, True), ("distill", 8, False), ("dims", 4, True)],
)
def test_devices_change_nothing(kind: str, devices: int, check_vma: bool) -> None:
    found = [
        run(both(2), arrays(kind)) for run in mapped(devices, check_vma, **KINDS[kind])
    ]
    assert_same(found, truth(kind))


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
