"""Shapes, sizes and shares, as a config asks for them."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data import presets
from m3jax.data.batching import check_sizes, make_plan
from m3jax.data.config import DataConfig
from m3jax.data.plan import Plan, places
from m3jax.pipeline.stage import Train, steps_of
from tests.mixtures import build

ROWS = [
    {"query": "q" * (i % 3), "pos": ["salt " * (1 + i % 25)]} for i in range(1, 300)
]
LABELS = [{"text": f"t{i}", "label": f"l{i % 5}"} for i in range(60)]


def plan_of(
    folder: Path, *, multiple: int = 1, sizes: Any = None, **fields: Any
) -> Plan:
    rows = [row | {"query": f"{row['query']} {i}"} for i, row in enumerate(ROWS)]
    options = fields.pop("options", {})
    sets = {"a": rows} | ({"b": LABELS} if "b" in options else {})
    batcher = build(folder, sets, options=options)
    given: dict[str, Any] = {"batch_size": 8, "query_length": 24, "passage_length": 32}
    given |= fields
    config = DataConfig(**given)
    return make_plan(config, batcher.sets, seed=0, multiple=multiple, sizes=sizes)


def test_a_budget_of_tokens_gives_short_rows_larger_batches(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, batch_tokens=2_000, multiple=4, shapes=4)
    assert len(set(plan.sizes)) > 1
    for shape, size in zip(plan.shapes, plan.sizes, strict=True):
        assert size % 4 == 0
        assert size * shape.tokens(1) <= 2_000 < (size + 4) * shape.tokens(1)


def test_a_budget_that_is_too_small_still_fills_every_device(tmp_path: Path) -> None:
    assert set(plan_of(tmp_path, batch_tokens=10, multiple=8).sizes) == {8}


def test_buckets_have_the_sizes_that_are_given(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, buckets=(8, 16, 32), bucket_sizes=(16, 8, 4), multiple=4)
    assert [shape.passage_length for shape in plan.shapes] == [8, 16, 32]
    assert plan.sizes == (16, 8, 4)


def test_a_bucket_without_rows_is_left_out(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, buckets=(1, 8, 32), bucket_sizes=(16, 8, 4))
    assert plan.sizes == (8, 4)


def test_a_preset_is_rounded_up_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "BGE_M3_LENGTHS", (8, 16, 32))
    monkeypatch.setitem(presets.SIZES, "bge_m3_finetune", (20, 10, 5))
    plan = plan_of(tmp_path, preset="bge_m3_finetune", multiple=8)
    assert plan.sizes == (24, 16, 8)
    assert [shape.passage_length for shape in plan.shapes] == [8, 16, 32]
    assert (
        "bge_m3_finetune, sizes in multiples of 8: 24, 16, 8" in capsys.readouterr()[0]
    )


def test_sizes_of_a_preset_are_kept_where_the_devices_divide_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a run goes on with more devices, or fewer."""
    monkeypatch.setitem(presets.SIZES, "bge_m3_finetune", (20, 10, 5))
    monkeypatch.setattr(presets, "BGE_M3_LENGTHS", (8, 16, 32))
    preset: Any = {"preset": "bge_m3_finetune"}
    begun = plan_of(tmp_path, multiple=8, **preset).sizes
    assert begun == (24, 16, 8)
    for multiple, sizes in ((2, begun), (4, begun), (16, (32, 16, 16))):
        found = plan_of(tmp_path, multiple=multiple, sizes=begun, **preset)
        assert found.sizes == sizes
        told = ", ".join(map(str, sizes))
        assert f"in multiples of {multiple}: {told}\n" in capsys.readouterr().out
    # A size that is stated holds.
    assert plan_of(tmp_path, batch_size=4, sizes=(8,), shapes=1).sizes == (4,)


def test_bge_m3s_table_fits_the_devices() -> None:
    for sizes in presets.SIZES.values():
        assert len(sizes) == len(presets.BGE_M3_LENGTHS)
        fit = presets.rounded_up(sizes, 256)
        assert all(size % 256 == 0 for size in fit)
        assert all(0 <= one - size < 256 for one, size in zip(fit, sizes, strict=True))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 12}, "data.batch_size: expected a batch that 8 shards"),
        ({"batch_size": 0}, "data.batch_size: expected a batch"),
        (
            {"buckets": (8, 16), "bucket_sizes": (8, 12)},
            "data.bucket_sizes: expected a batch that 8 .*found 12. A multiple of 8",
        ),
        ({"buckets": (8, 16), "bucket_sizes": (8,)}, "a size for each of 2 buckets"),
        ({"bucket_sizes": (8,)}, "a size for each of 0 buckets"),
        ({"buckets": (16, 8)}, "data.buckets: expected ascending lengths, found 16, 8"),
        ({"buckets": (8, 8)}, "data.buckets: expected ascending lengths"),
        ({"preset": "bge_m3_finetune", "buckets": (8,)}, "buckets or a preset"),
    ],
)
def test_sizes_that_cannot_be(fields: Any, said: str) -> None:
    config = dataclasses.replace(DataConfig(batch_size=16), **fields)
    with pytest.raises(InputError, match=said):
        check_sizes(config, 8)
    check_sizes(DataConfig(batch_size=16), 8)
    check_sizes(DataConfig(batch_size=3, batch_tokens=99), 8)


def test_texts_longer_than_all_sized_buckets(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a bucket with its size for texts of 32 tok"):
        plan_of(tmp_path, buckets=(8, 16), bucket_sizes=(8, 8))


def shares(plan: Plan, steps: int) -> list[float]:
    part = places(plan.lasting(steps), 0, steps)[0]
    return [float((part == i).mean()) for i in range(len(plan.parts))]


def test_a_temperature_evens_data_sets_out(tmp_path: Path) -> None:
    options = {"a": {}, "b": {}}
    found = shares(plan_of(tmp_path, options=options, temperature=2.0), 400)
    rows = np.array([299, 60]) ** 0.5
    assert np.abs(found - rows / rows.sum()).max() < 1 / 400


def test_weights_are_shares_of_the_steps(tmp_path: Path) -> None:
    options = {"a": {"weight": 1}, "b": {"weight": 4}}
    assert shares(plan_of(tmp_path, options=options), 100) == [0.2, 0.8]


@pytest.mark.parametrize(
    ("options", "fields", "said"),
    [
        ({"a": {"weight": 1}, "b": {}}, {}, "b: weight: expected a weight above 0"),
        ({"a": {"weight": 1}, "b": {"weight": 0}}, {}, "b: weight: .*found 0"),
        ({"a": {"weight": -1}, "b": {"weight": 1}}, {}, "a: weight: .*found -1"),
        (
            {"a": {"weight": 1}, "b": {"weight": 1}},
            {"temperature": 2.0},
            "data.temperature: expected weights or a temperature, found both",
        ),
    ],
)
def test_shares_that_cannot_be(
    tmp_path: Path, options: Any, fields: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        plan_of(tmp_path, options=options, **fields)


def test_the_length_of_a_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    steps = plan.steps_per_epoch
    assert steps == 299 // 8
    assert steps_of(Train(steps=7), plan) == 7
    assert steps_of(Train(steps=7, epochs=2.0), plan) == 2 * steps
    assert steps_of(Train(epochs=1e-6), plan) == 1
    assert steps_of(Train(examples=81), plan) == 11
