"""RetroMAE and masked words as objectives: by their definition, on any mesh."""

import dataclasses
import functools
import sys
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from m3jax.core.errors import InputError
from m3jax.core.mesh import batch_sharding, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.core.types import Batch, Params, Tokens
from m3jax.data import tokenize
from m3jax.data.words import Words, word_starts
from m3jax.losses import language
from m3jax.nn import masked_lm as head
from m3jax.nn import retromae as decoder
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingModule
from m3jax.nn.encoder import SHARDING, hidden_states
from m3jax.nn.qwen import QwenConfig
from m3jax.testing import tiny_config, tiny_tokenizer
from m3jax.testing.tiny import TEXTS
from m3jax.training import masking
from m3jax.training.objectives import (
    ContrastiveConfig,
    MaskedLMConfig,
    RetroMAEConfig,
    SubBatches,
    Terms,
)
from m3jax.training.objectives.make import check_objective, make_objective
from m3jax.training.objectives.masked_lm import words_at_once
from m3jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from m3jax.training.state import Start, abstract_state, new_state, starting
from m3jax.training.step import make_step

V, SIZE = 64, 16
WORDS = Words(np.arange(V) % 3 > 0, np.arange(V) < 5, 4, (0, 1, 2, 3, 4), V)
RETROMAE, ALONE = RetroMAEConfig(), MaskedLMConfig(0.3)
BESIDE = ContrastiveConfig(temperature=0.1, mlm_weight=0.5)


def model(**fields: Any) -> EmbeddingModule:
    fields = {"dropout": 0.3, "layers": 1, **fields}
    return EmbeddingModule(dataclasses.replace(tiny_config(**fields), pooling="cls"))


def batch(*, query: bool = False) -> Batch:
    rng = np.random.default_rng(0)

    def tokens(*shape: int) -> Tokens:
        place, length = np.arange(shape[-1]), rng.integers(3, 10, (*shape[:-1], 1))
        ids = rng.integers(5, V, shape)
        ids = np.where(place == 0, 2, np.where(place == length - 1, 3, ids))
        mask = place < length
        return Tokens((ids * mask).astype(np.int32), mask)

    where = np.ones((SIZE, 2), bool)
    where[3], where[5, 1] = False, False
    return Batch(
        query=tokens(SIZE, 6) if query else None,
        passage=tokens(SIZE, 2, 9),
        where=where,
        query_ids=np.arange(2 * SIZE, dtype=np.uint32).reshape(SIZE, 2),
        passage_ids=np.arange(4 * SIZE, dtype=np.uint32).reshape(SIZE, 2, 2),
        in_batch=np.ones(SIZE, bool),
        row=np.arange(SIZE, dtype=np.int32),
        dataset=np.zeros(SIZE, np.int32),
    )


def drawn(start: Start) -> Params:
    """Parameters far from 0, without the cost of compiling the first ones."""
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), None))
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32), shapes
    )


def run(config: Any, mesh_config: MeshConfig, devices: int, sub_batches: int = 1):
    """Loss, metrics and gradient of a batch."""
    mesh, module = make_mesh(mesh_config, jax.devices()[:devices]), model()
    cut = SubBatches(sub_batches)
    objective = make_objective(config, module, mesh, cut, words=WORDS)
    start = starting(module, auxiliary=objective.auxiliary)
    if devices > 1:
        check_objective(objective, start, mesh, cut)
    params = drawn(start)

    def mean(params: Params, batch: Batch) -> Any:
        step, key = jnp.zeros((), jnp.int32), jax.random.key(5)
        terms = objective.loss(params, {}, batch, step, key)
        weight = terms.weight / terms.weight.sum()
        told = {name: (x * weight).sum() for name, x in terms.metrics.items()}
        return (terms.loss * weight).sum(), told

    given = batch(query=isinstance(config, ContrastiveConfig))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(jax.value_and_grad(mean, has_aux=True))(
            params, jax.device_put(given, batch_sharding(mesh))
        )


