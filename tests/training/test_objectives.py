"""Every objective: one result on every mesh and at every sub-batch count."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch, Embeddings, Tokens
from m3jax.nn.embedding import EmbeddingModule, embed
from m3jax.nn.encoder import SHARDING
from m3jax.nn.reranker import RerankerConfig, RerankerModule, score
from m3jax.testing import tiny_config
from m3jax.training.objectives import (
    ContrastiveConfig,
    MomentumConfig,
    RerankingConfig,
    SubBatches,
    UnifiedConfig,
)
from m3jax.training.objectives.make import check_objective, make_objective
from m3jax.training.objectives.texts import parts
from m3jax.training.objectives.unified import best_first, with_vectors
from m3jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from m3jax.training.state import abstract_state, new_state, starting
from m3jax.training.step import make_step

SIZE, GROUP = 16, 3
DENSE = ContrastiveConfig(temperature=0.1)
# Name -> config, and what the batch has beside the texts.
CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "qwen": (
        dataclasses.replace(
            DENSE,
            negatives=("own", "passages", "queries", "positive_positive"),
            false_negative_margin=0.1,
        ),
        (),
    ),
    "kalm": (dataclasses.replace(DENSE, dims=(4, 16), dim_weights=(0.3, 1.0)), ()),
    "e5": (dataclasses.replace(DENSE, contrastive_weight=0.2), ("teacher_scores",)),
    "graded": (DENSE, ("label",)),
    "m3": (UnifiedConfig(temperature=0.1, distill_from=1), ()),
    "m3_taught": (UnifiedConfig(temperature=0.1), ("teacher_scores",)),
    "moco": (MomentumConfig(temperature=0.1, queue=24, momentum=0.5), ()),
    "listwise": (RerankingConfig(teacher_weight=0.5), ("teacher_scores",)),
    "pointwise": (RerankingConfig("pointwise"), ()),
}


def batch(seed: int, *, together: bool, beside: tuple[str, ...]) -> Batch:
    rng = np.random.default_rng(seed)

    def tokens(*shape: int) -> Tokens:
        ids = rng.integers(1, 64, shape).astype(np.int32)
        mask = np.arange(shape[-1]) < rng.integers(2, shape[-1] + 1, (*shape[:-1], 1))
        return Tokens(ids * mask, mask)

    where = rng.random((SIZE, GROUP)) > 0.2
    where[:, 0] = True
    where[3] = False
    query, passage = tokens(SIZE, 6), tokens(SIZE, GROUP, 9)
    made = Batch(
        query=None if together else query,
        passage=None if together else passage,
        where=where,
        query_ids=rng.integers(0, 9, (SIZE, 2)).astype(np.uint32),
        passage_ids=rng.integers(0, 9, (SIZE, GROUP, 2)).astype(np.uint32),
        in_batch=rng.random(SIZE) > 0.3,
        row=np.arange(SIZE, dtype=np.int32),
        dataset=np.zeros(SIZE, np.int32),
        teacher_scores=(
            rng.normal(size=(SIZE, GROUP)).astype(np.float32)
            if "teacher_scores" in beside
            else None
        ),
        label=rng.random(SIZE).astype(np.float32) if "label" in beside else None,
        pair=passage if together else None,
    )
    return jax.tree.map(jnp.asarray, made)


def module_of(config: Any, **fields: Any) -> EmbeddingModule | RerankerModule:
    heads = {"sparse": True, "multivec": 4} if isinstance(config, UnifiedConfig) else {}
    fields.setdefault("dropout", 0.2)
    made = tiny_config(**fields)
    if isinstance(config, RerankingConfig):
        return RerankerModule(RerankerConfig(made.encoder))
    return EmbeddingModule(dataclasses.replace(made, **heads))


def run(name: str, mesh_config: MeshConfig, devices: int, sub_batches: SubBatches):
    config, beside = CASES[name]
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    module = module_of(config)
    objective = make_objective(config, module, mesh, sub_batches)
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=0.0)
    tx = make_optimizer(optimizer, steps=10)
    start = starting(module, auxiliary=objective.auxiliary)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    state = new_state(start, objective, tx, like, seed=0)
    step = make_step(objective, tx, make_schedule(optimizer, 10), mesh, like)
    told = []
    for number in range(3):
        one = batch(number, together=objective.reads == "together", beside=beside)
        state, metrics = step(state, jax.device_put(one, batch_sharding(mesh)))
        told.append({name: float(x) for name, x in metrics.items()})
    return state, told


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("mesh", "devices", "sub_batches"),
    [
        (MeshConfig(), 1, SubBatches(4)),
        (MeshConfig(fsdp=2, tensor=2), 8, SubBatches(tokens=18)),
    ],
    ids=["one", "eight"],
)
def test_any_mesh_and_sub_batches(
    name: str, mesh: MeshConfig, devices: int, sub_batches: SubBatches
) -> None:
    truth, told_then = run(name, MeshConfig(), 1, SubBatches())
    state, told = run(name, mesh, devices, sub_batches)
    if name == "listwise":
        # What is added to all logits has no gradient: Adam makes a step of any noise.
        for one in (*told, *told_then):
            del one["positive"], one["negative"], one["parameter_norm"]
        for one in (state, truth):
            del one.params["classifier"]["out"]["bias"]
    for now, then in zip(told, told_then, strict=True):
        assert now.keys() == then.keys()
        for metric in now:
            want = pytest.approx(then[metric], rel=1e-5, abs=2e-6)
            assert now[metric] == want, metric
    assert told[-1]["loss"] != told[0]["loss"]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-5),
        (state.params, state.extra),
        (truth.params, truth.extra),
    )


def embeddings(config: Any, one: Batch) -> tuple[Any, Embeddings, Embeddings]:
    """Parameters, and what they make of a batch without dropout."""
    module = module_of(config, dropout=0.0)
    assert isinstance(module, EmbeddingModule)
    params = starting(module)(jax.random.key(0), None)
    flat = jax.tree.map(lambda x: x.reshape(SIZE * GROUP, -1), one.passage)
    outputs = module.config.outputs
    run = jax.jit(lambda texts: embed(module, params, texts, outputs=outputs))
    query, passage = run(one.query), run(flat)
    back = jax.tree.map(lambda x: x.reshape(SIZE, GROUP, *x.shape[1:]), passage)
    return (module, params), query, back


def terms(config: Any, made: Any, one: Batch, step: int = 0):
    module, params = made
    objective = make_objective(config, module, make_mesh(MeshConfig()))
    extra = objective.init(params, jax.random.key(1))
    # Outside of a program, every operation would be compiled for all devices.
    loss = jax.jit(objective.loss)
    found = loss(params, extra, one, jnp.int32(step), jax.random.key(2))
    return found, objective, extra


def test_contrastive_is_the_sum_that_it_says() -> None:
    config = dataclasses.replace(
        DENSE, dims=(4, 16), dim_weights=(0.3, 1.0), contrastive_weight=0.2
    )
    one = batch(0, together=False, beside=("teacher_scores",))
    made, query, passage = embeddings(config, one)
    found, _, _ = terms(config, made, one)
    facts = {"where": one.where, "query_ids": one.query_ids, "in_batch": one.in_batch}
    nested = losses.matryoshka(losses.info_nce, (4, 16), (0.3, 1.0))
    loss = nested(
        query.dense,
        passage.dense,
        temperature=0.1,
        passage_ids=one.passage_ids,
        **facts,
    )
    own = jnp.einsum("be,bge->bg", query.dense, passage.dense)
    lack = losses.distill_kl(own, one.teacher_scores, temperature=0.1, where=one.where)
    np.testing.assert_allclose(found.loss, lack + 0.2 * loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.weight, one.where[:, 0])


def test_graded_pairs_at_every_width() -> None:
    config = dataclasses.replace(DENSE, dims=(4, 16), dim_weights=(0.3, 1.0))
    one = batch(0, together=False, beside=("label",))
    made, query, passage = embeddings(config, one)
    found, _, _ = terms(config, made, one)
    expected = 0.0
    for dim, weight in ((4, 0.3), (16, 1.0)):
        one_side, other = (x[..., :dim] for x in (query.dense, passage.dense[:, 0]))
        cosine = (one_side * other).sum(-1)
        cosine /= jnp.linalg.norm(one_side, axis=-1) * jnp.linalg.norm(other, axis=-1)
        expected += weight * losses.cosent(
            cosine,
            one.label,
            temperature=config.graded_temperature,
            where=one.where[:, 0],
        )
    np.testing.assert_allclose(found.loss, np.full(SIZE, expected), rtol=1e-5)


def test_distillation_starts_at_its_step() -> None:
    config = UnifiedConfig(temperature=0.1, distill_from=5)
    one = batch(0, together=False, beside=())
    made, query, passage = embeddings(config, one)
    for step, distill in ((4, 0.0), (5, 1.0)):
        found, _, _ = terms(config, made, one, step)
        whole = jax.jit(losses.m3, static_argnames=("temperature", "distill"))(
            query,
            passage,
            temperature=0.1,
            distill=distill,
            where=one.where,
            in_batch=one.in_batch,
            query_ids=one.query_ids,
            passage_ids=one.passage_ids,
        )
        np.testing.assert_allclose(found.loss, whole.loss, rtol=1e-4, atol=1e-5)


def test_token_vectors_in_bfloat16() -> None:
    """All that changes is that they are rounded; sums stay float32."""
    one = batch(0, together=False, beside=())
    half = UnifiedConfig(temperature=0.1, multivec_dtype="bfloat16")
    made, query, passage = embeddings(half, one)
    found, whole = (
        terms(config, made, one)[0].loss
        for config in (half, UnifiedConfig(temperature=0.1))
    )
    assert 1e-5 < np.abs(found - whole).max() < 1e-1
    rounded = [with_vectors(x, jnp.dtype("bfloat16")) for x in (query, passage)]
    vectors = rounded[0].multivec
    assert vectors is not None and vectors.vectors.dtype == jnp.bfloat16
    expected = losses.m3(
        *rounded,
        temperature=0.1,
        distill=1.0,
        where=one.where,
        in_batch=one.in_batch,
        query_ids=one.query_ids,
        passage_ids=one.passage_ids,
    )
    np.testing.assert_allclose(found, expected.loss, rtol=1e-4, atol=1e-5)


def test_a_queue_holds_the_last_real_positives() -> None:
    config = MomentumConfig(temperature=0.1, queue=24, momentum=0.75)
    first, second = (batch(i, together=False, beside=()) for i in (0, 1))
    made, _, passage = embeddings(config, first)
    found, objective, extra = terms(config, made, first)
    # An empty queue: the own group alone, less what equals the positive.
    equal = (first.passage_ids == first.passage_ids[:, :1]).all(-1)
    equal = equal.at[:, 0].set(False)
    query = embed(made[0], made[1], first.query).dense
    own = jnp.einsum("be,bge->bg", query, passage.dense)
    alone = losses.rerank_listwise(own, temperature=0.1, where=first.where & ~equal)
    np.testing.assert_allclose(found.loss, alone, rtol=1e-4, atol=1e-5)

    params = jax.tree.map(lambda x: x + 1, made[1])
    after = objective.update(params, extra, found.carry)
    real = first.where[:, 0]
    kept = np.asarray(passage.dense)[real, 0]
    assert int(after["queued"]) == len(kept) == SIZE - 1
    np.testing.assert_allclose(after["queue"][: len(kept)], kept, atol=1e-6)
    np.testing.assert_array_equal(
        after["queue_ids"][: len(kept)], first.passage_ids[real, 0]
    )
    jax.tree.map(
        lambda slow, old: np.testing.assert_allclose(slow, old + 0.25, atol=1e-5),
        after["momentum"],
        made[1],
    )
    # The next ones push the oldest out.
    loss = jax.jit(objective.loss)
    again = loss(made[1], after, second, jnp.int32(1), jax.random.key(3))
    np.testing.assert_allclose(
        again.loss, by_hand(config, made, after, second), rtol=1e-4, atol=1e-5
    )
    last = objective.update(params, after, again.carry)
    assert int(last["queued"]) == 24
    fresh = int(second.where[:, 0].sum())
    np.testing.assert_array_equal(
        last["queue_ids"][fresh:], after["queue_ids"][: 24 - fresh]
    )


def by_hand(config: MomentumConfig, made: Any, extra: Any, one: Batch) -> np.ndarray:
    """Each query against its group and what of the queue is no answer of its own."""
    module, params = made
    flat = jax.tree.map(lambda x: x.reshape(SIZE * GROUP, -1), one.passage)
    query = np.asarray(embed(module, params, one.query).dense)
    passage = np.asarray(embed(module, extra["momentum"], flat).dense)
    passage = passage.reshape(SIZE, GROUP, -1)
    queue, ids, asked = (
        np.asarray(extra[name])[: int(extra["queued"])]
        for name in ("queue", "queue_ids", "queue_query_ids")
    )
    found = np.zeros(SIZE)
    left_out = [0, 0]
    for i in np.flatnonzero(one.where[:, 0]):
        positive = one.passage_ids[i, 0]
        logits = [query[i] @ passage[i, 0]]
        for g in range(1, GROUP):
            if one.where[i, g] and (one.passage_ids[i, g] != positive).any():
                logits.append(query[i] @ passage[i, g])
        for k in range(len(queue)):
            answers = (asked[k] == one.query_ids[i]).all()
            left_out[0] += answers
            left_out[1] += not one.in_batch[i]
            if one.in_batch[i] and not answers and (ids[k] != positive).any():
                logits.append(query[i] @ queue[k])
        scaled = np.array(logits) / config.temperature
        found[i] = np.logaddexp.reduce(scaled) - scaled[0]
    assert all(left_out), "nothing of the kind is in this batch"
    return found


def test_the_best_passages_come_first() -> None:
    one = batch(0, together=False, beside=("teacher_scores",))
    found = best_first(one)
    where, told = np.asarray(found.where), np.asarray(found.teacher_scores)
    np.testing.assert_array_equal(told[:, 0], one.teacher_scores[:, 0])
    ranked = np.where(where, told, -np.inf)[:, 1:]
    assert (ranked[:, :-1] >= ranked[:, 1:]).all()
    moved = (told != one.teacher_scores).any(1)
    assert moved.any() and not moved.all()
    # Whatever belongs to a passage moves with it.
    for i, g in np.ndindex(SIZE, GROUP):
        (at,) = np.flatnonzero(one.teacher_scores[i] == told[i, g])
        assert where[i, g] == one.where[i, at]
        np.testing.assert_array_equal(found.passage_ids[i, g], one.passage_ids[i, at])
        np.testing.assert_array_equal(found.passage.ids[i, g], one.passage.ids[i, at])


def test_rerankers_see_pairs_with_their_labels() -> None:
    one = batch(0, together=True, beside=())
    for config in (RerankingConfig(), RerankingConfig("pointwise")):
        module = module_of(config, dropout=0.0)
        params = starting(module)(jax.random.key(0), None)
        found, _, _ = terms(config, (module, params), one)
        flat = jax.tree.map(lambda x: x.reshape(SIZE * GROUP, -1), one.pair)
        assert isinstance(module, RerankerModule)
        logits = score(module, params, flat).reshape(SIZE, GROUP).tolist()
        expected, weights = np.zeros(SIZE), np.zeros(SIZE)
        for i in range(SIZE):
            there = [logits[i][j] for j in range(GROUP) if one.where[i, j]]
            if not there:
                continue
            if config.loss == "listwise":
                expected[i] = np.logaddexp.reduce(there) - there[0]
                weights[i] = 1
            else:
                signs = [1] + [-1] * (len(there) - 1)
                each = [
                    np.logaddexp(0, -s * z) for s, z in zip(signs, there, strict=True)
                ]
                expected[i], weights[i] = np.mean(each), len(there)
        np.testing.assert_allclose(found.loss, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(found.weight, weights)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ContrastiveConfig(dims=(4, 99)), r"objective\.\w+: expected"),
        (ContrastiveConfig(temperature=0.0), r"objective\.temperature: expected"),
        (UnifiedConfig(heads=("dense", "sparse")), "none for sparse"),
        (RerankingConfig(), "expected a reranker"),
        (MomentumConfig(queue=65), r"objective\.queue: expected a multiple of 8"),
    ],
)
def test_what_does_not_fit_is_told(config: Any, said: str) -> None:
    module, mesh = EmbeddingModule(tiny_config()), make_mesh(MeshConfig())
    with pytest.raises(InputError, match=said):
        objective = make_objective(config, module, mesh)
        check_objective(objective, starting(module), mesh)


def test_parts_divide_what_a_device_has() -> None:
    assert parts(SubBatches(count=3), 48, 9, 2) == 3
    for rows, length, most in ((384, 500, 32), (384, 1_000, 9), (96, 8_192, 1)):
        count = parts(SubBatches(preset="bge_m3"), rows * 8, length, 8)
        assert rows % count == 0 and rows // count <= most
        # And no smaller number of parts would do.
        fewer = [n for n in range(1, count) if rows % n == 0]
        assert all(rows // n > most for n in fewer)
    assert parts(SubBatches(tokens=100), 14, 1_000, 2) == 7
