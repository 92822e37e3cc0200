"""Files merged block by block are what trees are in memory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import merging
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.hub import folder, reranker
from m3jax.hub.weights import Names
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.parents import Parent, Tensor
from m3jax.pipeline.merges.recipe import make_recipe
from m3jax.pipeline.merges.run import opened, write
from m3jax.pipeline.merges.stream import Job, giver, workers
from tests.merging import reference
from tests.pipeline.merges import models

W = (0.2, 0.3, 0.5)
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "slerp": ({"t": 0.3}, lambda m: merging.slerp(m[0], m[1], 0.3)),
    "slerp, tree": (
        {"t": 0.3, "per": "tree"},
        lambda m: merging.slerp(m[0], m[1], 0.3, per="tree"),
    ),
    "slerp, tree, some kept": (
        {"t": 0.3, "per": "tree", "keep": ("^encoder.word",)},
        lambda m: merging.slerp(m[0], m[1], 0.3, per="tree", keep=("^encoder.word",)),
    ),
    "slerp, row": (
        {"t": 0.3, "per": "row"},
        lambda m: merging.slerp(m[0], m[1], 0.3, per="row"),
    ),
    "slerp by regex, some kept": (
        {"t_at": (r"layers\.0\.=0.1", "word=1"), "keep": ("^sparse", r"1\.mlp")},
        lambda m: merging.slerp(
            m[0],
            m[1],
            {r"layers\.0\.": 0.1, "word": 1.0, "": 0.5},
            keep=("^sparse", r"1\.mlp"),
        ),
    ),
    "linear": ({"weights": W}, lambda m: merging.linear(m, W)),
    "multi_slerp": ({"weights": W}, lambda m: merging.multi_slerp(m, W)),
    "task_arithmetic": (
        {"weights": (0.5, 1.0), "scale": 0.7},
        lambda m: merging.task_arithmetic(m[2], m[:2], [0.35, 0.7]),
    ),
    "ties": (
        {"density": 0.3, "scale": 0.9},
        lambda m: merging.ties(m[2], m[:2], density=0.3, scale=0.9),
    ),
    "ties, tree": (
        {"density": 0.3, "per": "tree"},
        lambda m: merging.ties(m[2], m[:2], density=0.3, per="tree"),
    ),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[str]]:
    """Three models with all heads: in one file, in several, and as PyTorch's."""
    to = tmp_path_factory.mktemp("models")
    made = [models.other(models.golden("m3"), seed) for seed in range(3)]
    places = [
        models.write(made[0], to / "one"),
        models.write(made[1], to / "several", max_file=20_000),
        models.as_bin(models.write(made[2], to / "bin")),
    ]
    assert len(list((to / "several").glob("model-*.safetensors"))) > 2
    return made, places


def merge(config: Merge, to: Path, **options: Any) -> Any:
    with opened(config, to) as found:
        write(found, to, **options)
        kind = found.models[0].kind
    return (reranker if kind == "reranker" else folder).load(to)


# A whole tensor at once: with sums, and without.
WHOLE = ("slerp", "linear")


@pytest.mark.parametrize(
    ("name", "block"), [*((x, 100) for x in CASES), *((x, 0) for x in WHOLE)]
)
def test_every_method(name: str, block: int, family: Any, tmp_path: Path) -> None:
    options, expected = CASES[name]
    made, places = family
    method = name.partition(",")[0].partition(" ")[0]
    count = {"slerp": 2, "linear": 3, "multi_slerp": 3}.get(method, 2)
    base = places[2] if method in ("task_arithmetic", "ties") else None
    config = Merge(tuple(places[:count]), method=method, base=base, **options)  # type: ignore[arg-type]
    found = merge(config, tmp_path / "out", block=block)
    assert found.config == made[0].config
    want = tree.named(expected([one.params for one in made]))
    for name, tensor in tree.named(found.params).items():
        np.testing.assert_allclose(tensor, want[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "name",
    [
        *("qwen3", "simcse", "reranker_bert"),
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in ("bert", "reranker_xlmr", "reranker_qwen3_untied")
        ),
    ],
)
def test_every_family(name: str, tmp_path: Path) -> None:
    made = [models.other(models.golden(name), seed) for seed in range(2)]
    places = [models.write(x, tmp_path / f"{n}") for n, x in enumerate(made)]
    found = merge(Merge(tuple(places), t=0.4), tmp_path / "out")
    want = tree.named(merging.slerp(made[0].params, made[1].params, 0.4))
    tensors = tree.named(found.params)
    assert tensors.keys() == want.keys()
    for name, tensor in tensors.items():
        np.testing.assert_allclose(tensor, want[name], rtol=0, atol=1e-6, err_msg=name)
    assert found.config == made[0].config


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_type_of_the_first_is_written(dtype: str, tmp_path: Path) -> None:
    made = [models.other(models.golden("bert"), seed) for seed in range(2)]
    narrow = jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), made[0].params)
    made[0] = dataclasses.replace(made[0], params=narrow)
    places = [models.write(x, tmp_path / f"{n}") for n, x in enumerate(made)]
    merge(Merge(tuple(places)), tmp_path / "out")
    with opened(Merge((str(tmp_path / "out"),) * 2), tmp_path / "again") as found:
        types = {str(x.dtype) for x in found.models[0].tensors.values()}
    assert types == {dtype}
    for t, parent in ((0.0, 0), (1.0, 1)):
        merge(Merge(tuple(places), t=t), tmp_path / f"end {parent}")
        there = folder.load(tmp_path / f"end {parent}").params
        for leaf, expected in zip(
            jax.tree.leaves(there), jax.tree.leaves(made[parent].params), strict=True
        ):
            rounded = np.asarray(jax.numpy.asarray(expected, dtype), np.float32)
            np.testing.assert_array_equal(leaf, rounded)