@functools.cache
def on_one(config: Any) -> Any:
    return run(config, MeshConfig(), 1)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("config", "mesh", "devices", "sub_batches"),
    [
        pytest.param(RETROMAE, MeshConfig(), 2, 2, marks=SLOW),
        pytest.param(RETROMAE, MeshConfig(), 8, 1, marks=SLOW),
        pytest.param(RETROMAE, MeshConfig(), 1, 4, marks=SLOW),
        pytest.param(RETROMAE, MeshConfig(fsdp=2, tensor=2), 8, 2, marks=SLOW),
        pytest.param(ALONE, MeshConfig(fsdp=2), 2, 4, marks=SLOW),
        pytest.param(ALONE, MeshConfig(), 8, 1, marks=SLOW),
        pytest.param(BESIDE, MeshConfig(), 2, 1, marks=SLOW),
        pytest.param(BESIDE, MeshConfig(), 8, 2, marks=SLOW),
    ],
)
def test_any_mesh_and_sub_batches(
    config: Any, mesh: MeshConfig, devices: int, sub_batches: int
) -> None:
    found = run(config, mesh, devices, sub_batches)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6),
        found,
        on_one(config),
    )


@SLOW
def test_the_decoder_learns_through_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the state, what the decoder says has no gradient in any layer."""
    kept = {}
    decode = decoder.decode

    def watched(config: Any, params: Params, state: jax.Array, *rest: Any, **more: Any):
        kept["state"] = state.shape
        layers = jax.lax.stop_gradient(params["encoder"]["layers"])
        params = {**params, "encoder": {**params["encoder"], "layers": layers}}
        return decode(config, params, state * kept["seen"], *rest, **more)

    monkeypatch.setattr(decoder, "decode", watched)
    mesh, module = make_mesh(MeshConfig(), jax.devices()[:1]), model()
    objective = make_objective(RETROMAE, module, mesh, words=WORDS)
    start = starting(module, auxiliary=objective.auxiliary)
    params = drawn(start)

    @jax.jit
    @jax.grad
    def slope(layers: Params, seen: jax.Array) -> jax.Array:
        kept["seen"] = seen
        given = {**params, "encoder": {**params["encoder"], "layers": layers}}
        step, key = jnp.zeros((), jnp.int32), jax.random.key(5)
        terms = objective.loss(given, {}, jax.tree.map(jnp.asarray, batch()), step, key)
        return terms.metrics["decoder_loss"]

    # Metrics have no gradient: the decoder's term is taken before it is stopped.
    monkeypatch.setattr(
        sys.modules["m3jax.training.objectives.retromae"],
        "for_all",
        lambda loss, rows, metrics: Terms(loss, loss, metrics),
    )
    layers = params["encoder"]["layers"]
    through = slope(layers, jnp.float32(1))
    without = slope(layers, jnp.float32(0))
    assert kept["state"] == (2 * SIZE, 16)
    assert all(jnp.abs(x).max() == 0 for x in jax.tree.leaves(without))
    assert jnp.abs(through["mlp"]["up"]["kernel"]).max() > 1e-5


@pytest.mark.slow
def test_masked_words_beside_a_contrastive_loss() -> None:
    mesh, module = make_mesh(MeshConfig(), jax.devices()[:1]), model()
    both = [
        make_objective(
            dataclasses.replace(BESIDE, mlm_weight=weight), module, mesh, words=WORDS
        )
        for weight in (0.5, 2.0)
    ]
    start = starting(module, auxiliary=both[0].auxiliary)
    params = drawn(start)
    assert set(params) == {"encoder", "mlm"}

    @jax.jit
    def terms(batch: Batch) -> list[Terms]:
        step, key = jnp.zeros((), jnp.int32), jax.random.key(5)
        return [each.loss(params, {}, batch, step, key) for each in both]

    one, two = terms(jax.tree.map(jnp.asarray, batch(query=True)))
    mlm = np.asarray(one.metrics["mlm"])
    assert 1 < mlm[0] < 10 and (mlm == mlm[0]).all()
    np.testing.assert_allclose(two.loss - one.loss, 1.5 * mlm, rtol=1e-5)
    np.testing.assert_array_equal(one.weight, batch().where[:, 0])


def plain_loss(params: Params, told: list[tuple[jax.Array, Any]]) -> float:
    """Mean of -log p over all tokens with a label, one after the other."""
    found = []
    table = np.asarray(params["encoder"]["word"]["embedding"], np.float64)
    bias = np.asarray(params["mlm"]["bias"], np.float64)
    for states, labels in told:
        logits = np.asarray(states, np.float64) @ table.T + bias
        for place in np.argwhere(np.asarray(labels) >= 0):
            row = logits[tuple(place)]
            right = row[int(labels[tuple(place)])]
            found.append(np.logaddexp.reduce(row) - right)
    return float(np.mean(found))


@pytest.mark.parametrize(
    "config",
    [pytest.param(x, marks=SLOW) for x in (ALONE, BESIDE, RETROMAE)],
)
def test_losses_are_their_definition(config: Any) -> None:
    """From the masked texts on: every label that should be there, and no other."""
    mesh, module = make_mesh(MeshConfig(), jax.devices()[:1]), model(dropout=0.0)
    encoder = module.config.encoder
    assert isinstance(encoder, BertConfig)
    objective = make_objective(config, module, mesh, words=WORDS)
    params = drawn(starting(module, auxiliary=objective.auxiliary))
    beside = isinstance(config, ContrastiveConfig)
    given = jax.tree.map(jnp.asarray, batch(query=beside))
    # A first token that is no special one: of it RetroMAE's decoder is told nothing.
    ids = given.passage.ids.at[0, 0, 0].set(7)
    passage = dataclasses.replace(given.passage, ids=ids)
    given = dataclasses.replace(given, passage=passage)
    step, key = jnp.zeros((), jnp.int32), jax.random.key(5)
    terms = jax.jit(objective.loss)(params, {}, given, step, key)
    flat = jax.tree.map(lambda x: x.reshape(2 * SIZE, -1), given.passage)
    texts = flat, given.where.reshape(-1)

    def read(tokens: Tokens, where: jax.Array, key: jax.Array, ratio: float) -> Any:
        rows = jnp.arange(len(where))
        masked = masking.mask_words(WORDS, tokens, where, key, rows, ratio=ratio)
        assert not (masked.labels[~where] >= 0).any()
        states = hidden_states(encoder, params, masked.tokens)
        return head.transform(encoder, params, states), masked.labels, states

    if isinstance(config, MaskedLMConfig):
        found = read(*texts, jax.random.split(key)[0], config.ratio)
        expected = plain_loss(params, [found[:2]])
    elif beside:
        own, *others = jax.random.split(key, 3)
        queries = given.query, given.where[:, 0]
        told = [
            read(*side, jax.random.split(other)[0], config.mlm_ratio)[:2]
            for side, other in zip((texts, queries), others, strict=True)
        ]
        plain = dataclasses.replace(config, mlm_weight=0.0)
        alone = make_objective(plain, module, mesh)
        contrast = jax.jit(alone.loss)(params, {}, given, step, own).loss
        expected = contrast + config.mlm_weight * plain_loss(params, told)
    else:
        keys = jax.random.split(key, 4)
        states, labels, seen = read(*texts, keys[0], config.encoder_ratio)
        masks = masking.decoder_masks(
            WORDS, flat, keys[2], jnp.arange(2 * SIZE), ratio=config.decoder_ratio
        )
        rebuilt = decoder.decode(
            encoder, params, seen[:, 0], flat, masks.pool, masks.choice
        )
        # All that is told: real tokens but the first, the special ones and padding.
        ids = np.asarray(flat.ids)
        whole = np.where(np.asarray(flat.mask) & (ids > 4), ids, -1)
        whole[:, 0] = -1
        whole[~np.asarray(texts[1])] = -1
        rebuilt = head.transform(encoder, params, rebuilt)
        expected = plain_loss(params, [(states, labels)])
        expected += plain_loss(params, [(rebuilt, whole)])
    np.testing.assert_allclose(terms.loss, expected, rtol=2e-5)


def trained(config: Any, steps: int) -> list[dict[str, float]]:
    tokenizer = tiny_tokenizer()
    mesh, module = make_mesh(MeshConfig(), jax.devices()[:1]), model(dropout=0.1)
    words = word_starts(tokenizer)
    objective = make_objective(config, module, mesh, words=words)
    rows = tokenize.encode(tokenizer, TEXTS, max_length=32)
    ids, mask = tokenize.pad(rows, 32, tokenizer.pad_id)
    ids, mask = (np.tile(x, (4, 1))[:, None] for x in (ids, mask))
    size = len(ids)
    given = Batch(
        query=None,
        passage=Tokens(ids, mask),
        where=np.ones((size, 1), bool),
        query_ids=np.zeros((size, 2), np.uint32),
        passage_ids=np.zeros((size, 1, 2), np.uint32),
        in_batch=np.ones(size, bool),
        row=np.arange(size, dtype=np.int32),
        dataset=np.zeros(size, np.int32),
    )
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup=0.0, schedule="constant")
    start = starting(module, auxiliary=objective.auxiliary)
    tx, schedule = make_optimizer(optimizer, steps), make_schedule(optimizer, steps)
    like = abstract_state(start, objective, tx, mesh, SHARDING)
    state = new_state(start, objective, tx, like, seed=0)
    step = make_step(objective, tx, schedule, mesh, like)
    told = []
    for _ in range(steps):
        state, metrics = step(state, jax.device_put(given, batch_sharding(mesh)))
        told.append({name: float(x) for name, x in metrics.items()})
    return told


def test_training_lowers_both_losses() -> None:
    told = trained(RETROMAE, 40)
    for name in ("encoder_loss", "decoder_loss"):
        before, after = (
            np.mean([x[name] for x in part]) for part in (told[:5], told[-5:])
        )
        assert after < before - 0.5, name
    assert told[0]["encoder_loss"] == pytest.approx(np.log(V), rel=0.05)


@pytest.mark.parametrize(
    ("config", "change", "words", "said"),
    [
        (RETROMAE, {}, None, "the words of a tokenizer, which RetroMAEConfig masks"),
        (BESIDE, {}, None, "the words of a tokenizer, which ContrastiveConfig masks"),
        (RETROMAE, {"pooling": "mean"}, WORDS, "model.pooling: expected cls"),
        (
            RETROMAE,
            {"encoder": QwenConfig()},
            WORDS,
            "expected a BERT or an XLM-R to train with RetroMAE, found Qwen",
        ),
        (ALONE, {"encoder": QwenConfig()}, WORDS, "found a causal one"),
        (RetroMAEConfig(1.0), {}, WORDS, "objective.encoder_ratio: expected a share"),
        (
            ALONE,
            {},
            dataclasses.replace(WORDS, vocab_size=V + 1),
            "words of the model's vocabulary of 64, found a tokenizer with 65",
        ),
    ],
)
def test_what_does_not_fit(config: Any, change: Any, words: Any, said: str) -> None:
    module = EmbeddingModule(dataclasses.replace(model().config, **change))
    with pytest.raises(InputError, match=said):
        make_objective(config, module, make_mesh(MeshConfig()), words=words)


def test_an_accelerator_makes_more_logits_at_once() -> None:
    cpu = make_mesh(MeshConfig(), jax.devices()[:1])
    assert words_at_once(cpu, 250_002) == "auto"
    tpu = cast(
        Any, SimpleNamespace(devices=np.array([SimpleNamespace(platform="tpu")]))
    )
    at_once = words_at_once(tpu, 250_002)
    assert isinstance(at_once, int)
    assert at_once > 4 * language._fitting(65_536, 250_002)
    # Of a small vocabulary the loss itself takes as many.
    assert words_at_once(tpu, 30_522) == "auto"
    assert language._fitting(65_536, 30_522) >= at_once


@pytest.mark.parametrize("config", [pytest.param(RETROMAE, marks=SLOW), ALONE])
def test_tokens_at_once_change_nothing(
    config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def few(mesh: Mesh, vocabulary: int) -> int:
        asked.append(vocabulary)
        return 3

    for name in ("masked_lm", "retromae"):
        module = sys.modules[f"m3jax.training.objectives.{name}"]
        monkeypatch.setattr(module, "words_at_once", few)
    found = run(config, MeshConfig(), 1)
    assert set(asked) == {V}
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6),
        found,
        on_one(config),
    )
