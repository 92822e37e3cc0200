"""Longer tables of positions, against numpy written another way."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.hub.folder import load, save
from m3jax.hub.positions import extend

M3 = Path(__file__).parent.parent / "golden" / "m3"
TEXTS = ["the cell", "", "a"]
LONG = "the unit of life is a cell, and what is life? " * 80  # more than 600 tokens


@pytest.mark.parametrize("rows", [514, 515, 600, 1_026, 1_538, 8_194])
@pytest.mark.parametrize("how", ["tile", "interpolate"])
def test_xlm_rs_514_rows(how, rows) -> None:
    table = np.random.default_rng(0).normal(size=(514, 3)).astype(np.float32)
    found = extend(table, rows, first=2, how=how)
    assert (found.shape, found.dtype) == ((rows, 3), np.float32)
    np.testing.assert_array_equal(found[:2], table[:2])
    old, new = table[2:], found[2:]
    if how == "tile":
        expected = np.concatenate([old] * 16)[: len(new)]
        np.testing.assert_array_equal(new, expected)
        np.testing.assert_array_equal(found[:514], table)
    else:
        at = np.arange(len(new)) * 511 / (len(new) - 1)
        columns = [np.interp(at, np.arange(512), column) for column in old.T]
        np.testing.assert_allclose(new, np.stack(columns, axis=1), atol=1e-5)
        np.testing.assert_array_equal(new[[0, -1]], old[[0, -1]])


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        (513, "tile", "max_positions: expected at least the 514 rows that there are"),
        (600, "repeat", "position_init: expected tile or interpolate, found 'repeat'"),
    ],
)
def test_errors(rows, how, message) -> None:
    with pytest.raises(InputError, match=message):
        extend(np.ones((514, 3), np.float32), rows, first=2, how=how)


def test_short_texts_stay_and_long_ones_are_taken(tmp_path) -> None:
    short = m3jax.Embedder.load(M3)
    model = m3jax.Embedder.load(M3, max_positions=1_202, position_init="tile")
    assert (short.max_length, model.max_length) == (512, 1_200)
    assert model.module.config.encoder.max_positions == 1_202
    expected = short.encode_passage(TEXTS, max_length=16).dense
    found = model.encode_passage(TEXTS, max_length=16).dense
    np.testing.assert_array_equal(found, expected)
    # No warning: nothing is cut. Beyond the old rows, words still count.
    ends = [LONG[:1_500] + end for end in (" zebra quiz", " unit of life")]
    rows: Any = model.encode_passage(ends).dense
    assert len(model.tokenizer.backend.encode(ends[0]).ids) > 602
    assert np.abs(rows[0] - rows[1]).max() > 1e-4
    model.save(tmp_path / "model")
    again = m3jax.Embedder.load(tmp_path / "model")
    assert (again.max_length, again.module.config) == (1_200, model.module.config)
    np.testing.assert_array_equal(again.encode_passage(ends).dense, rows)


def test_interpolation_changes_all_but_the_ends(tmp_path) -> None:
    before = load(M3).params["encoder"]["position"]["embedding"]
    model = load(M3, max_positions=1_000, position_init="interpolate")
    after = model.params["encoder"]["position"]["embedding"]
    np.testing.assert_array_equal(
        after, extend(before, 1_000, first=2, how="interpolate")
    )
    save(model, tmp_path / "model")
    found = load(tmp_path / "model").params["encoder"]["position"]["embedding"]
    np.testing.assert_array_equal(found, after)


def test_on_a_mesh() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    model = load(M3, to=mesh, max_positions=900, position_init="tile")
    host = load(M3, max_positions=900, position_init="tile")
    table = model.params["encoder"]["position"]["embedding"]
    assert table.sharding.shard_shape(table.shape) == (900, 4)
    expected = host.params["encoder"]["position"]["embedding"]
    np.testing.assert_array_equal(table, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m3", {"max_positions": 1_000}),
        ("m3", {"position_init": "tile"}),
        ("qwen3", {"max_positions": 1_000, "position_init": "tile"}),
    ],
)
def test_both_belong_together(name, options, tmp_path) -> None:
    shutil.copytree(M3.parent / name, tmp_path / name)
    with pytest.raises(InputError, match="max_positions and position_init, for a mod"):
        load(tmp_path / name, **options)
