"""What a training that goes on from a model refuses before it writes anything."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.plan import make_plan
from m3jax.data.prompts import Prompts
from m3jax.data.shapes import Lengths, Shape
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.nn.lora import LoraConfig
from m3jax.nn.reranker import RerankerConfig
from m3jax.pipeline import trained
from m3jax.pipeline.fit import by_devices, check_plan, planned
from m3jax.pipeline.origin import in_shape_of, open_origin, overruled
from m3jax.pipeline.stage import Train
from m3jax.pipeline.stages import resolve
from m3jax.pipeline.train import _open, run_stages
from m3jax.testing import tiny_config, write_jsonl
from m3jax.training.objectives import (
    MaskedLMConfig,
    MomentumConfig,
    RerankingConfig,
)
from m3jax.training.objectives.unified import UnifiedConfig
from m3jax.training.optimizer import OptimizerConfig, moving
from m3jax.training.state import starting
from tests.mixtures import write_beir

GOLDEN = Path(__file__).parent.parent / "golden"
STAGE = Train(
    init=str(GOLDEN / "bert"),
    data=DataConfig(
        train="builtin", batch_size=8, query_length=16, passage_length=64, buckets=(64,)
    ),
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tokenizer": TokenizerConfig(pretrained=str(GOLDEN / "m3"))},
            "expected the tokenizer of the model to go on from",
        ),
        (
            {"data": dataclasses.replace(STAGE.data, passage_length=65)},
            "expected at most 64 tokens",
        ),
        ({"lora": LoraConfig(rank=2, targets="nothing")}, "lora.targets"),
        ({"optimizer": OptimizerConfig(trainable="^sparse")}, "optimizer.trainable"),
        ({"init": str(GOLDEN / "reranker_xlmr")}, "found a reranker"),
        (
            {"model": RerankerConfig(), "objective": RerankingConfig()},
            "data.pair_length: expected at most 64 tokens",
        ),
    ],
)
def test_refused(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        run_stages({"train": dataclasses.replace(STAGE, **changes)}, tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"clip_norm": -1.0}, "optimizer.clip_norm: expected above 0, found -1"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay: expected 0 or more"),
        ({"b1": 2.0}, "optimizer.b1: expected a share"),
        ({"warmup_steps": 5_000}, "optimizer.warmup_steps: expected at most steps="),
    ],
)
def test_numbers_that_nobody_means(changes: Any, said: str, tmp_path: Path) -> None:
    moves = dataclasses.replace(STAGE.optimizer, **changes)
    with pytest.raises(InputError) as error:
        run_stages({"train": dataclasses.replace(STAGE, optimizer=moves)}, tmp_path)
    assert said in str(error.value)


def test_a_trace_of_steps_that_there_are_not(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, steps=4)
    with pytest.raises(InputError, match="--profile: expected some of the steps 1 to"):
        run_stages({"train": stage}, tmp_path / "run", profile=(5, 9))
    assert not (tmp_path / "run").exists()


def test_a_stage_is_named_where_there_are_several(tmp_path: Path) -> None:
    lora = dataclasses.replace(STAGE, lora=LoraConfig(rank=2, targets="nothing"))
    with pytest.raises(InputError, match=r"^second: lora\.targets: expected"):
        run_stages({"first": STAGE, "second": lora}, tmp_path / "run")


def test_a_reranker_takes_the_encoder_of_an_embedding_model() -> None:
    """No heads, which it has no place for, and no prompts, which are not its own."""
    stage = dataclasses.replace(
        STAGE,
        init=str(GOLDEN / "m3"),
        model=RerankerConfig(),
        objective=RerankingConfig(),
    )
    origin = open_origin(stage)
    assert origin is not None and origin.prompts == Prompts()
    assert set(origin.read(make_mesh(MeshConfig()))) == {"encoder"}
    before = EmbeddingConfig(origin.config.encoder)
    after = in_shape_of(stage, before, Prompts("query: ", "passage: "))
    assert after.data.prompts == Prompts()


def test_what_a_config_says_in_vain_is_told() -> None:
    """Of a model to go on from; what is left at its default was not said."""
    origin = open_origin(STAGE)
    assert origin is not None
    has = origin.config
    assert isinstance(has, EmbeddingConfig)
    for model, said in (
        (EmbeddingConfig(), []),
        (tiny_config(hidden=256, layers=has.encoder.layers), ["hidden"]),
        (EmbeddingConfig(pooling="last", sparse=True, multivec=4), ["pooling"]),
    ):
        asked = dataclasses.replace(STAGE, model=model)
        told = overruled(asked, in_shape_of(asked, has, Prompts()))
        names = [line.split()[0] for line in told]
        assert set(said) <= set(names)
        assert all("and not" in line for line in told)
        assert not {"dtype", "remat", "dropout", "sparse", "multivec"} & set(names)
    assert names == ["pooling"]


def test_dropout_of_the_stage_holds(tmp_path: Path) -> None:
    """Also of a model to go on from; without it that model's own."""

    def dropped(**changes: Any) -> list[float]:
        first, second = (
            dataclasses.replace(STAGE, **changes),
            Train(data=STAGE.data, dropout=0.2),
        )
        found = resolve({"first": first, "second": second}, tmp_path)
        encoders = [one.stage.model.encoder for one in found]
        assert all(isinstance(x, BertConfig) for x in encoders)
        return [x.dropout for x in encoders if isinstance(x, BertConfig)]

    assert dropped() == [0.1, 0.2]
    assert dropped(dropout=0.0) == [0.0, 0.2]
    with pytest.raises(InputError, match=r"first: model\.encoder\.dropout: expected"):
        dropped(dropout=1.0)
    with pytest.raises(InputError, match="dropout: expected none, because a Qwen"):
        dropped(init=str(GOLDEN / "qwen3"), dropout=0.1)


