"""Trees: stacked layers, regexes, devices, and what is refused."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax import merging
from m3jax.core import mesh as meshes
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.nn.encoder import SHARDING
from m3jax.testing import tiny_config
from tests.merging import reference


def model(seed: int, **fields: Any) -> Any:
    params = init(EmbeddingModule(tiny_config(**fields)), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    # Norms and biases begin alike in all models, and layers in others.
    return jax.tree.map(
        lambda x: np.asarray(x + rng.normal(0, 0.1, x.shape), np.float32), params
    )


@pytest.fixture(scope="module")
def models() -> list[Any]:
    return [model(seed) for seed in range(3)]


def same(found: Any, expected: Any, atol: float = 1e-6) -> None:
    found, expected = tree.paths(found), tree.paths(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype or leaf.dtype == np.float64
        np.testing.assert_allclose(
            np.asarray(found[path], np.float64), leaf, rtol=0, atol=atol, err_msg=path
        )


def by_tensor(function: Any, models: list[Any]) -> Any:
    """What a function of one tensor of each model makes of all published ones."""
    named = [tree.named(one) for one in models]
    merged = {name: function([one[name] for one in named]) for name in named[0]}
    return tree.from_named(merged, models[0])


def test_each_layer_of_a_stacked_leaf_has_its_own_angle(models: list[Any]) -> None:
    first, second = models[:2]
    found = merging.slerp(first, second, 0.4)
    same(found, by_tensor(lambda xs: reference.slerp(xs, 0.4), [first, second]))
    path = "encoder.layers.mlp.up.kernel"
    leaves = [tree.paths(one)[path] for one in (first, second)]
    one_angle = reference.slerp(leaves, 0.4)
    assert np.abs(tree.paths(found)[path] - one_angle).max() > 1e-5


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda m: merging.linear(m, [0.2, 0.3, 0.5]),
            lambda xs: reference.linear(xs, [0.2, 0.3, 0.5]),
        ),
        (
            lambda m: merging.multi_slerp(m, [0.2, 0.3, 0.5]),
            lambda xs: reference.multi_slerp(xs, [0.2, 0.3, 0.5]),
        ),
        (
            lambda m: merging.task_arithmetic(m[0], m[1:], [0.4, 1.0]),
            lambda xs: reference.task_arithmetic(xs[0], xs[1:], [0.4, 1.0]),
        ),
        (
            lambda m: merging.ties(m[0], m[1:], density=0.3),
            lambda xs: reference.ties(xs[0], xs[1:], [1, 1], 0.3, 1.0),
        ),
    ],
    ids=["linear", "multi_slerp", "task_arithmetic", "ties"],
)
def test_all_methods_on_a_model(models: list[Any], call: Any, expected: Any) -> None:
    same(call(models), by_tensor(expected, models))


def test_one_angle_for_the_whole_tree(models: list[Any]) -> None:
    a, b = models[:2]
    flat = [np.concatenate([x.ravel() for x in jax.tree.leaves(m)]) for m in (a, b)]
    expected = reference.slerp(flat, 0.3)
    found = merging.slerp(a, b, 0.3, per="tree")
    leaves = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found)])
    np.testing.assert_allclose(leaves, expected, rtol=0, atol=1e-6)


def test_an_angle_for_each_row_as_it_is_published(models: list[Any]) -> None:
    a, b = models[:2]
    found = tree.named(merging.slerp(a, b, 0.3, per="row"))
    left, right = tree.named(a), tree.named(b)
    word = "encoder.word.embedding"
    kernel = "encoder.layers.1.mlp.up.kernel"
    bias = "encoder.layers.1.mlp.up.bias"
    expected = [
        reference.slerp([x, y], 0.3)
        for x, y in zip(left[word], right[word], strict=True)
    ]
    np.testing.assert_allclose(found[word], expected, rtol=0, atol=1e-6)
    expected = [
        reference.slerp([x, y], 0.3)
        for x, y in zip(left[kernel].T, right[kernel].T, strict=True)
    ]
    np.testing.assert_allclose(found[kernel].T, expected, rtol=0, atol=1e-6)
    expected = reference.slerp([left[bias], right[bias]], 0.3)
    np.testing.assert_allclose(found[bias], expected, rtol=0, atol=1e-6)


def test_a_mean_direction_for_each_row() -> None:
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=(3, 4)).astype(np.float32) for _ in range(3)]
    trees = [{"up": {"kernel": x}} for x in kernels]
    found = merging.multi_slerp(trees, [0.2, 0.3, 0.5], per="row")["up"]["kernel"]
    expected = [
        reference.multi_slerp(list(rows), [0.2, 0.3, 0.5])
        for rows in zip(*(x.T for x in kernels), strict=True)
    ]
    np.testing.assert_allclose(found.T, expected, rtol=0, atol=1e-6)


def test_t_and_weights_by_layer(models: list[Any]) -> None:
    a, b = models[:2]
    rules = {r"layers\.0\.": 0.0, r"layers\.1\.mlp": 1.0, "": 0.5}
    found = tree.named(merging.slerp(a, b, rules))
    left, right = tree.named(a), tree.named(b)
    for name, tensor in found.items():
        if "layers.0." in name:
            np.testing.assert_array_equal(tensor, left[name])
        elif "layers.1.mlp" in name:
            np.testing.assert_array_equal(tensor, right[name])
        else:
            expected = reference.slerp([left[name], right[name]], 0.5)
            np.testing.assert_allclose(tensor, expected, rtol=0, atol=1e-6)
    weights = {"word": [0.0, 1.0], "": [0.5, 0.5]}
    found = tree.named(merging.linear([a, b], weights))
    word = "encoder.word.embedding"
    np.testing.assert_array_equal(found[word], right[word])
    bias = "encoder.layers.0.mlp.up.bias"
    np.testing.assert_allclose(found[bias], (left[bias] + right[bias]) / 2, atol=1e-7)


END_CALLS: dict[str, Any] = {
    "slerp": lambda a, b, w: merging.slerp(a, b, {x: y[1] for x, y in w.items()}),
    "slerp, row": lambda a, b, w: merging.slerp(
        a, b, {x: y[1] for x, y in w.items()}, per="row"
    ),
    "linear": lambda a, b, w: merging.linear([a, b], w),
    "multi_slerp": lambda a, b, w: merging.multi_slerp([a, b], w),
    "multi_slerp, row": lambda a, b, w: merging.multi_slerp([a, b], w, per="row"),
    "task_arithmetic": lambda a, b, w: merging.task_arithmetic(
        *(a, [b, b], {x: [0.0, 0.0] if y[0] else [0.3, 0.7] for x, y in w.items()})
    ),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, np.float32) for name in END_CALLS),
        *((name, x) for name in ("slerp", "linear") for x in ("bfloat16", np.float64)),
        ("task_arithmetic", np.float64),
    ],
)
def test_a_model_that_has_all_the_weight_keeps_its_bits(name: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(2, 3, 4)).astype(jnp.dtype(dtype)) for _ in range(2))
    # Next to 0, which XLA takes for 0; a sign of 0; and what the other one has not.
    tiny = 1e-310 if dtype == np.float64 else 1e-40
    a[..., :3, 0] = b[..., :3, -1] = [tiny, -0.0, np.inf]
    assert (a[..., 0, 0] > 0).all()
    one, two = ({"layers": {"up": {"kernel": x}}} for x in (a, b))
    rules = {r"layers\.0": [1.0, 0.0], "": [0.0, 1.0]}
    found = END_CALLS[name](one, two, rules)["layers"]["up"]["kernel"]
    assert found.dtype == a.dtype
    assert np.asarray(found[0]).tobytes() == a[0].tobytes()
    if name != "task_arithmetic":  # where b is a sum
        assert np.asarray(found[1]).tobytes() == b[1].tobytes()


def test_what_is_kept_stays_and_need_not_be_there(models: list[Any]) -> None:
    a, b = models[:2]
    with_head = {**a, "sparse": {"kernel": np.ones((4, 1), np.float32)}}
    keep = [r"^sparse", r"layers\.1\.", "word"]
    rest = {**b, "encoder": {k: x for k, x in b["encoder"].items() if k != "word"}}
    for per in ("tensor", "tree"):
        found = merging.slerp(with_head, rest, 0.5, keep=keep, per=per)
        assert found["sparse"]["kernel"] is with_head["sparse"]["kernel"]
        for name, tensor in tree.named(found).items():
            same_ = np.array_equal(tensor, tree.named(with_head)[name])
            kept = "sparse" in name or "layers.1." in name or "word" in name
            assert same_ == kept, name


def test_what_is_kept_is_no_part_of_the_angle_of_the_tree() -> None:
    rng = np.random.default_rng(0)
    a, b = (
        {"layers": {"bias": rng.normal(size=(2, 5)).astype(np.float32)}}
        for _ in range(2)
    )
    found = merging.slerp(a, b, 0.5, per="tree", keep=[r"layers\.0\."])
    pair = [m["layers"]["bias"][1] for m in (a, b)]
    np.testing.assert_allclose(
        found["layers"]["bias"][1], reference.slerp(pair, 0.5), rtol=0, atol=1e-6
    )


def test_the_type_of_the_first_model_stays(models: list[Any]) -> None:
    a = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), models[0])
    b = models[1]
    for found in (merging.slerp(a, b, 0.5), merging.task_arithmetic(b, [a], [1.0])):
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("bfloat16")}
    expected = by_tensor(
        lambda xs: reference.slerp([np.asarray(x, np.float32) for x in xs], 0.5), [a, b]
    )
    found = jax.tree.map(lambda x: np.asarray(x, np.float32), merging.slerp(a, b, 0.5))
    same(found, expected, atol=4e-3)


def part(model: Any) -> Any:
    """A table, stacked matrices and a vector: each is compiled for itself."""
    encoder = model["encoder"]
    up = {"mlp": {"up": {"kernel": encoder["layers"]["mlp"]["up"]["kernel"]}}}
    return {"encoder": {x: encoder[x] for x in ("word", "norm")} | {"layers": up}}


CALLS: dict[str, Any] = {
    "linear": lambda a, b, c: merging.linear([a, b, c], [0.2, 0.3, 0.5]),
    "slerp": lambda a, b, c: merging.slerp(a, b, 0.3),
    "slerp, tree": lambda a, b, c: merging.slerp(a, b, 0.3, per="tree"),
    "slerp, row": lambda a, b, c: merging.slerp(a, b, 0.3, per="row"),
    "multi_slerp": lambda a, b, c: merging.multi_slerp([a, b, c], [0.2, 0.3, 0.5]),
    "task_arithmetic": lambda a, b, c: merging.task_arithmetic(a, [b, c], [1, 0.5]),
    "ties": lambda a, b, c: merging.ties(a, [b, c], density=0.3),
    "ties, tree": lambda a, b, c: merging.ties(a, [b, c], density=0.3, per="tree"),
}


# Their rounds are those of the others.
SLOW = ("slerp, tree", "multi_slerp", "ties, tree")


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * (x in SLOW)) for x in CALLS],
)
def test_on_a_mesh_leaves_stay_spread_and_nothing_is_gathered(
    models: list[Any], name: str
) -> None:
    call, models = CALLS[name], [part(one) for one in models]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    layouts = meshes.shardings(mesh, models[0], SHARDING)
    spread = [jax.device_put(one, layouts) for one in models]
    expected = call(*models)
    for found in (call(*spread), jax.jit(call)(*spread)):
        same(found, expected)
        for path, leaf in tree.paths(found).items():
            layout = tree.paths(layouts)[path]
            assert leaf.sharding.is_equivalent_to(layout, leaf.ndim), path
    text = jax.jit(call).lower(*spread).compile().as_text()
    assert text is not None and " all-gather(" not in text
    assert (" all-reduce(" in text) == (name not in ("linear", "task_arithmetic"))


def test_integers_have_to_agree() -> None:
    a = {"ids": np.arange(3), "x": np.ones(2, np.float32)}
    b = {"ids": np.arange(3), "x": np.zeros(2, np.float32)}
    found = merging.linear([a, b], [0.5, 0.5])
    np.testing.assert_array_equal(found["ids"], np.arange(3))
    assert found["ids"].dtype == a["ids"].dtype
    b["ids"] = np.array([0, 1, 9])
    with pytest.raises(InputError, match="parameter ids: expected the same int64"):
        merging.linear([a, b], [0.5, 0.5])


A = {"up": {"kernel": np.ones((2, 3), np.float32)}, "bias": np.ones(3, np.float32)}
OTHER = {"up": {"kernel": np.ones((2, 4), np.float32)}, "scale": np.ones(2, np.float32)}
BAD: dict[str, tuple[Any, str]] = {
    "per": (
        lambda: merging.slerp(A, A, 0.5, per="foo"),  # type: ignore[arg-type]
        "per: expected one of tensor, tree, row, found foo",
    ),
    "compat": (
        lambda: merging.multi_slerp([A, A], [0.5, 0.5], compat="foo"),  # type: ignore[arg-type]
        "compat: expected one of none, mergekit, found foo",
    ),
    "no number beyond": (
        lambda: merging.slerp(A, A, float("nan"), outside="allow"),
        "t: expected a number, found nan",
    ),
    "half an encoder": (
        lambda: merging.linear(
            [{"encoder": A}, {"encoder": {"up": A["up"]}}], [0.5, 0.5]
        ),
        r"found 1 difference: no encoder\.bias$",
    ),
    "shapes and names": (
        lambda: merging.slerp(A, OTHER, 0.5),
        r"model 2: expected the tensors of model 1, found 3 differences: "
        r"no bias; up.kernel is \[2, 4\] and not \[2, 3\]; scale as well$",
    ),
    "many differences": (
        lambda: merging.slerp(
            {f"x{n:02}": np.ones(1, np.float32) for n in range(50)},
            {"y": np.ones(1, np.float32)},
            0.5,
        ),
        r"found 51 differences: no x00; no x01; no x02; and 48 more",
    ),
    "only the first has it": (
        lambda: merging.slerp(A, {"bias": A["bias"]}, 0.5),
        r"no up.kernel. What only model 1 has can be kept from it with keep.",
    ),
    "no model": (lambda: merging.linear([], []), "at least one model, found none"),
    "t above 1": (lambda: merging.slerp(A, A, 1.2), r"t: expected from 0 to 1, found"),
    "t below 0": (lambda: merging.slerp(A, A, -0.1), "outside=allow"),
    "t that is none": (lambda: merging.slerp(A, A, float("nan")), "found nan"),
    "weights": (
        lambda: merging.linear([A, A], [0.5, 0.6]),
        r"weights: expected a sum of 1, found 1.1. .* total=normalise",
    ),
    "too few": (
        lambda: merging.linear([A, A], [1.0]),
        "expected 2 weights, one a model, found 1",
    ),
    "negative": (
        lambda: merging.multi_slerp([A, A], [1.5, -0.5]),
        "expected weights of 0 or more, found 1.5, -0.5",
    ),
    "nothing": (
        lambda: merging.linear([A, A], [0, 0], total="normalise"),
        "expected a weight above 0",
    ),
    "no number": (
        lambda: merging.task_arithmetic(A, [A], [float("inf")]),
        "weights: expected numbers, found inf",
    ),
    "density": (lambda: merging.ties(A, [A], density=0.0), "density: expected above 0"),
    "temperature": (
        lambda: merging.cocktail_weights([1.0], temperature=0),
        "temperature: expected above 0",
    ),
    "losses": (
        lambda: merging.cocktail_weights([1.0, float("nan")]),
        "losses: expected numbers",
    ),
    "a regex of nothing": (
        lambda: merging.slerp(A, A, 0.5, keep=["head"]),
        "keep: expected a regex that is found in the name of a tensor, found 'head'",
    ),
    "no regex": (
        lambda: merging.slerp(A, A, {"(": 0.5}),
        r"t: expected a regex, found '\('",
    ),
    "a rule of nothing": (
        lambda: merging.slerp(A, A, {"head": 0.1, "": 0.5}),
        "regex -> value: expected a regex that is found in .*, found 'head'",
    ),
    "no rule": (
        lambda: merging.slerp(A, A, {"bias": 0.5}),
        "tensor up.kernel: expected one of the rules bias to match, found no match",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call()
