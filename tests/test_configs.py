"""Every config: made at every size, checked, its step traced, its smoke size run."""

import dataclasses
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import train
from m3jax.core import cli
from m3jax.core import config as configs
from m3jax.core.mesh import batch_shards, make_mesh
from m3jax.data import batching, presets
from m3jax.data.prompts import Prompts
from m3jax.data.training_sets import datasets, query_prompts
from m3jax.data.words import stand_in
from m3jax.nn import zoo
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline import flags, smoke, topology, trained
from m3jax.pipeline import stages as pipeline_stages
from m3jax.pipeline.build import build
from m3jax.pipeline.origin import Origin
from m3jax.pipeline.recipes import stages_of
from m3jax.pipeline.stage import SCRATCH, Train
from m3jax.pipeline.stages import ONLY, check_names, resolve
from m3jax.training.abstract import abstract_batch, lengths_read
from m3jax.training.optimizer import check_optimizer
from m3jax.training.writer import read

ROOT = Path(__file__).parent.parent
FILES = {
    str(path.relative_to(ROOT / "configs")): path
    for path in sorted((ROOT / "configs").rglob("*.py"))
}
SIZES = {name: configs.sizes_of(configs.load(path)) for name, path in FILES.items()}
EVERY = [(name, size) for name, sizes in SIZES.items() for size in sizes]
# Configs of models that start from nothing.
OURS = ("quickstart.py", "pairs.py", "mixture.py")
# Tracing takes seconds: the others are slow.
QUICK = [("qwen3/embedding_stage2.py", "8B"), ("simcse/supervised.py", "base")]


def make(name: str, size: str) -> dict[str, Train]:
    """What the programs make of a config, without its flags."""
    function = configs.load(FILES[name])
    made = configs.call(function, size=size, where=name)
    stages = made if isinstance(made, dict) else {ONLY: made}
    check_names(stages, where=name)
    return stages


def known(stage: Train) -> Origin | None:
    """The model that a stage goes on from, out of the table and not of the hub."""
    if stage.init in (None, SCRATCH):
        return None
    assert stage.init is not None
    nothing: Any = None
    if recipe := stages_of(stage.init, ROOT / "configs/a.py"):
        (one,) = resolve(recipe[1], Path("no run"))
        return Origin(one.stage.model, one.stage.data.prompts, nothing, nothing)
    if stage.init in zoo.ZOO:
        found = zoo.find(stage.init)
        prompts = Prompts(found.query, found.passage, found.task)
        return Origin(found.config, prompts, nothing, nothing)
    # A language model alone: how its states become a vector or a score, we say.
    encoder = zoo.find_encoder(stage.init)
    model: Any = (
        EmbeddingConfig(encoder, stage.model.pooling)
        if isinstance(stage.model, EmbeddingConfig)
        else dataclasses.replace(stage.model, encoder=encoder)
    )
    return Origin(model, Prompts(), nothing, nothing)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_stages, "open_origin", known)
    monkeypatch.delenv(smoke.VARIABLE, raising=False)


def trace(stage: Train) -> dict[str, Any]:
    """Shapes of what a step tells; no array is made."""
    mesh = make_mesh(stage.mesh)
    words = stand_in(stage.model.encoder.vocab_size)
    built = build(stage, mesh, words, stage.steps)
    shapes = jax.eval_shape(lambda: built.start(jax.random.key(0), None))
    check_optimizer(shapes, trained.optimizer(stage))
    data, multiple = stage.data, batch_shards(mesh) * stage.sub_batches.count
    batching.check_sizes(data, multiple)
    rows, most = data.batch_size, [one.negatives for one in datasets(data)]
    group = 1 + max(data.negatives if own is None else own for own in most)
    if data.preset:  # the longest texts, of which fewest go into a batch
        rows = presets.rounded_up(presets.SIZES[data.preset], multiple)[-1]
    lengths = lengths_read(
        built.objective.reads, data.query_length, data.passage_length
    )
    if "pair_length" in lengths:
        lengths["pair_length"] = data.pair_length
    scored = any(one.teacher_scores for one in datasets(data))
    batch = abstract_batch(mesh, rows, group, teacher_scores=scored, **lengths)
    return jax.eval_shape(built.step, built.like, batch)[1]