@pytest.mark.parametrize("given", [True, False])
def test_a_run_tells_what_it_is_measured_on_and_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: bool
) -> None:
    """Beside the built-in set too; passages of a set that is held out may be shared."""
    rows = [{"query": f"queries {i % 2}", "pos": [f"corpus {i}"]} for i in range(2)] + [
        {"query": f"other {i}", "pos": [f"corpus {i % 2}"]} for i in range(200)
    ]
    file = str(write_jsonl(tmp_path / "rows.jsonl", rows))
    beir = str(write_beir(tmp_path / "beir"))
    mixture = (Dataset(file, name="rows"), Dataset("builtin", name="shipped"))
    sets = {"mixture": mixture, "dev": beir if given else None, "test": beir}
    data = dataclasses.replace(STAGE.data, **sets)
    stage = dataclasses.replace(STAGE, data=data)
    (one,) = resolve({"train": stage}, tmp_path / "run")
    _open(one)
    said = capsys.readouterr().err.splitlines()
    told = [line.split(":")[1] for line in said if line.startswith("warning")]
    words = " 2 of 2 {} queries are also training queries"
    names = ["dev", "test"] if given else ["test"]
    assert told == [words.format(name) for name in names]


def test_masked_words_need_a_mask(tmp_path: Path) -> None:
    masked = Train(
        data=STAGE.data,
        model=tiny_config(layers=1, max_positions=64),
        objective=MaskedLMConfig(),
    )
    with pytest.raises(InputError, match=r"tokenizer\.mask: expected True, because"):
        run_stages({"train": masked}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def rows(folder: Path, *keys: str) -> str:
    path = folder / "rows.jsonl"
    values = ["salt", "sea", 3.0]
    lines = [json.dumps(dict(zip(keys, values, strict=False))) for _ in range(9)]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize(
    ("keys", "options", "said"),
    [
        (("sentence1", "sentence2", "score"), {}, "found graded pairs"),
        (("query", "positive"), {"teacher_scores": True}, "row 0: expected pos_scores"),
        (("query", "positive"), {"prompts": ("a " * 99,)}, "query_length: expected"),
        (("query", "positive"), {"passage_length": 999}, "at most 64 tokens"),
    ],
)
def test_data_that_the_stage_cannot_take(
    tmp_path: Path, keys: Any, options: Any, said: str
) -> None:
    one = Dataset(rows(tmp_path, *keys), **options)
    data = dataclasses.replace(
        STAGE.data, train="builtin", mixture=(one,), dev="builtin", batch_size=8
    )
    stage = dataclasses.replace(STAGE, data=data, objective=MomentumConfig(queue=64))
    with pytest.raises(InputError, match=said):
        run_stages({"train": stage}, tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.*held out")
def test_patience_needs_a_dev_set(tmp_path: Path) -> None:
    """Told before anything is trained: graded pairs cannot be held out."""
    graded = rows(tmp_path, "sentence1", "sentence2", "score")
    data = dataclasses.replace(STAGE.data, train=graded)
    late = dataclasses.replace(STAGE, init=None, data=data, patience=2)
    with pytest.raises(InputError, match="late: patience: expected a dev set"):
        run_stages({"first": STAGE, "late": late}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_more_warm_up_than_updates(tmp_path: Path) -> None:
    optimizer = OptimizerConfig(warmup_steps=10_000)
    stage = dataclasses.replace(STAGE, optimizer=optimizer, epochs=1.0)
    with pytest.raises(InputError, match=r"warmup_steps: expected at most the \d+ upd"):
        run_stages({"train": stage}, tmp_path / "run")


@pytest.mark.parametrize("objective", [RerankingConfig(), UnifiedConfig()])
def test_with_low_rank_pairs_new_heads_are_trained(objective: Any) -> None:
    encoder = tiny_config(layers=1).encoder
    model: Any = RerankerConfig(encoder)
    if isinstance(objective, UnifiedConfig):
        model = EmbeddingConfig(encoder, sparse=True, multivec=8)
    stage = Train(model=model, objective=objective, lora=LoraConfig(rank=2))
    start = starting(trained.module(stage), trained.pairs(stage))
    shapes = jax.eval_shape(lambda: start(jax.random.key(0), None))
    moves = tree.paths(moving(shapes, trained.trainable(stage)))
    for name, moved in moves.items():
        pair = name.endswith(("lora_a", "lora_b"))
        assert moved == (pair or not name.startswith("encoder.")), name
    assert any(not name.startswith("encoder.") for name in moves)


def test_a_run_goes_on_with_the_batches_it_began_with(tmp_path: Path) -> None:
    plans = []
    for size in (4, 8):
        lengths = Lengths(np.full(9, 3), np.full(9, 3))
        plans.append(make_plan([lengths], shapes=[Shape(3, 3)], sizes=[size], seed=0))
    path = tmp_path / "plan.json"
    assert planned(path) == {}
    for _ in range(2):
        check_plan(path, plans[0], {})
        assert planned(path)["sizes"] == [4]
    with pytest.raises(InputError, match=r"a change of sizes: .4. -> .8.\. Sizes of"):
        check_plan(path, plans[1], {})


def test_a_loss_that_goes_by_the_devices_keeps_their_number(tmp_path: Path) -> None:
    lengths = Lengths(np.full(9, 3), np.full(9, 3))
    plan = make_plan([lengths], shapes=[Shape(3, 3)], sizes=[4], seed=0)
    meshes = [make_mesh(MeshConfig(), jax.devices()[:n]) for n in (4, 2)]
    for compat in ("none", "flagembedding"):
        stage = dataclasses.replace(STAGE, objective=UnifiedConfig(compat=compat))
        path = tmp_path / compat
        check_plan(path, plan, by_devices(stage, meshes[0]))
        if compat == "none":
            check_plan(path, plan, by_devices(stage, meshes[1]))
    with pytest.raises(InputError, match=r"compat flagembedding: 4 -> 2"):
        check_plan(path, plan, by_devices(stage, meshes[1]))


def test_a_prompt_leaves_room_for_the_query(tmp_path: Path) -> None:
    stage = dataclasses.replace(STAGE, init=str(GOLDEN / "qwen3"))
    with pytest.raises(InputError, match=r"tokens of the query prompt, found 16"):
        run_stages({"train": stage}, tmp_path / "run")
