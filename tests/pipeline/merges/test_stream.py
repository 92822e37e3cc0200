"""Files merged block by block are what trees are in memory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import merging
from m3jax.core import tree
from m3jax.hub import folder, reranker
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.run import opened, write
from tests.pipeline.merges import models

W = (0.2, 0.3, 0.5)
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "slerp": ({"t": 0.3}, lambda m: merging.slerp(m[0], m[1], 0.3)),
    "slerp, tree": (
        {"t": 0.3, "per": "tree"},
        lambda m: merging.slerp(m[0], m[1], 0.3, per="tree"),
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


@pytest.mark.parametrize("block", [0, 100])
@pytest.mark.parametrize("name", CASES)
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
        *("bert", "qwen3", "simcse"),
        *("reranker_bert", "reranker_xlmr", "reranker_qwen3_untied"),
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