@pytest.mark.parametrize(("name", "size"), EVERY)
@pytest.mark.usefixtures("offline")
def test_every_size_is_checked(name: str, size: str) -> None:
    """`resolve` checks it; data need not be there, and no weights are fetched."""
    for one in resolve(make(name, size), Path("no run")):
        stage = one.stage
        for dataset in datasets(stage.data):
            assert query_prompts(dataset, stage.data)
        multiple = batch_shards(make_mesh(stage.mesh)) * stage.sub_batches.count
        batching.check_sizes(stage.data, multiple)
        if name in OURS or size == "smoke":
            assert one.origin is None
        else:
            encoder = stage.model.encoder
            assert (encoder.dtype, encoder.remat) == ("bfloat16", "full")
            assert one.origin is not None or one.parent is not None


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in EVERY
    ],
)
@pytest.mark.usefixtures("offline")
def test_every_size_makes_a_step(name: str, size: str) -> None:
    for one in resolve(make(name, size), Path("no run")):
        told = trace(one.stage)
        assert told["loss"].shape == () and told["loss"].dtype == np.float32


@pytest.mark.slow  # `benchmarks.pods` compiles the sizes that are published
@pytest.mark.parametrize("name", FILES)
def test_every_config_compiles_for_a_slice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a TPU, at its smoke size."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # of other workers
    monkeypatch.delenv(smoke.VARIABLE, raising=False)
    for stage in topology.in_shape(make(name, "smoke"), FILES[name]).values():
        reports = topology.check_topology(stage, "v5e:2x4")
        assert reports and all(one.fits and one.chips == 8 for one in reports)


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_tells_what_one_has_to_know(name: str) -> None:
    """Commands that parse, hardware, data and all sizes."""
    text = str(compile(FILES[name].read_text(), name, "exec").co_consts[0])
    commands = re.findall(r"^    .*python -m .*(?:\n {8}.*)*", text, re.MULTILINE)
    found = [shlex.split(re.sub(r"\\\n", " ", command)) for command in commands]
    of_train = [words for words in found if "m3jax.train" in words]
    assert len(of_train) == 1
    words = of_train[0][of_train[0].index("m3jax.train") + 1 :]
    at = words.index("--config") + 1
    assert words[at] == f"configs/{name}"
    words[at] = str(FILES[name])
    program, stages, run = flags.parse(train.Program, words, prog="", description="")
    default = (
        program.size
        or inspect.signature(configs.load(FILES[name])).parameters["size"].default
    )
    # No two configs have one run folder.
    assert run.startswith(name.removesuffix(".py").replace("/", "-"))
    assert set(stages) == set(make(name, default))
    assert re.search(r"^Hardware: ", text, re.MULTILINE)
    assert re.search(r"^Data: ", text, re.MULTILINE)
    last = text[text.index("\nSizes: ") :]
    assert SIZES[name][-1] == "smoke"
    assert all(size in last for size in SIZES[name])


@pytest.mark.slow  # most of it compiles: one minute each, four stages take more
@pytest.mark.parametrize("name", FILES)
def test_the_smoke_size_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the built-in set: a model comes out, and something has moved."""
    monkeypatch.delenv(smoke.VARIABLE, raising=False)
    stages = make(name, "smoke")
    words = ["--config", str(FILES[name]), "--size", "smoke", "--run-dir"]
    monkeypatch.setattr(sys, "argv", ["train", *words, str(tmp_path / "run")])
    cli.run(train.main)
    assert (tmp_path / "run/model/config.json").is_file()
    for stage in stages:
        logs = tmp_path / "run" / ("" if len(stages) == 1 else stage)
        told = [x for x in read(logs) if "loss" in x]
        assert 10 <= len(told) <= 20
        assert all(np.isfinite(x["loss"]) for x in told)
        assert any(x["gradient_norm"] > 0 for x in told)


def test_real_text_is_found_where_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(smoke.VARIABLE, str(tmp_path))
    assert smoke.at_hand("nli/train.jsonl") == "builtin"
    (tmp_path / "rows.jsonl").write_text("")
    assert smoke.at_hand("rows.jsonl") == str(tmp_path / "rows.jsonl")
    monkeypatch.setenv(smoke.VARIABLE, "")
    assert smoke.at_hand("rows.jsonl") == "builtin"


def test_two_recipes_of_one_name_have_two_runs() -> None:
    names = [flags.config_name(path) for path in FILES.values()]
    assert len(set(names)) == len(names) and "bge_m3-finetune" in names
    assert flags.config_name("elsewhere/configs/e5/a.py") == "e5-a"