def test_ends_are_the_parents_byte_for_byte(family: Any, tmp_path: Path) -> None:
    _, places = family
    for t, parent in ((0.0, places[0]), (1.0, places[1])):
        out = tmp_path / f"{t}"
        merge(Merge((places[0], places[1]), t=t), out)
        one, two = (tree.named(folder.load(x).params) for x in (out, parent))
        for name, tensor in one.items():
            assert np.asarray(tensor).tobytes() == np.asarray(two[name]).tobytes()


def test_several_files_where_the_first_has_several(family: Any, tmp_path: Path) -> None:
    _, places = family
    merge(Merge((places[1], places[0])), tmp_path / "out")
    merge(Merge((places[0], places[1])), tmp_path / "one")
    written = sorted(x.name for x in (tmp_path / "out").glob("model*"))
    assert "model.safetensors.index.json" in written and len(written) > 3
    theirs = sorted(x.name for x in Path(places[1]).glob("model*"))
    assert written == theirs
    assert [x.name for x in (tmp_path / "one").glob("model*")] == ["model.safetensors"]


def test_the_same_files_give_the_same_bytes(family: Any, tmp_path: Path) -> None:
    _, places = family
    config = Merge((places[0], places[1]), t=0.3)
    written = []
    for n in range(2):
        merge(config, tmp_path / f"{n}", block=100)
        written.append((tmp_path / f"{n}" / "model.safetensors").read_bytes())
    assert written[0] == written[1]


def in_memory(config: Merge, block: int, *given: dict[str, Any]) -> dict[str, Any]:
    """Tensors that are in no file, merged block by block."""
    parents = [
        Parent(
            f"model {number}",
            Path(),
            "embedding",
            None,
            (),
            {name: Tensor({name: x}, name, "") for name, x in one.items()},
            None,
        )
        for number, one in enumerate(given)
    ]
    shapes = {
        name: {"embedding": jax.ShapeDtypeStruct(x.shape, x.dtype)}
        for name, x in ((x.split(".")[0], y) for x, y in given[0].items())
    }
    with workers() as pool:
        job = Job(
            make_recipe(config, 2),
            parents,
            parents[0],
            config.per,
            config.keep,
            lambda count: None,
            pool,
            block,
        )
        give = giver(job)
        names = Names({name: name for name in shapes})
        return {
            name: np.concatenate(list(blocks)) for name, blocks in give(shapes, names)
        }


def test_a_vector_is_one_row_however_long() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 30)).astype(np.float32)
    config = Merge(t=0.3, per="row")
    given = [{"up.embedding": x} for x in (a, b)]
    found = in_memory(config, 10, *given)["up.weight"]
    want = reference.slerp([a, b], 0.3)
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", ["tensor", "tree"])
def test_sums_of_many_blocks_lose_nothing(per: Any) -> None:
    """In float32 each of the small rows would be lost, or rounded up."""
    a, b = np.zeros((2, 400, 2), np.float32)
    a[:, 0] = b[:, 0] = 0.9
    a[0], b[0] = (4096, 0), (2048, 3547)
    given = [{"up.embedding": x} for x in (a, b)]
    found = in_memory(Merge(t=0.5, per=per), 2, *given)["up.weight"]
    want = reference.slerp([a, b], 0.5)
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("number", "what"), [(np.nan, "NaN"), (-np.inf, "an inf")])
def test_a_tensor_that_is_kept_has_to_be_of_numbers(number: float, what: str) -> None:
    a, b = np.ones((2, 6, 2), np.float32)
    a[3, 1] = number
    given = [{"up.embedding": x} for x in (a, b)]
    found = f"model 0: expected numbers in up.embedding, found {what}.* in rows 2 to 3"
    with pytest.raises(InputError, match=found):
        in_memory(Merge(keep=("^up",)), 4, *given)


def test_what_is_too_large_for_the_type_of_the_first_is_refused() -> None:
    a, b = np.ones((6, 2), np.float16), np.ones((6, 2), np.float32)
    b[5, 1] = 1e6
    given = [{"up.embedding": x} for x in (a, b)]
    found = (
        "model 0: expected up.embedding within what float16 holds, found an infinity "
        "in merged rows 4 to 5. The type is that of the first"
    )
    with pytest.raises(InputError, match=found):
        in_memory(Merge(method="linear"), 4, *given)
    assert in_memory(Merge(method="linear"), 4, *given[::-1])["up.weight"][5, 1] > 1e5
