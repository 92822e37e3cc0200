"""The program that converts: any layout in, the same numbers out."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import convert
from m3jax.core.errors import InputError
from m3jax.hub import folder, reranker
from m3jax.hub.kind import kind
from m3jax.inference.embedder import Embedder

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, words)])
        convert.main()
        return capsys.readouterr().out

    return call


def same(left: Any, right: Any) -> bool:
    import jax

    equal = jax.tree.map(lambda a, b: bool((a == b).all()), left, right)
    return jax.tree.all(equal)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", "embedding"),
        ("m3", "embedding"),
        ("qwen2", "embedding"),
        ("qwen3", "embedding"),
        ("simcse", "embedding"),
        ("roberta", "embedding"),
        ("reranker_bert", "reranker"),
        ("reranker_xlmr", "reranker"),
        ("reranker_qwen3", "reranker"),
        ("reranker_qwen3_untied", "reranker"),
    ],
)
def test_every_layout_goes_in_and_comes_out(
    tmp_path: Path, call: Any, name: str, expected: str
) -> None:
    out = tmp_path / "out"
    assert kind(GOLDEN / name) == expected
    said = call(GOLDEN / name, out)
    opened = reranker if expected == "reranker" else folder
    before, after = opened.load(GOLDEN / name), opened.load(out)
    assert before.config == after.config
    assert before.max_length == after.max_length
    assert same(before.params, after.params)
    assert said.startswith(f"{expected} model, ")
    assert f"{(out / 'config.json').stat().st_size:,}  config.json" in said
    assert ("BGEM3FlagModel" in said) == (name == "m3")
    loader = "Reranker" if expected == "reranker" else "Embedder"
    assert f"m3jax: m3jax.{loader}.load({str(out)!r})" in said
    assert kind(out) == expected


def test_a_name_of_the_zoo_decides_without_files() -> None:
    assert kind("Qwen/Qwen3-Reranker-0.6B") == "reranker"
    assert kind("Qwen/Qwen3-Embedding-0.6B") == "embedding"


def test_dtype_and_pooling(tmp_path: Path, call: Any) -> None:
    out = tmp_path / "out"
    call(GOLDEN / "bert", out, "--dtype", "bfloat16", "--pooling", "cls")
    written = folder.load(out)
    assert written.config.pooling == "cls"
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    size = (GOLDEN / "bert" / "model.safetensors").stat().st_size
    assert (out / "model.safetensors").stat().st_size < 0.6 * size


def test_longer_positions_are_told_in_the_card(tmp_path: Path, call: Any) -> None:
    out = tmp_path / "out"
    said = call(
        GOLDEN / "m3", out, "--max-positions", 700, "--position-init", "interpolate"
    )
    for text in (said, (out / "README.md").read_text()):
        assert "extended to 700 (interpolate); how BGE-M3 got its own is not" in text
    assert folder.load(out).params["encoder"]["position"]["embedding"].shape[0] == 700
    assert Embedder.load(out).max_length == 698
    table = folder.load(GOLDEN / "m3").params["encoder"]["position"]["embedding"]
    np.testing.assert_array_equal(
        folder.load(out).params["encoder"]["position"]["embedding"][:2], table[:2]
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none", "OUT"], "none: expected a local folder, or a hub id"),
        (["bert", "bert"], "OUTPUT: expected another folder than the input"),
        (["bert", "OUT", "--max-positions", "900"], "found only one of them"),
        (["reranker_bert", "OUT", "--pooling", "cls"], "--pooling: expected an embed"),
        (["reranker_bert", "OUT", "--kind", "embedding"], "found a reranker"),
        (["bert", "OUT", "--kind", "reranker"], "m3jax.Embedder opens embedding"),
        (["bert", "MINE"], "expected a new or empty folder, or an earlier export"),
        (["bert"], "OUTPUT"),
    ],
)
def test_errors(tmp_path: Path, call: Any, words: list[str], message: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    places = {"OUT": tmp_path / "out", "MINE": tmp_path / "mine"}
    places |= {name: GOLDEN / name for name in ("bert", "reranker_bert")}
    with pytest.raises(InputError) as error:
        call(*(places.get(word, word) for word in words))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
