"""Every option of InfoNCE, alone and together, against its definition in float64."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from m3jax import losses
from m3jax.core.errors import InputError
from m3jax.losses import partition
from tests.compare import assert_same, line
from tests.losses import definitions
from tests.losses.definitions import unit

B, G, E = 8, 3, 6
SIMLM = ("own", "passages", "queries", "positive_positive", "positive_query")
SWIFT = ("own", "passages", "queries", "positive_passage")
ARRAYS = ("where", "in_batch", "query_ids", "passage_ids")


@functools.cache
def inputs() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    where = rng.random((B, G)) > 0.2
    where[:, 0] = True
    where[2] = False  # no positive, and a query that is not there
    query_ids = np.stack([np.arange(B), np.full(B, 7)], -1).astype(np.uint32)
    query_ids[5] = query_ids[1]
    passage_ids = np.arange(B * G * 2, dtype=np.uint32).reshape(B, G, 2)
    passage_ids[0, 1] = passage_ids[6, 0]  # a hard negative that is 6's positive
    passage_ids[3, 2] = passage_ids[3, 0]  # a hard negative that is its own positive
    passage_ids[4, 0] = passage_ids[7, 0]  # the same positive
    arrays = {
        "query": np.float32(unit(rng.normal(size=(B, E)))),
        "passage": np.float32(unit(rng.normal(size=(B, G, E)))),
        "where": where,
        "in_batch": np.arange(B) != 6,
        "query_ids": query_ids,
        "passage_ids": passage_ids,
    }
    return {name: jnp.asarray(x) for name, x in arrays.items()}


def numbers(inputs: dict[str, Any]) -> dict[str, Any]:
    """As numpy has them, numbers in float64 and ids as bytes."""
    found = {name: np.asarray(x) for name, x in inputs.items()}
    for name in ("query", "passage"):
        found[name] = found[name].astype(np.float64)
    return found


CASES: dict[str, dict[str, Any]] = {
    "queries": {"negatives": ("own", "passages", "queries")},
    "queries without passages": {"negatives": ("own", "queries")},
    "positives": {"negatives": ("passages", "positive_positive")},
    "positive passages": {"negatives": SWIFT},
    "positive queries alone": {"negatives": ("positive_query",)},
    "all of SimLM": {"negatives": SIMLM},
    "margin": {"false_negative_margin": 0.1},
    "no margin": {"false_negative_margin": 0.0, "negatives": SWIFT},
    "margin on passages": {"false_negative_margin": 0.1, "margin_on": ("passages",)},
    "margin on own": {"false_negative_margin": -0.2, "margin_on": ("own",)},
    "margin on all": {
        "false_negative_margin": 0.05,
        "margin_on": SIMLM,
        "negatives": SIMLM,
    },
    "margin, own alone": {"false_negative_margin": 0.1, "negatives": ("own",)},
    "weight of hard negatives": {"hard_negative_weight": 0.7},
    "less weight, own alone": {"hard_negative_weight": -1.5, "negatives": ("own",)},
    "focal": {"hardness_weight": 1.0},
    "half focal": {"hardness_weight": 0.5, "negatives": SWIFT},
    "both directions": {"bidirectional": True},
    "both, margin": {"bidirectional": True, "false_negative_margin": 0.1},
    "everything": {
        "negatives": SIMLM,
        "false_negative_margin": 0.1,
        "margin_on": ("own", "queries"),
        "hard_negative_weight": 0.3,
        "hardness_weight": 0.5,
        "bidirectional": True,
    },
}


# What tests/losses/test_all.py has alone is only here together with the arrays.
SLOW = (
    "queries without passages",
    "margin on all",
    "half focal",
    "both directions",
    "less weight, own alone",
    "queries",
    "positives",
    "margin",
    "no margin",
    "margin on passages",
    "focal",
)


@pytest.mark.parametrize(
    "case",
    [pytest.param(x, marks=[pytest.mark.slow] if x in SLOW else []) for x in CASES],
)
def test_is_the_definition(case: str) -> None:
    options = CASES[case]
    given = inputs()

    @functools.partial(jax.jit, static_argnums=0)
    def found(names: tuple[str, ...], arrays: dict[str, Any], temperature: Any) -> Any:
        chosen = {name: arrays[name] for name in ("query", "passage", *names)}
        return losses.info_nce(**chosen, temperature=temperature, **options)

    for names, temperature in (((), 0.05), (ARRAYS, 0.05), (ARRAYS, 1.0)):
        chosen = {name: given[name] for name in ("query", "passage", *names)}
        expected = definitions.info_nce(
            **numbers(chosen), temperature=temperature, **options
        )
        loss = found(names, given, jnp.float32(temperature))
        np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=2e-5)
        assert (expected > 0.01).sum() > 2


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_matters(name: str) -> None:
    """Left out, the loss is another one, so the definition has tested it."""
    given = numbers(inputs())
    options: dict[str, Any] = {"temperature": 0.5, "negatives": SIMLM}
    without = {key: x for key, x in given.items() if key != name}
    whole = definitions.info_nce(**given, **options)
    change = whole - definitions.info_nce(**without, **options)
    assert np.abs(change).max() > 1e-3


# Tiles, ways and devices: one device and no tiles are the truth.

MOST = CASES["everything"]
WEIGHTS = jnp.linspace(0.1, 2, B)


def total(arrays: Any, temperature: Any, weights: Any, **options: Any) -> Any:
    given = {"query": arrays[0], "passage": arrays[1], **inputs()}
    given |= {"query": arrays[0], "passage": arrays[1]}
    loss = losses.info_nce(**given, temperature=temperature, **options)
    return (loss * weights).sum(), loss


def both(**options: Any) -> list[Any]:
    """Values and gradients for a mean, and for any weights."""
    run = jax.jit(
        jax.value_and_grad(
            functools.partial(total, **options), argnums=(0, 1), has_aux=True
        )
    )
    arrays = inputs()["query"], inputs()["passage"]
    even = jnp.full(B, 1 / B, jnp.float32)
    return [run(arrays, jnp.float32(0.1), weights) for weights in (even, WEIGHTS)]


@functools.cache
def truth(kind: str) -> list[Any]:
    return both(**KINDS[kind])


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "own and queries": {"negatives": ("own", "queries")},
    "everything": MOST,
}


@pytest.mark.parametrize(
    ("kind", "tile", "gradient"),
    [
        ("plain", 5, "late"),
        ("own and queries", 3, "eager"),
        *(
            pytest.param(kind, tile, gradient, marks=pytest.mark.slow)
            for kind, tile, gradient in (
                ("plain", 1, "eager"),
                ("plain", 1, "late"),
                ("plain", 5, "eager"),
                ("plain", 8, "eager"),
                ("plain", 8, "late"),
                ("own and queries", 3, "late"),
                ("everything", 3, "eager"),
                ("everything", 3, "late"),
            )
        ),
    ],
)
def test_tiles_change_nothing(kind: str, tile: int, gradient: str) -> None:
    found = both(**KINDS[kind], tile=tile, gradient=gradient)
    assert_same(found, truth(kind))


UNCHECKED = pytest.param(False, marks=pytest.mark.slow)


@pytest.mark.parametrize("check_vma", [True, UNCHECKED])
@pytest.mark.parametrize(
    ("kind", "devices", "axes", "options"),
    [
        ("plain", 4, ("data", "fsdp"), {"tile": 1}),
        ("everything", 4, ("data",), {"transport": "ring", "tile": 1}),
        *(
            pytest.param(*given, marks=pytest.mark.slow)
            for given in (
                ("own and queries", 4, ("data",), {"transport": "ring"}),
                ("plain", 4, ("data",), {"transport": "ring", "tile": 1}),
                ("plain", 4, ("fsdp", "data"), {"transport": "ring", "tile": 1}),
                ("plain", 8, ("data", "fsdp"), {"transport": "ring"}),
                ("everything", 4, ("data",), {"tile": 1, "gradient": "late"}),
                ("own and queries", 4, ("data",), {}),
            )
        ),
    ],
)
def test_devices_change_nothing(
    kind: str, devices: int, axes: tuple[str, ...], options: Any, check_vma: bool
) -> None:
    shape = (devices,) if len(axes) == 1 else (2, devices // 2)
    assert options.get("tile", 0) < B // devices  # or nothing would be in tiles
    types = (AxisType.Auto,) * len(axes)
    order = tuple(sorted(axes))
    mesh = jax.make_mesh(shape, order, types, devices=jax.devices()[:devices])
    rest = {name: inputs()[name] for name in ARRAYS}
    name: Any = axes[0] if len(axes) == 1 else axes

    @functools.partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(axes), P(axes), P(), P(axes)),
        out_specs=P(axes),
        check_vma=check_vma,
    )
    def local(query: Any, passage: Any, temperature: Any, rest: Any) -> Any:
        return losses.info_nce(
            query,
            passage,
            temperature=temperature,
            axis_name=name,
            **rest,
            **KINDS[kind],
            **options,
        )

    def loss(arrays: Any, temperature: Any, weights: Any) -> Any:
        query, passage = arrays
        found = local(query, passage, temperature, rest)
        return (found * weights).sum(), found

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    arrays = inputs()["query"], inputs()["passage"]
    even = jnp.full(B, 1 / B, jnp.float32)
    found = [run(arrays, jnp.float32(0.1), weights) for weights in (even, WEIGHTS)]
    assert_same(found, truth(kind))


def test_a_ring_gathers_nothing() -> None:
    def text(**options: Any) -> str:
        def local(query: Any, passage: Any) -> Any:
            return losses.info_nce(
                query, passage, temperature=0.1, axis_name="data", **options
            )

        mapped = jax.shard_map(
            local, mesh=line(8), in_specs=P("data"), out_specs=P("data")
        )
        slopes = jax.grad(lambda q, p: mapped(q, p).mean(), (0, 1))
        arrays = inputs()["query"], inputs()["passage"]
        return jax.jit(slopes).lower(*arrays).compile().as_text() or ""

    ring, gathered = text(transport="ring"), text()
    assert "all-gather" in gathered and "collective-permute" not in gathered
    assert "all-gather" not in ring and "collective-permute" in ring


def test_what_is_watched_is_the_same_in_tiles_and_in_a_ring() -> None:
    given = {"temperature": 0.1, **MOST}
    expected, found = (
        jax.jit(functools.partial(losses.contrast, **given, **options))(**inputs())
        for options in ({}, {"tile": 3})
    )
    assert_same(found, expected, 1e-6)
    assert len(set(np.asarray(expected.rank).tolist())) > 2

    def local(arrays: Any) -> Any:
        return losses.contrast(
            **arrays, temperature=0.1, axis_name="data", transport="ring", **MOST
        )

    run = jax.shard_map(local, mesh=line(4), in_specs=P("data"), out_specs=P("data"))
    assert_same(jax.jit(run)(inputs()), expected, 1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": 3},
        pytest.param({"tile": 3, "gradient": "late"}, marks=pytest.mark.slow),
    ],
)
def test_gradients_in_bfloat16(options: dict[str, Any]) -> None:
    """Sums are float32, so that they differ from the exact ones by one rounding."""
    low = [inputs()[name].astype(jnp.bfloat16) for name in ("query", "passage")]

    def slopes(low: Any, **options: Any) -> Any:
        def mean(query: Any, passage: Any) -> Any:
            return losses.info_nce(query, passage, temperature=0.1, **options).mean()

        return jax.jit(jax.grad(mean, (0, 1)))(*low)

    exact = slopes([x.astype(jnp.float32) for x in low])
    for x, y in zip(slopes(low, **options), exact, strict=True):
        assert x.dtype == jnp.bfloat16
        limit = 2e-4 * float(np.abs(y).max())
        np.testing.assert_allclose(x.astype(np.float32), y, rtol=2**-7, atol=limit)


def test_how_hard_a_query_is_has_no_gradient() -> None:
    """Nor have the numbers beside the loss."""
    given = inputs()

    def plain(query: Any, **options: Any) -> Any:
        return losses.contrast(query, given["passage"], temperature=0.3, **options)

    loss = plain(given["query"]).loss
    held = jax.grad(lambda q: (plain(q).loss * (-jnp.expm1(-loss)) ** 0.5).sum())
    found = jax.grad(lambda q: plain(q, hardness_weight=0.5).loss.sum())
    assert_same(jax.jit(found)(given["query"]), jax.jit(held)(given["query"]))

    def watched(query: Any) -> Any:
        found = plain(query, tile=3)
        return (found.positive + found.negative_mean + found.masked_share).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(watched))(given["query"]), 0)


@pytest.mark.parametrize("tile", [None, 16])
def test_equal_texts_are_as_high_whatever_the_last_digits_are(tile: int | None) -> None:
    """Every positive is there twice, and no ids say so."""
    rng = np.random.default_rng(1)
    passage = np.tile(unit(rng.normal(size=(32, 1, 768))), (2, 1, 1))
    query = 0.3 * unit(rng.normal(size=(64, 768))) + passage[:, 0]
    given = jnp.float32(query), jnp.float32(passage)
    rest: dict[str, Any] = {"temperature": 0.02, "false_negative_margin": 0.0}
    run = functools.partial(losses.contrast, tile=tile, **rest)
    spread = jax.shard_map(
        functools.partial(run, axis_name="data", transport="ring"),
        mesh=line(2),
        in_specs=P("data"),
        out_specs=P("data"),
    )
    for found in (jax.jit(run)(*given), jax.jit(spread)(*given)):
        np.testing.assert_array_equal(found.rank, 0)
        np.testing.assert_allclose(found.loss, np.log(2), rtol=1e-4)


def test_a_mean_over_those_with_a_positive_is_differentiated_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Query 2 has none, and its weight is not looked at."""
    turns = []

    def add(*given: Any) -> Any:
        jax.debug.callback(lambda: turns.append(1))
        return partition_add(*given)

    partition_add = partition.add
    monkeypatch.setattr(partition, "add", add)
    slope = jax.jit(jax.grad(functools.partial(total, tile=4), (0, 1), has_aux=True))
    arrays = inputs()["query"], inputs()["passage"]
    even = jnp.full(B, 1 / B, jnp.float32)
    for weights, times in ((even, 1), (even.at[2].set(0), 1), (WEIGHTS, 2)):
        turns.clear()
        jax.block_until_ready(slope(arrays, jnp.float32(0.1), weights))
        jax.effects_barrier()
        assert len(turns) == 2 * times


@pytest.mark.parametrize("negatives", [("own", "passages"), ("own",), SIMLM])
def test_nan_is_not_hidden_where_nothing_else_is(negatives: tuple[str, ...]) -> None:
    for tile in (None, 1):
        options: dict[str, Any] = {"negatives": negatives, "tile": tile}
        loss = functools.partial(losses.info_nce, temperature=1, **options)
        found = jax.jit(loss)(jnp.full((1, E), jnp.nan), jnp.ones((1, 1, E)))
        assert np.isnan(found).all()


@pytest.mark.parametrize(
    "negatives",
    [
        SIMLM,
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in (("own",), ("own", "passages"), ("passages",), SWIFT)
        ),
    ],
)
def test_what_is_masked_is_a_share_of_what_could_count(negatives: Any) -> None:
    given = inputs()
    query, passage = given["query"], given["passage"]
    rest: dict[str, Any] = {"temperature": 0.3, "negatives": negatives}
    some = jnp.ones((B, G), bool).at[1:, -1].set(False)
    alone = jnp.arange(B) > 0  # the first query meets its own passages only
    for where, in_batch in ((None, None), (some, None), (None, alone), (some, alone)):
        found = losses.contrast(query, passage, where=where, in_batch=in_batch, **rest)
        np.testing.assert_array_equal(found.masked_share, 0)
    none = jnp.zeros((B, G), bool)
    found = losses.contrast(query, passage, where=none, **rest)
    np.testing.assert_array_equal(found.masked_share, 0)
    # All equal: none is a negative of another.
    ids = {"query_ids": jnp.zeros((B, 2), jnp.uint32)}
    ids["passage_ids"] = jnp.zeros((B, G, 2), jnp.uint32)
    found = losses.contrast(query, passage, where=some, **ids, **rest)
    np.testing.assert_array_equal(found.masked_share, 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tile": 0}, "tile: expected a positive integer or None, found 0"),
        ({"tile": -3}, "tile: expected a positive integer or None, found -3"),
        ({"transport": "post"}, "transport: expected 'gather' or 'ring'"),
        ({"transport": "ring"}, "axis_name: expected axis_name with transport='ring'"),
        ({"gradient": "soon"}, "gradient: expected eager or late, found 'soon'"),
        ({"axis_name": "rows"}, "axis_name: expected a mapped axis"),
        ({"axis_name": ("rows", "more")}, "found rows, more outside of one"),
        ({"negatives": ("own", "own")}, "negatives: expected one or more of"),
        ({"negatives": "own"}, "negatives: expected a tuple of names among own"),
        ({"margin_on": ("self",)}, "margin_on: expected one or more of"),
        (
            {"margin_on": ("own",)},
            "false_negative_margin: expected false_negative_margin with margin_on",
        ),
        (
            {"margin_on": ("own", "queries"), "false_negative_margin": 0.1},
            "margin_on: expected blocks among negatives: own, passages, found queries",
        ),
        ({"in_batch": jnp.ones(3, bool)}, "in_batch: expected shape (8,), found (3,)"),
        (
            {"negatives": ("positive_positive", "positive_passage")},
            "positive_positive or positive_passage, which holds it, found both",
        ),
        (
            {"negatives": ("passages",), "hard_negative_weight": 1.0},
            '"own" in negatives with hard_negative_weight',
        ),
        ({"temperature": jnp.float32(-1)}, "temperature: expected a temperature above"),
        ({"temperature": jnp.ones(8)}, "expected one temperature for all, found shape"),
        (
            {"temperature": None},
            "temperature: expected a temperature above 0, found No",
        ),
        (
            {"hardness_weight": -1},
            "hardness_weight: expected a plain number, at least 0",
        ),
        ({"hardness_weight": jnp.ones(())}, "hardness_weight: expected a plain num"),
        ({"hard_negative_weight": float("nan")}, "hard_negative_weight: expected a pl"),
        ({"false_negative_margin": float("nan")}, "false_negative_margin: expected a"),
        (
            {"where": jnp.ones((8, 3), jnp.int32)},
            "where: expected booleans, found int32",
        ),
        ({"in_batch": jnp.ones(8)}, "in_batch: expected booleans, found float32"),
        (
            {"query_ids": jnp.ones((8, 2))},
            "query_ids: expected integers, found float32",
        ),
        ({"passage": jnp.ones((8, 3, 7))}, "passage: expected shape (8, 3, 6)"),
        (
            {"passage": jnp.ones((8, 6))},
            "passage: expected [b g e], the positive first",
        ),
        (
            {"query": jnp.ones(8)},
            "query: expected [b e], e at least 1, found shape (8,",
        ),
        ({"query": jnp.ones((8, 0))}, "e at least 1, found shape (8, 0)"),
        (
            {"query": jnp.ones((0, 6)), "passage": jnp.ones((0, 3, 6))},
            "query: expected at least one query, found none",
        ),
        ({"bidirectional": "no"}, "bidirectional: expected True or False, found 'no'"),
        ({"gradient": "late"}, "tile: expected a tile with gradient"),
        (
            {"negatives": ("positive_positive",), "false_negative_margin": 0.1},
            "margin_on: expected blocks among negatives: positive_positive, found own",
        ),
        ({"passage": jnp.ones((8, 0, 6))}, "at least the positive in a group"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    # Without the suite's own shape checks, which users do not have.
    info_nce = inspect.unwrap(losses.info_nce)
    arguments: dict[str, Any] = {
        "query": inputs()["query"],
        "passage": inputs()["passage"],
        "temperature": 1.0,
    }
    with pytest.raises(InputError) as error:
        info_nce(**(arguments | change))
    assert said in str(error.value)


def test_a_temperature_for_every_query_is_refused_in_a_program() -> None:
    info_nce = inspect.unwrap(losses.info_nce)
    arrays = inputs()["query"], inputs()["passage"]
    with pytest.raises(InputError, match="one temperature for all, found shape"):
        jax.jit(lambda t: info_nce(*arrays, temperature=t))(jnp.ones(B))


def test_a_ring_makes_no_gradient_early() -> None:
    def local(query: Any, passage: Any) -> Any:
        return losses.info_nce(
            query,
            passage,
            temperature=0.1,
            axis_name="data",
            transport="ring",
            gradient="eager",
        )

    mapped = jax.shard_map(local, mesh=line(2), in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(InputError, match="gradient='late' with transport='ring'"):
        mapped(inputs()["query"], inputs()["passage"])
